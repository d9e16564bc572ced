// A running sum and the product of a factor with a radix-4 Booth digit: one LUT per bit.
//
// Equation:  sum_o = sum_i + (d < 0 ? ~(|d| * a_i) : d * a_i) + carry_i mod 2**Width, with the digit
//            d = -2 * digit_i[2] + digit_i[1] + digit_i[0]. A negation owes a +1: digit_i[2] (of the digit
//            111, which is 0, too: its word is ~0).
// Latency:   0 (combinational).
// Styles:    LUT6 and CARRY8 cells with the macro MX_LUT6_2 (five inputs make the bit of the product, the
//            sixth is the sum's), plain logic without it.
module mx_booth_row #(
  parameter int Width = 10,
  parameter int ABits = 8
) (
  input  logic [ABits-1:0] a_i,
  input  logic [2:0]       digit_i,
  input  logic [Width-1:0] sum_i,
  input  logic             carry_i,
  output logic [Width-1:0] sum_o
);

  if (ABits < 1 || Width <= ABits) begin : g_check
    $error("mx_booth_row: Width = %0d, ABits = %0d; expected more bits in a sum than in a factor", Width, ABits);
  end

  logic [Width:0] doubled;  // 2 * a, sign extended
  assign doubled = (Width + 1)'($signed({a_i, 1'b0}));

`ifdef MX_LUT6_2
  function automatic logic [63:0] table_of();
    logic [63:0] entries;
    logic        one, two;
    for (int i = 0; i < 64; i++) begin
      one        = i[3] ^ i[2];
      two        = (i[4] != i[3]) && (i[3] == i[2]);
      entries[i] = (one && i[0] || two && i[1]) ^ i[4] ^ i[5];
    end
    return entries;
  endfunction

  logic [Width-1:0] select;
  logic             unused;
  for (genvar i = 0; i < Width; i++) begin : g_bit
    LUT6 #(.INIT(table_of())) u_lut (
      .I0(doubled[i+1]), .I1(doubled[i]), .I2(digit_i[0]), .I3(digit_i[1]), .I4(digit_i[2]), .I5(sum_i[i]),
      .O(select[i])
    );
  end
  mx_carry #(.Width(Width)) u_carry (
    .select_i(select), .data_i(sum_i), .carry_i, .sum_o, .carry_o(unused)
  );
`else
  logic [Width-1:0] product;
  logic             one, two;

  assign one     = digit_i[1] ^ digit_i[0];
  assign two     = digit_i[2] != digit_i[1] && digit_i[1] == digit_i[0];
  assign product = (({Width{one}} & doubled[Width:1]) | ({Width{two}} & doubled[Width-1:0])) ^ {Width{digit_i[2]}};
  assign sum_o   = sum_i + product + Width'(carry_i);
`endif

endmodule
