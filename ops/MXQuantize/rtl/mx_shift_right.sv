// Right shift that keeps the low bits of the result and tells whether a bit fell out.
//
// Equation:  data_o = (data_i >> shift_i) mod 2**Kept, sticky_o = data_i mod 2**shift_i != 0.
// Latency:   0 (combinational).
// Rounding:  none; the caller rounds with sticky_o.
// Style:     by two bits of the shift at a time, the highest first: each bit is one LUT6 of four choices, and each
//            level leaves fewer bits for the next.
module mx_shift_right #(
  parameter int Width     = 32,
  parameter int Kept      = 8,
  parameter int ShiftBits = 5
) (
  input  logic [Width-1:0]     data_i,
  input  logic [ShiftBits-1:0] shift_i,
  output logic [Kept-1:0]      data_o,
  output logic                 sticky_o
);

  if (Width < 1 || Kept < 1 || ShiftBits < 1 || ShiftBits > 8) begin : g_check
    $error("mx_shift_right: Width = %0d, Kept = %0d, ShiftBits = %0d; expected positive ones, 8 at most", Width, Kept,
           ShiftBits);
  end

  localparam int Levels = mx_pkg::ceil_div(ShiftBits, 2);
  localparam int Odd    = ShiftBits % 2;
  localparam int Most   = (Width > Kept) ? Width : Kept;

  logic [2*Levels-1:0] shift;
  logic [Levels:0]     sticky;
  assign shift = (2 * Levels)'(shift_i) << Odd;  // of an odd number of bits, the last level has one

  // Level l shifts by multiples of Step; above it, the bits that can still reach the result.
  for (genvar l = Levels; l >= 0; l--) begin : g_level
    localparam int Step  = (l == 0) ? 1 : 1 << (2 * l - Odd);
    localparam int Reach = Kept + Step - 1;
    localparam int Bits  = (Reach < Most) ? Reach : Most;
    logic [Bits-1:0] data;

    if (l == Levels) begin : g_in
      assign data      = Bits'(data_i);
      assign sticky[l] = 1'b0;
    end else begin : g_shift
      logic [1:0] by;
      logic [2:0] lost;

      if (Odd == 1 && l == 0) begin : g_one_bit
        assign by   = {1'b0, shift[1]};
        assign lost = {2'b00, g_level[l+1].data[0]};
      end else begin : g_two_bits
        logic [3*Step-1:0] low;
        assign by   = shift[2*l+:2];
        assign low  = (3 * Step)'(g_level[l+1].data);
        assign lost = {|low[2*Step+:Step], |low[Step+:Step], |low[0+:Step]};
      end
      assign data      = Bits'(g_level[l+1].data >> (Step * int'(by)));
      assign sticky[l] = sticky[l+1] || (by != 2'd0 && lost[0]) || (by[1] && lost[1]) || (by == 2'd3 && lost[2]);
    end
  end

  assign data_o   = g_level[0].data;
  assign sticky_o = sticky[0];

endmodule
