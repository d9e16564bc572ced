// Sum, variance and its inverse root, of one vector after the other.
//
// Equation:  S1 = Center * sum(x), S2 = sum(x * x), V = K * S2 - S1**2 + Epsilon, half_o = floor(log2(V) / 2),
//            sum_o = S1, root_o = 2**RootBits / sqrt(V / 4**half_o) by chords: roots + slopes * low bits.
// Latency:   mx_pkg::norm_statistics_latency cycles from the beat with last_i; one beat per cycle sustained, vectors
//            without a gap. Nothing holds it back: what comes out has to be taken.
// Rounding:  V is exact; of V / 4**half_o what lies below RootBits is cut off; the chord is rounded half up.
// Memories:  $readmemh files: roots and slopes word i = segment i of [1, 4).
module mx_norm_statistics #(
  parameter int Width         = 16,
  parameter int K             = 8,   // channels
  parameter int Lanes         = 1,
  parameter int Center        = 1,
  parameter int EpsilonUpper  = 0,   // 64 bits in two words
  parameter int EpsilonLower  = 1,
  parameter int VarianceWidth = 40,  // bits of V at most
  parameter int SegmentBits   = 5,
  parameter int RootBits      = 16,
  parameter int SlopeWidth    = 12,
  parameter string RootsFile  = "",
  parameter string SlopesFile = "",
  localparam int Halves   = (VarianceWidth + 1) / 2,
  localparam int HalfBits = mx_pkg::index_bits(Halves),
  localparam int SumBits  = mx_pkg::norm_sum_bits(Width, K)
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      valid_i,
  input  logic [Lanes*Width-1:0]    data_i,
  input  logic                      last_i,  // of the vector

  output logic                      valid_o,
  output logic signed [SumBits-1:0] sum_o,
  output logic [HalfBits-1:0]       half_o,
  output logic [RootBits:0]         root_o
);

  if (Width < 2 || K < 1 || Lanes < 1 || VarianceWidth < 2 || VarianceWidth > 62 || SegmentBits < 1 ||
      RootBits <= SegmentBits || SlopeWidth < 2) begin : g_check
    $error("mx_norm_statistics: Width = %0d, K = %0d, VarianceWidth = %0d, SegmentBits = %0d, RootBits = %0d; %s",
           Width, K, VarianceWidth, SegmentBits, RootBits, "expected 62 bits at most, a segment longer than one step");
  end

  localparam int Tail       = K - (mx_pkg::ceil_div(K, Lanes) - 1) * Lanes;
  localparam int SquareBits = mx_pkg::norm_square_bits(Width, K);
  localparam int LaneSum    = Width + $clog2(Lanes);
  localparam int LaneSquare = 2 * Width + $clog2(Lanes);
  localparam int Square     = mx_pkg::wide_mul_latency(Width, Width);
  localparam int Summed     = 1 + Square + mx_pkg::sum_latency(Lanes);  // stage of the sums over lanes
  localparam int Multiply   = mx_pkg::norm_multiply_latency(Width, K, Center);
  localparam int Low        = RootBits - SegmentBits;
  localparam int Chord      = mx_pkg::wide_mul_latency(SlopeWidth, Low + 1);
  localparam int Looked     = 7 + Multiply;  // from the sums of a vector to its segment
  localparam int Stages     = Looked + Chord + 1;

  // --- sums over lanes, then over beats ---------------------------------------------------------------------------

  logic signed [Width-1:0]                value1_q [Lanes];
  logic [Lanes-1:0][LaneSum-1:0]          values;
  logic [Lanes-1:0][LaneSquare-1:0]       squares;
  logic [Summed:1]                        valid_q, last_q;
  logic [LaneSquare-1:0]                  square;
  logic [SquareBits-1:0]                  squares_q;
  logic                                   fresh_q, done_q;

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [2*Width-1:0] product;
    always_ff @(posedge aclk) value1_q[i] <= (i < Tail || !last_i) ? data_i[i*Width+:Width] : '0;
    assign values[i]  = LaneSum'(value1_q[i]);
    assign squares[i] = LaneSquare'(product);
    mx_wide_mul #(.ABits(Width), .BBits(Width)) u_square (
      .aclk, .en_i(1'b1), .a_i(value1_q[i]), .b_i(value1_q[i]), .product_o(product)
    );
  end

  mx_sum #(.Terms(Lanes), .Width(LaneSquare)) u_squares (.aclk, .en_i(1'b1), .terms_i(squares), .sum_o(square));

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      valid_q <= '0;
      fresh_q <= 1'b1;
      done_q  <= 1'b0;
    end else begin
      valid_q <= {valid_q[Summed-1:1], valid_i};
      done_q  <= valid_q[Summed] && last_q[Summed];
      if (valid_q[Summed]) fresh_q <= last_q[Summed];
    end
    last_q <= {last_q[Summed-1:1], last_i};
    if (valid_q[Summed]) squares_q <= (fresh_q ? '0 : squares_q) + SquareBits'(square);
  end

  // --- V ----------------------------------------------------------------------------------------------------------

  localparam int Times      = mx_pkg::times_latency(SquareBits, K);
  localparam int VarBits    = 2 * Halves;
  localparam int ScaledBits = SquareBits + mx_pkg::factor_bits(K);

  logic [Stages:1]                   found_q;
  logic signed [ScaledBits-1:0]      scaled;
  logic [Multiply:Times][VarBits-1:0] scaled_d;
  logic [VarBits-1:0]                raised_q, variance_q, variance_half_q, squared;
  logic [HalfBits-1:0]               top, up, half_q, half_look_q;
  logic                              zero;

  assign found_q[1] = done_q;
  always_ff @(posedge aclk) begin
    if (!aresetn) found_q[Stages:2] <= '0;
    else found_q[Stages:2] <= found_q[Stages-1:1];
  end

  mx_times #(.Width(SquareBits), .Factor(K)) u_scaled (
    .aclk, .en_i(1'b1), .data_i(squares_q), .product_o(scaled)
  );
  assign scaled_d[Times] = VarBits'(scaled);
  for (genvar k = Times + 1; k <= Multiply; k++) begin : g_scaled
    always_ff @(posedge aclk) scaled_d[k] <= scaled_d[k-1];
  end

  if (Center != 0) begin : g_center
    localparam int Product = mx_pkg::wide_mul_latency(SumBits, SumBits);
    logic [LaneSum-1:0]                     lane_sum;
    logic [Square:0][LaneSum-1:0]           lane_sum_d;
    logic signed [SumBits-1:0]              sum_q;
    logic signed [2*SumBits-1:0]            product;
    logic [Multiply+1:Product][VarBits-1:0] product_d;
    logic [Stages:1][SumBits-1:0]           sum_d;

    mx_sum #(.Terms(Lanes), .Width(LaneSum)) u_sum (.aclk, .en_i(1'b1), .terms_i(values), .sum_o(lane_sum));
    mx_wide_mul #(.ABits(SumBits), .BBits(SumBits)) u_squared (
      .aclk, .en_i(1'b1), .a_i(sum_q), .b_i(sum_q), .product_o(product)
    );
    assign lane_sum_d[0]      = lane_sum;
    assign product_d[Product] = VarBits'(product);
    assign squared            = product_d[Multiply+1];
    assign sum_d[1]           = sum_q;
    assign sum_o              = sum_d[Stages];
    for (genvar k = 1; k <= Square; k++) begin : g_lane_sum
      always_ff @(posedge aclk) lane_sum_d[k] <= lane_sum_d[k-1];
    end
    for (genvar k = Product + 1; k <= Multiply + 1; k++) begin : g_product
      always_ff @(posedge aclk) product_d[k] <= product_d[k-1];
    end
    always_ff @(posedge aclk) begin
      if (valid_q[Summed]) sum_q <= (fresh_q ? '0 : sum_q) + SumBits'($signed(lane_sum_d[Square]));
      for (int k = 2; k <= Stages; k++) sum_d[k] <= sum_d[k-1];
    end
  end else begin : g_plain
    logic unused;
    assign unused  = ^values;
    assign squared = '0;
    assign sum_o   = '0;
  end

  // V takes no more than VarBits: what its terms have above them cancels.
  localparam logic [63:0] Epsilon = {EpsilonUpper, EpsilonLower};
  logic [Halves-1:0] pairs;
  for (genvar i = 0; i < Halves; i++) begin : g_pair
    assign pairs[i] = |variance_q[2*i+:2];
  end
  mx_leading_one #(.Width(Halves)) u_top (.data_i(pairs), .top_o(top), .zero_o(zero));

  always_ff @(posedge aclk) begin
    raised_q        <= scaled_d[Multiply] + VarBits'(Epsilon);
    variance_q      <= raised_q - squared;
    variance_half_q <= variance_q;
    half_q          <= top;
  end

  // --- V / 4**half, and its inverse root ----------------------------------------------------------------------------

  localparam int Mantissa  = RootBits + 2;
  localparam int Held      = (VarBits > Mantissa) ? VarBits : Mantissa;
  localparam int PlaceBits = SegmentBits + 2;
  localparam int Segments  = 3 << SegmentBits;

  logic [Held-1:0]                    coarse_q, fine;
  logic [1:0]                         fine_up_q;
  logic [Mantissa-1:0]                mantissa_q;
  logic [PlaceBits-1:0]               segment;
  logic [RootBits:0]                  root, root_q;
  logic [Chord:0][RootBits:0]         root_d;
  logic [SlopeWidth-1:0]              slope;
  logic [Low-1:0]                     within_q;
  logic signed [SlopeWidth+Low:0]     gained;
  logic [HalfBits+1:0]                steps;
  logic [Chord+4:1][HalfBits-1:0]     half_d;

  assign up      = HalfBits'(Halves - 1) - half_q;
  assign steps   = (HalfBits + 2)'(up);
  assign fine    = coarse_q << {fine_up_q, 1'b0};
  assign segment = mantissa_q[Mantissa-1-:PlaceBits] - PlaceBits'(1 << SegmentBits);

  mx_rom #(.Width(RootBits + 1), .Depth(Segments), .BlockDepth(256), .File(RootsFile)) u_roots (
    .aclk, .en_i(1'b1), .addr_i(segment), .data_o(root)
  );
  mx_rom #(.Width(SlopeWidth), .Depth(Segments), .BlockDepth(256), .File(SlopesFile)) u_slopes (
    .aclk, .en_i(1'b1), .addr_i(segment), .data_o(slope)
  );
  mx_wide_mul #(.ABits(SlopeWidth), .BBits(Low + 1)) u_chord (
    .aclk, .en_i(1'b1), .a_i(slope), .b_i({1'b0, within_q}), .product_o(gained)
  );

  assign root_d[0]   = root;
  assign half_look_q = half_d[Chord+4];
  always_ff @(posedge aclk) begin
    coarse_q   <= (Held'(variance_half_q) << (Held - VarBits)) << {steps[HalfBits+1:2], 3'b000};
    fine_up_q  <= steps[1:0];
    mantissa_q <= fine[Held-1-:Mantissa];
    within_q   <= mantissa_q[Low-1:0];
    for (int k = 1; k <= Chord; k++) root_d[k] <= root_d[k-1];
    root_q     <= (RootBits + 1)'((SlopeWidth + Low + 1)'($signed({1'b0, root_d[Chord]}))
                  + ((gained + (SlopeWidth + Low + 1)'(1 << (Low - 1))) >>> Low));
    half_d     <= {half_d[Chord+3:1], half_q};
  end

  assign valid_o = found_q[Stages];
  assign half_o  = half_look_q;
  assign root_o  = root_q;

  logic unused_zero;  // V is above 0
  assign unused_zero = ^{zero, valid_q[Summed], fine};

endmodule
