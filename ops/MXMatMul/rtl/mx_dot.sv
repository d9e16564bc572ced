// Dot product of Simd element pairs.
//
// Equation:  sum over i of linear(a_i[i]) * linear(w_i[i]) = sum_o + carry_o, exact.
//            Negations are one's complements; the +1 each of them owes enters the tree through the
//            unused carry input of an adder. Every adder pays one, and one is left: carry_o.
// Latency:   mx_pkg::dot_latency cycles while en_i is high (a register behind every second level).
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
  localparam int Levels   = $clog2(Simd),
  localparam int SumBits  = ProdBits + Levels
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

  // Level 0 holds the products, level l their sums over 2**l pairs: Simd >> l terms and as many
  // owed ones.
  for (genvar l = 0; l <= Levels; l++) begin : g_level
    localparam int Bits  = ProdBits + l;
    localparam int Terms = Simd >> l;
    logic signed [Bits-1:0] term  [Terms];
    logic                   carry [Terms];

    for (genvar i = 0; i < Terms; i++) begin : g_term
      if (l == 0) begin : g_mul
        logic signed [ProdBits-1:0] prod;
        mx_mul #(
          .AExpBits(AExpBits), .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits),
          .UseDsp(UseDsp)
        ) u_mul (
          .aclk, .en_i, .a_i(a_i[i]), .w_i(w_i[i]), .prod_o(prod), .neg_o(carry[i])
        );
        assign term[i] = prod ^ {ProdBits{carry[i]}};
      end else begin : g_add
        // {x, 1} + {y, carry} is an adder with a carry input in every tool.
        logic signed [Bits:0] sum;
        assign sum = $signed({g_level[l-1].term[2*i], 1'b1})
                     + $signed({g_level[l-1].term[2*i+1], g_level[l-1].carry[2*i]});
        if (l % 2 == 0 || l == Levels) begin : g_reg
          always_ff @(posedge aclk) begin
            if (en_i) begin
              term[i]  <= sum[Bits:1];
              carry[i] <= g_level[l-1].carry[2*i+1];
            end
          end
        end else begin : g_wire
          assign term[i]  = sum[Bits:1];
          assign carry[i] = g_level[l-1].carry[2*i+1];
        end
      end
    end
  end

  assign sum_o   = g_level[Levels].term[0];
  assign carry_o = g_level[Levels].carry[0];

endmodule
