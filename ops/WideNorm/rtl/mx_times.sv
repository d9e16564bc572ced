// Product of a signed integer and a positive constant: a shift where the constant is a power of two.
//
// Equation:  product_o = data_i * Factor, exact.
// Latency:   mx_pkg::times_latency(Width, Factor) cycles while en_i is high; data_i is expected in registers.
module mx_times #(
  parameter int Width  = 16,
  parameter int Factor = 3,
  localparam int Bits = Width + mx_pkg::factor_bits(Factor)
) (
  input  logic                    aclk,
  input  logic                    en_i,
  input  logic signed [Width-1:0] data_i,
  output logic signed [Bits-1:0]  product_o
);

  if (Width < 2 || Factor < 1) begin : g_check
    $error("mx_times: Width = %0d, Factor = %0d; expected Width >= 2, Factor >= 1", Width, Factor);
  end

  localparam int FactorBits = mx_pkg::factor_bits(Factor);

  if ((Factor & (Factor - 1)) == 0) begin : g_shift
    logic signed [Width-1:0] data_q;
    always_ff @(posedge aclk) if (en_i) data_q <= data_i;
    assign product_o = Bits'(data_q) <<< $clog2(Factor);
  end else begin : g_product
    mx_wide_mul #(.ABits(Width), .BBits(FactorBits)) u_mul (
      .aclk, .en_i, .a_i(data_i), .b_i(FactorBits'(Factor)), .product_o
    );
  end

endmodule
