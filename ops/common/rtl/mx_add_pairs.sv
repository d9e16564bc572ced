// Sum of two words that are each a bitwise function of two others: one LUT per bit.
//
// Equation:  sum_o = Op(x_i, s_i) + Op(y_i, t_i) + carry_i mod 2**Width, carry_o the carry out;
//            Op is a truth table: bit {s, x} of it.
// Latency:   0 (combinational).
// Styles:    LUT6_2 and CARRY8 cells with the macro MX_LUT6_2, plain logic without it.
module mx_add_pairs #(
  parameter int         Width = 8,
  parameter logic [3:0] Op    = 4'b0110  // xor; 1000: and; 1011: x or not s
) (
  input  logic [Width-1:0] x_i,
  input  logic [Width-1:0] s_i,
  input  logic [Width-1:0] y_i,
  input  logic [Width-1:0] t_i,
  input  logic             carry_i,
  output logic [Width-1:0] sum_o,
  output logic             carry_o
);

  if (Width < 1) begin : g_check
    $error("mx_add_pairs: Width = %0d; expected at least 1", Width);
  end

`ifdef MX_LUT6_2
  // O5: the second word, which the carry chain takes where both are alike; O6: their difference.
  function automatic logic [63:0] table_of();
    logic [63:0] entries;
    for (int i = 0; i < 64; i++) entries[i] = Op[i>>2&3] ^ (Op[i&3] & i[5]);
    return entries;
  endfunction

  logic [Width-1:0] select, data;
  for (genvar i = 0; i < Width; i++) begin : g_bit
    LUT6_2 #(.INIT(table_of())) u_lut (
      .I0(x_i[i]), .I1(s_i[i]), .I2(y_i[i]), .I3(t_i[i]), .I4(1'b0), .I5(1'b1), .O6(select[i]), .O5(data[i])
    );
  end
  mx_carry #(.Width(Width)) u_carry (.select_i(select), .data_i(data), .carry_i, .sum_o, .carry_o);
`else
  function automatic logic [Width-1:0] word_of(logic [Width-1:0] x, logic [Width-1:0] s);
    return ({Width{Op[0]}} & ~s & ~x) | ({Width{Op[1]}} & ~s & x) | ({Width{Op[2]}} & s & ~x)
           | ({Width{Op[3]}} & s & x);
  endfunction

  assign {carry_o, sum_o} = (Width + 1)'(word_of(x_i, s_i)) + (Width + 1)'(word_of(y_i, t_i))
                              + (Width + 1)'(carry_i);
`endif

endmodule
