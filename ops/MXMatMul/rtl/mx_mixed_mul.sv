// Product of an integer and a minifloat, in LUTs.
//
// Equation:  as of mx_mul, with the sign of the minifloat as the negation still owed (pending).
// Latency:   mx_pkg::mul_latency cycles while en_i is high: products with two bits of the mantissa each, one LUT
//            per bit; their sum; the shift, which short exponents take together with the sum.
module mx_mixed_mul #(
  parameter int IntBits = 8,
  parameter int ExpBits = 4,
  parameter int ManBits = 3,
  localparam int ProdBits = IntBits + mx_pkg::linear_bits(ExpBits, ManBits) - 1
) (
  input  logic                       aclk,
  input  logic                       en_i,
  input  logic [IntBits-1:0]         int_i,
  input  logic [ExpBits+ManBits:0]   float_i,
  output logic signed [ProdBits-1:0] prod_o,
  output logic                       neg_o
);

  if (IntBits < 2 || IntBits > 9 || ExpBits < 1 || ExpBits > 5 || ManBits < 1 || ExpBits + ManBits > 7) begin : g_check
    $error("mx_mixed_mul: an integer of %0d bits and e%0dm%0d; expected 2 to 9 bits, a minifloat of at most 8", IntBits,
           ExpBits, ManBits);
  end

  localparam int Digits   = mx_pkg::ceil_div(ManBits + 1, 2);  // of two bits
  localparam int RowBits  = IntBits + 2;
  localparam int MantBits = IntBits + 2 * Digits;

  logic [ExpBits-1:0]                   field;
  logic [2*Digits-1:0]                  mant;
  logic signed [Digits-1:0][RowBits-1:0] row_q;
  logic signed [MantBits-1:0]           sum;
  logic [ExpBits-1:0]                   shift1_q;
  logic                                 neg1_q;

  assign field = float_i[ManBits+:ExpBits];
  assign mant  = (2 * Digits)'({field != '0, float_i[ManBits-1:0]});

  for (genvar j = 0; j < Digits; j++) begin : g_digit
    logic [RowBits-1:0] row;
    logic               unused;
    mx_add_pairs #(.Width(RowBits), .Op(4'b1000)) u_row (
      .x_i(RowBits'($signed(int_i))), .s_i({RowBits{mant[2*j]}}),
      .y_i(RowBits'($signed({int_i, 1'b0}))), .t_i({RowBits{mant[2*j+1]}}), .carry_i(1'b0), .sum_o(row),
      .carry_o(unused)
    );
    always_ff @(posedge aclk) if (en_i) row_q[j] <= row;
  end

  always_ff @(posedge aclk) begin
    if (en_i) begin
      shift1_q <= field - ExpBits'(field != '0);  // exponents 0 and 1 shift by nothing
      neg1_q   <= float_i[ExpBits+ManBits];
    end
  end

  always_comb begin
    sum = '0;
    for (int j = 0; j < Digits; j++) sum += MantBits'($signed(row_q[j])) <<< (2 * j);
  end

  if (ExpBits <= 2) begin : g_short
    always_ff @(posedge aclk) begin
      if (en_i) begin
        prod_o <= ProdBits'(sum) <<< shift1_q;
        neg_o  <= neg1_q;
      end
    end
  end else begin : g_long
    logic signed [MantBits-1:0] sum_q;
    logic [ExpBits-1:0]         shift2_q;
    logic                       neg2_q;

    always_ff @(posedge aclk) begin
      if (en_i) begin
        sum_q    <= sum;
        shift2_q <= shift1_q;
        neg2_q   <= neg1_q;
        prod_o   <= ProdBits'(sum_q) <<< shift2_q;
        neg_o    <= neg2_q;
      end
    end
  end

endmodule
