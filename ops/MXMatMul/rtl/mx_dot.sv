// Dot product of Simd element pairs.
//
// Equation:  sum over i of linear(a_i[i]) * linear(w_i[i]) = sum_o + carry_o, exact.
//            Negations are one's complements; the +1 each of them owes enters the adders through their
//            unused carry inputs, and one is left: carry_o.
// Latency:   mx_pkg::dot_latency cycles while en_i is high.
// Styles:    integers without DSP blocks go to mx_dot_booth, all else through mx_mul and mx_tree.
module mx_dot #(
  parameter int AExpBits = 2,
  parameter int AManBits = 1,
  parameter int WExpBits = 2,
  parameter int WManBits = 1,
  parameter int Simd     = 8,  // power of two
  parameter bit UseDsp   = 0,
  localparam int ABits    = mx_pkg::element_bits(AExpBits, AManBits),
  localparam int WBits    = mx_pkg::element_bits(WExpBits, WManBits),
  localparam int ProdBits = mx_pkg::product_bits(AExpBits, AManBits, WExpBits, WManBits),
  localparam int SumBits  = ProdBits + $clog2(Simd)
) (
  input  logic                       aclk,
  input  logic                       en_i,
  input  logic [Simd-1:0][ABits-1:0] a_i,
  input  logic [Simd-1:0][WBits-1:0] w_i,
  output logic signed [SumBits-1:0]  sum_o,
  output logic                       carry_o
);

  if (Simd < 1 || (Simd & (Simd - 1)) != 0) begin : g_check
    $error("mx_dot: Simd = %0d; expected a power of two", Simd);
  end

  if (AExpBits == 0 && WExpBits == 0 && !UseDsp) begin : g_booth
    mx_dot_booth #(.Simd(Simd), .ABits(ABits), .WBits(WBits)) u_dot (.aclk, .en_i, .a_i, .w_i, .sum_o, .carry_o);
  end else begin : g_tree
    logic [Simd-1:0][ProdBits-1:0] product;
    logic [Simd-1:0]               negative;

    for (genvar i = 0; i < Simd; i++) begin : g_mul
      mx_mul #(
        .AExpBits(AExpBits), .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits), .UseDsp(UseDsp)
      ) u_mul (
        .aclk, .en_i, .a_i(a_i[i]), .w_i(w_i[i]), .prod_o(product[i]), .neg_o(negative[i])
      );
    end

    mx_tree #(
      .Terms(Simd), .Width(ProdBits), .Pending(mx_pkg::sign_pending(AExpBits, AManBits, WExpBits, WManBits))
    ) u_tree (
      .aclk, .en_i, .terms_i(product), .carry_i(negative), .sum_o, .carry_o
    );
  end

endmodule
