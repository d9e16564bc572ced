// Product of two mantissas of minifloats, in LUTs.
//
// Equation:  prod_o = a_i * w_i, unsigned, exact.
// Latency:   0 (combinational).
// Styles:    up to six bits in all, a table of one LUT6 per bit; 4 x 4 bits, a table of the three fraction bits
//            and the two products with a leading bit, which the carry chains take (13 LUTs); 4 x 3 bits, a table
//            of 4 x 2 and the rest (10); wider ones row by row.
module mx_mantissa_mul #(
  parameter int ABits = 4,
  parameter int WBits = 4
) (
  input  logic [ABits-1:0]       a_i,
  input  logic [WBits-1:0]       w_i,
  output logic [ABits+WBits-1:0] prod_o
);

  if (ABits < 1 || WBits < 1) begin : g_check
    $error("mx_mantissa_mul: %0d and %0d bits; expected at least 1 each", ABits, WBits);
  end

  // Products of two numbers in the low and the high bits of an address.
  typedef logic [63:0][5:0] table_t;
  function automatic table_t table_of(int low_bits);
    table_t entries;
    for (int i = 0; i < 64; i++) entries[i] = 6'((i & ((1 << low_bits) - 1)) * (i >> low_bits));
    return entries;
  endfunction

  if (ABits + WBits <= 6) begin : g_table
    localparam table_t Table = table_of(ABits);
    assign prod_o = (ABits + WBits)'(Table[6'({w_i, a_i})]);
  end else if (ABits == 4 && WBits == 4) begin : g_four_four
    localparam table_t Table = table_of(3);
    logic [5:0] fractions;
    logic [2:0] mixed;
    logic [3:0] high;
    logic       mixed_carry, high_carry;

    assign fractions = Table[{w_i[2:0], a_i[2:0]}];
    mx_add_pairs #(.Width(3), .Op(4'b1000)) u_mixed (
      .x_i({3{a_i[3]}}), .s_i(w_i[2:0]), .y_i({3{w_i[3]}}), .t_i(a_i[2:0]), .carry_i(1'b0), .sum_o(mixed),
      .carry_o(mixed_carry)
    );
    mx_add_pairs #(.Width(4), .Op(4'b1000)) u_high (
      .x_i({a_i[3], fractions[5:3]}), .s_i({w_i[3], 3'b111}), .y_i({mixed_carry, mixed}), .t_i(4'b1111),
      .carry_i(1'b0), .sum_o(high), .carry_o(high_carry)
    );
    assign prod_o = {high_carry, high, fractions[2:0]};
  end else if (ABits + WBits == 7 && (ABits == 4 || WBits == 4)) begin : g_four_three
    localparam table_t Table = table_of(4);
    logic [3:0] four, high;
    logic [2:0] three;
    logic [5:0] low;
    logic       high_carry;

    if (ABits == 4) begin : g_a
      assign {four, three} = {a_i, w_i};
    end else begin : g_w
      assign {four, three} = {w_i, a_i};
    end
    assign low = Table[{three[1:0], four}];
    mx_add_pairs #(.Width(4), .Op(4'b1000)) u_high (
      .x_i(low[5:2]), .s_i(4'b1111), .y_i(four), .t_i({4{three[2]}}), .carry_i(1'b0), .sum_o(high),
      .carry_o(high_carry)
    );
    assign prod_o = {high_carry, high, low[1:0]};
  end else begin : g_rows
    always_comb begin
      prod_o = '0;
      for (int i = 0; i < WBits; i++) if (w_i[i]) prod_o = prod_o + ((ABits + WBits)'(a_i) << i);
    end
  end

endmodule
