// Sum of a term and of what was kept, or of a start value in its place: one LUT per bit.
//
// Equation:  sum_o = term_i + (first_i ? start_i : kept_i), modulo 2**Width.
// Styles:    with the macro MX_LUT6_2 the carry takes the term, which needs no LUT, and not what is chosen, which may
//            take a second LUT per bit where tools decide; a plain sum without it.
module mx_add_first #(
  parameter int Width = 32
) (
  input  logic             first_i,
  input  logic [Width-1:0] start_i,
  input  logic [Width-1:0] kept_i,
  input  logic [Width-1:0] term_i,
  output logic [Width-1:0] sum_o
);

  if (Width < 1) begin : g_check
    $error("mx_add_first: Width = %0d; expected at least 1", Width);
  end

`ifdef MX_LUT6_2
  logic unused;

  mx_carry #(.Width(Width)) u_carry (
    .select_i(term_i ^ (first_i ? start_i : kept_i)), .data_i(term_i), .carry_i(1'b0), .sum_o, .carry_o(unused)
  );
`else
  assign sum_o = term_i + (first_i ? start_i : kept_i);
`endif

endmodule
