// Right shift that keeps the low bits of the result and tells whether a bit fell out.
//
// Equation:  by = shift_i * Unit: data_o = (data_i >> by) mod 2**Kept, sticky_o = data_i mod 2**by != 0.
// Latency:   0 (combinational).
// Rounding:  none; the caller rounds with sticky_o.
// Style:     by two bits of the shift at a time, the highest first: each bit is one LUT6 of four choices, by name where
//            there are several levels (alone, it merges with what follows), and each level leaves fewer bits for the
//            next. What falls out is looked at by fours: a LUT6 takes two bits of the shift and four that fall out
//            together; many of these are or-ed by a carry chain.
module mx_shift_right #(
  parameter int Width     = 32,
  parameter int Kept      = 8,
  parameter int ShiftBits = 5,
  parameter int Unit      = 1   // of the shift, a power of two
) (
  input  logic [Width-1:0]     data_i,
  input  logic [ShiftBits-1:0] shift_i,
  output logic [Kept-1:0]      data_o,
  output logic                 sticky_o
);

  if (Width < 1 || Kept < 1 || ShiftBits < 1 || ShiftBits > 8 || Unit < 1 ||
      (Unit & (Unit - 1)) != 0) begin : g_check
    $error("mx_shift_right: Width = %0d, Kept = %0d, ShiftBits = %0d, Unit = %0d; expected %s", Width, Kept, ShiftBits,
           Unit, "positive ones, 8 bits of a shift at most, Unit a power of two");
  end

  localparam int Levels = mx_pkg::ceil_div(ShiftBits, 2);
  localparam int Odd    = ShiftBits % 2;
  localparam int Most   = (Width > Kept) ? Width : Kept;

  // LUTs that look at what level l drops, three for each four bits of its step, and those of the levels above it.
  function automatic int step_of(int l);
    return (l == 0) ? Unit : Unit << (2 * l - Odd);
  endfunction

  function automatic int first_of(int l);
    int sum;
    sum = 0;
    for (int i = l + 1; i < Levels; i++) sum = sum + 3 * mx_pkg::ceil_div(step_of(i), 4);
    return sum;
  endfunction

  localparam int Looks = first_of(-1);

  // Two bits choose one of the four below them: two bits of a shift one bit, or one of them the lower (0) or the upper
  // (1) of two pairs, by which both bits are made.
  function automatic logic [63:0] choice();
    logic [63:0] entries;
    for (int i = 0; i < 64; i++) entries[i] = i[{3'b000, i[5:4]}];
    return entries;
  endfunction

  logic [2*Levels-1:0] shift;
  logic [Looks-1:0]    lost;
  assign shift = (2 * Levels)'(shift_i) << Odd;  // of an odd number of bits, the last level has one

  // Level l shifts by multiples of Step; above it, the bits that can still reach the result.
  for (genvar l = Levels; l >= 0; l--) begin : g_level
    localparam int Step  = step_of(l);
    localparam int Reach = Kept + Step - Unit;
    localparam int Bits  = (Reach < Most) ? Reach : Most;
    logic [Bits-1:0] data;

    if (l == Levels) begin : g_in
      assign data = Bits'(data_i);
    end else begin : g_shift
      localparam bit One   = Odd == 1 && l == 0;  // bit of the shift
      localparam int Parts = mx_pkg::ceil_div(Step, 4);
      logic [1:0]          by;
      logic [12*Parts-1:0] low;  // what a shift by 1, 2 and 3 steps drops, in turn

      assign by = One ? {1'b0, shift[1]} : shift[2*l+:2];
      for (genvar i = 0; i < 3; i++) begin : g_lost
        assign low[4*Parts*i+:4*Parts] = (4 * Parts)'(Step'((Bits + 4 * Step)'(g_level[l+1].data) >> (Step * i)));
        for (genvar j = 0; j < Parts; j++) begin : g_four
          assign lost[first_of(l)+Parts*i+j] = int'(by) > i && low[4*(Parts*i+j)+:4] != '0;
        end
      end
      if (Levels == 1) begin : g_alone
        assign data = Bits'(g_level[l+1].data >> (Step * int'(by)));
      end else if (One) begin : g_two
        for (genvar i = 0; i < Bits; i += 2) begin : g_pair
          logic [Step+1:0] from;
          logic [1:0]      pair;
          assign from = (Step + 2)'(g_level[l+1].data >> i);
          mx_lut #(.Init(choice())) u_lut (
            .bits_i({1'b1, by[0], from[Step+1], from[1], from[Step], from[0]}), .six_o(pair[1]), .five_o(pair[0])
          );
          assign data[i] = pair[0];
          if (i + 1 < Bits) begin : g_upper
            assign data[i+1] = pair[1];
          end else begin : g_single
            logic unused;
            assign unused = pair[1];
          end
        end
      end else begin : g_four
        for (genvar i = 0; i < Bits; i++) begin : g_bit
          logic [3*Step:0] from;
          logic            unused;
          assign from = (3 * Step + 1)'(g_level[l+1].data >> i);
          mx_lut #(.Init(choice())) u_lut (
            .bits_i({by, from[3*Step], from[2*Step], from[Step], from[0]}), .six_o(data[i]), .five_o(unused)
          );
        end
      end
    end
  end

  assign data_o = g_level[0].data;

  if (Looks > 6) begin : g_chain
    logic [Looks-1:0] unused;
    mx_carry #(.Width(Looks)) u_any (
      .select_i(~lost), .data_i('1), .carry_i(1'b0), .sum_o(unused), .carry_o(sticky_o)
    );
  end else begin : g_any
    assign sticky_o = lost != '0;
  end

endmodule
