// Product of a signed integer and a positive constant: a shift of one with one bit set, a sum of two shifts of one with
// two, such as the widths 96, 192, 384 and 768; else in DSP slices.
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

  if (mx_pkg::times_adds(Factor)) begin : g_sum
    // Without the zeros that every product ends in.
    localparam int Low  = mx_pkg::lowest_one(Factor);
    localparam int High = mx_pkg::upper_ones(Factor);
    logic signed [Bits-Low-1:0] sum_q, upper;
    if (High == 0) begin : g_one
      assign upper = '0;
    end else begin : g_two
      assign upper = (Bits - Low)'(data_i) <<< ($clog2(High) - Low);
    end
    always_ff @(posedge aclk) if (en_i) sum_q <= (Bits - Low)'(data_i) + upper;
    assign product_o = Bits'(sum_q) <<< Low;
  end else begin : g_product
    mx_wide_mul #(.ABits(Width), .BBits(FactorBits)) u_mul (
      .aclk, .en_i, .a_i(data_i), .b_i(FactorBits'(Factor)), .product_o
    );
  end

endmodule
