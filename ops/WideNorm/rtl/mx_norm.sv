// LayerNorm or RMSNorm of vectors of wide integers (operator WideNorm), without a division.
//
// Equation:  V = K * sum(x * x) - S1**2 + Epsilon with S1 = Center * sum(x); n = (K * x - S1) / sqrt(V) with Fraction
//            bits below the point; y[c] = (n * gain[c] + offset[c]) / 2**Shift in every lane (OutWidth must hold it).
// Frames:    vectors of ceil(K/Lanes) beats in and out.
// Latency:   mx_pkg::norm_statistics_latency + 2 cycles from the last beat of a vector (3 where the FIFO is of block RAM),
//            then Stages, then the beats of the vector; one beat per cycle sustained: vectors wait in a FIFO that holds
//            one and what comes while its statistics are found.
// Rounding:  1/sqrt(V) by chords (mx_norm_statistics); n half up; the result to nearest, ties to even.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. Vectors are counted.
// Turns:     frames of Vectors vectors take the gains and offsets of Layers layers in turn (mx_layer_words).
// Memories:  $readmemh files: gain and offset word (layer, beat) field l = channel beat*Lanes + l; roots and slopes word i =
//            segment i.
module mx_norm #(
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
  parameter int Fraction      = 14,
  parameter int GainWidth     = 18,
  parameter int OffsetWidth   = 16,
  parameter int OutWidth      = 18,
  parameter int Shift         = 16,
  parameter int Vectors       = 1,   // of a frame, where Layers > 1
  parameter int Layers        = 1,
  parameter string GainFile   = "",
  parameter string OffsetFile = "",
  parameter string RootsFile  = "",
  parameter string SlopesFile = ""
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s_axis_tvalid,
  output logic                      s_axis_tready,
  input  logic [Lanes*Width-1:0]    s_axis_tdata,
  input  logic                      s_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast
);

  if (K < 1 || Lanes < 1 || Fraction < 1 || RootBits <= SegmentBits) begin : g_check
    $error("mx_norm: K = %0d, Lanes = %0d, Fraction = %0d, RootBits = %0d; expected positive ones, %s", K, Lanes,
           Fraction, RootBits, "and a segment longer than one step");
  end

  localparam int Beats    = mx_pkg::ceil_div(K, Lanes);
  localparam int BeatBits = mx_pkg::index_bits(Beats);
  localparam int SumBits  = mx_pkg::norm_sum_bits(Width, K);
  localparam int HalfBits = mx_pkg::index_bits((VarianceWidth + 1) / 2);
  localparam int Depth    = mx_pkg::norm_depth(Width, K, Lanes, Center, SlopeWidth, RootBits - SegmentBits);
  localparam int Results  = mx_pkg::norm_results(Depth, Beats);

  // --- vectors wait while their statistics are found ------------------------------------------------------------------

  logic                                  put, in_last, x_valid, x_last, take, en, out_last, s_valid, s_ready, unused;
  logic [BeatBits-1:0]                   in_beat_q, out_beat_q;
  logic [Lanes-1:0][Width-1:0]           x;
  logic                                  found;
  logic signed [SumBits-1:0]             found_sum, sum;
  logic [HalfBits-1:0]                   found_half, half;
  logic [RootBits:0]                     found_root, root;

  assign put      = s_axis_tvalid && s_axis_tready;
  assign in_last  = in_beat_q == BeatBits'(Beats - 1);
  assign out_last = out_beat_q == BeatBits'(Beats - 1);
  assign take     = en && x_valid && s_valid;

  mx_fifo #(.Width(Lanes * Width), .Depth(Depth)) u_vectors (
    .aclk, .aresetn,
    .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
    .m_axis_tvalid(x_valid), .m_axis_tready(take), .m_axis_tdata(x), .m_axis_tlast(x_last)
  );

  mx_norm_statistics #(
    .Width(Width), .K(K), .Lanes(Lanes), .Center(Center), .EpsilonUpper(EpsilonUpper), .EpsilonLower(EpsilonLower),
    .VarianceWidth(VarianceWidth), .SegmentBits(SegmentBits), .RootBits(RootBits), .SlopeWidth(SlopeWidth),
    .RootsFile(RootsFile), .SlopesFile(SlopesFile)
  ) u_statistics (
    .aclk, .aresetn, .valid_i(put), .data_i(s_axis_tdata), .last_i(in_last),
    .valid_o(found), .sum_o(found_sum), .half_o(found_half), .root_o(found_root)
  );

  // Room for those of every vector that has a beat in u_vectors: s_ready is never low when one is found.
  mx_fifo #(.Width(SumBits + HalfBits + RootBits + 1), .Depth(Results)) u_results (
    .aclk, .aresetn,
    .s_axis_tvalid(found), .s_axis_tready(s_ready), .s_axis_tdata({found_sum, found_half, found_root}),
    .s_axis_tlast(1'b0),
    .m_axis_tvalid(s_valid), .m_axis_tready(take && out_last), .m_axis_tdata({sum, half, root}), .m_axis_tlast(unused)
  );

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      in_beat_q  <= '0;
      out_beat_q <= '0;
    end else begin
      if (put) in_beat_q <= in_last ? '0 : in_beat_q + 1'b1;
      if (take) out_beat_q <= out_last ? '0 : out_beat_q + 1'b1;
    end
  end

  // --- out --------------------------------------------------------------------------------------------------------------

  localparam int NormBits = Fraction + ($clog2(K) + 1) / 2 + 3;
  localparam int Scaled   = 1 + mx_pkg::times_latency(Width, K);  // K * x
  localparam int Moved    = Scaled + 4;                           // its size taken off
  localparam int Normed   = Moved + 1 + mx_pkg::wide_mul_latency(NormBits, RootBits + 2);
  localparam int Gained   = Normed + mx_pkg::wide_mul_latency(NormBits, GainWidth);
  localparam int Stages   = Gained + 2;

  logic [Stages:1]                                 valid_q, last_q;
  logic [Lanes-1:0][Width-1:0]                     x_q;
  logic [Scaled:1][SumBits-1:0]                    sum_q;
  logic [Scaled+2:1][HalfBits-1:0]                 half_q;
  logic [Moved:1][RootBits:0]                      root_q;
  logic [mx_pkg::index_bits(Layers * Beats)-1:0]   word;
  logic [Lanes-1:0][GainWidth-1:0]                 gain;
  logic [Lanes-1:0][OffsetWidth-1:0]               offset;
  logic [Gained:Normed][Lanes-1:0][OffsetWidth-1:0] offset_d;

  assign en            = !valid_q[Stages] || m_axis_tready;
  assign m_axis_tvalid = valid_q[Stages];
  assign m_axis_tlast  = last_q[Stages];

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      valid_q <= '0;
    end else if (en) begin
      valid_q <= {valid_q[Stages-1:1], take};
    end
    if (en) begin
      last_q <= {last_q[Stages-1:1], x_last};
      x_q    <= x;
      sum_q  <= {sum_q[Scaled-1:1], sum};
      half_q <= {half_q[Scaled+1:1], half};
      root_q <= {root_q[Moved-1:1], root};
    end
  end

  mx_layer_words #(.Words(Beats), .Passes(Vectors), .Layers(Layers)) u_words (
    .aclk, .aresetn, .step_i(en && valid_q[Normed-1]), .addr_o(word)
  );
  mx_rom #(.Width(Lanes * GainWidth), .Depth(Layers * Beats), .BlockDepth(256), .File(GainFile)) u_gain (
    .aclk, .en_i(en), .addr_i(word), .data_o(gain)
  );
  mx_rom #(.Width(Lanes * OffsetWidth), .Depth(Layers * Beats), .BlockDepth(256), .File(OffsetFile)) u_offset (
    .aclk, .en_i(en), .addr_i(word), .data_o(offset)
  );

  assign offset_d[Normed] = offset;
  for (genvar k = Normed + 1; k <= Gained; k++) begin : g_offset
    always_ff @(posedge aclk) if (en) offset_d[k] <= offset_d[k-1];
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    mx_norm_lane #(
      .Width(Width), .K(K), .SumBits(SumBits), .HalfBits(HalfBits), .RootBits(RootBits), .Fraction(Fraction),
      .GainWidth(GainWidth), .OffsetWidth(OffsetWidth), .OutWidth(OutWidth), .Shift(Shift)
    ) u_lane (
      .aclk, .en_i(en), .value_i(x_q[i]), .sum_i(sum_q[Scaled]), .half_i(half_q[Scaled+1]),
      .half_late_i(half_q[Scaled+2]), .root_i(root_q[Moved]), .gain_i(gain[i]), .offset_i(offset_d[Gained][i]),
      .result_o(m_axis_tdata[i*OutWidth+:OutWidth])
    );
  end

  logic unused_ready;
  assign unused_ready = s_ready;

endmodule
