// One channel of a vector whose statistics are known.
//
// Equation:  c = K * value_i - sum_i, n = c * 2**Fraction / 2**half_i * root_i / 2**RootBits,
//            result_o = (n * gain_i + offset_i) / 2**Shift.
// Latency:   mx_norm's Stages - 1 cycles from value_i; sum_i, half_i, root_i and gain_i come at the stage that reads them,
//            offset_i when the product with the gain is there.
// Rounding:  n half up, twice; the result to nearest, ties to even.
module mx_norm_lane #(
  parameter int Width       = 16,
  parameter int K           = 8,
  parameter int SumBits     = 19,
  parameter int HalfBits    = 5,
  parameter int RootBits    = 16,
  parameter int Fraction    = 14,
  parameter int GainWidth   = 18,
  parameter int OffsetWidth = 16,
  parameter int OutWidth    = 16,
  parameter int Shift       = 16
) (
  input  logic                          aclk,
  input  logic                          en_i,
  input  logic signed [Width-1:0]       value_i,
  input  logic signed [SumBits-1:0]     sum_i,
  input  logic [HalfBits-1:0]           half_i,       // when the deviation is there
  input  logic [HalfBits-1:0]           half_late_i,  // a cycle later
  input  logic [RootBits:0]             root_i,
  input  logic signed [GainWidth-1:0]   gain_i,
  input  logic signed [OffsetWidth-1:0] offset_i,
  output logic signed [OutWidth-1:0]    result_o
);

  localparam int DeviationBits = SumBits + 1;
  localparam int ScaledBits    = Width + mx_pkg::factor_bits(K);
  localparam int RaisedBits    = DeviationBits + Fraction + 1;
  // |c| < sqrt(K * V) and V < 4**(half + 1), so |c / 2**half| < 2 * sqrt(K); the root is 1 at most.
  localparam int NormBits      = Fraction + ($clog2(K) + 1) / 2 + 3;
  localparam int CoarseBits    = (RaisedBits < NormBits + 8) ? RaisedBits : NormBits + 8;
  localparam int Product       = NormBits + GainWidth;
  localparam int Sum           = ((Product > OffsetWidth) ? Product : OffsetWidth) + 1;
  localparam int FineBits      = (HalfBits < 3) ? HalfBits : 3;

  if (Width < 2 || SumBits < Width || HalfBits < 1 || RootBits < 2 || Fraction < 1 || GainWidth < 2 ||
      OffsetWidth < 2 || OutWidth < 2 || Shift < 1) begin : g_check
    $error("mx_norm_lane: Width = %0d, GainWidth = %0d, OffsetWidth = %0d, OutWidth = %0d, Shift = %0d; %s", Width,
           GainWidth, OffsetWidth, OutWidth, Shift, "expected widths >= 2, others positive");
  end

  logic signed [ScaledBits-1:0]          scaled;
  logic signed [DeviationBits-1:0]       deviation_q;
  logic signed [RaisedBits-1:0]          raised;
  logic signed [CoarseBits-1:0]          coarse_q;
  logic signed [NormBits:0]              fine_q;
  logic signed [NormBits-1:0]            moved_q, norm_q;
  logic signed [NormBits+RootBits+1:0]   rooted;
  logic signed [Product-1:0]             product;
  logic signed [Sum-1:0]                 sum_q, kept;
  logic [HalfBits-1:0]                   coarse_half;
  logic [Shift-1:0]                      rest;
  logic                                  up;

  mx_times #(.Width(Width), .Factor(K)) u_scaled (.aclk, .en_i, .data_i(value_i), .product_o(scaled));
  mx_wide_mul #(.ABits(NormBits), .BBits(RootBits + 2)) u_root (
    .aclk, .en_i, .a_i(moved_q), .b_i({1'b0, root_i}), .product_o(rooted)
  );
  mx_wide_mul #(.ABits(NormBits), .BBits(GainWidth)) u_gain (
    .aclk, .en_i, .a_i(norm_q), .b_i(gain_i), .product_o(product)
  );

  assign raised      = RaisedBits'(deviation_q) <<< (Fraction + 1);
  assign coarse_half = (half_i >> FineBits) << FineBits;
  assign kept        = sum_q >>> Shift;
  assign rest        = sum_q[Shift-1:0];
  assign up          = rest[Shift-1] && (kept[0] || rest != (Shift'(1) << (Shift - 1)));

  always_ff @(posedge aclk) begin
    if (en_i) begin
      deviation_q <= DeviationBits'(scaled) - DeviationBits'(sum_i);
      // With one bit below the point, which decides the rounding.
      coarse_q    <= CoarseBits'(raised >>> coarse_half);
      fine_q      <= (NormBits + 1)'(coarse_q >>> half_late_i[FineBits-1:0]);
      moved_q     <= NormBits'((fine_q + 1'b1) >> 1);
      norm_q      <= NormBits'((rooted + (NormBits + RootBits + 2)'(1 << (RootBits - 1))) >>> RootBits);
      sum_q       <= Sum'(product) + Sum'(offset_i);
      result_o    <= OutWidth'(kept) + OutWidth'(up);
    end
  end

endmodule
