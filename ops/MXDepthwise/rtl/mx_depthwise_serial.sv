// Depthwise convolution of MX blocks, Lanes channels by one tap per cycle (mx_depthwise, Pixels = 0).
//
// Equation:  y[c] = bias[c] + sum over taps of
//                   linear(x[tap][c]) * linear(w[tap][c])
//                   << (x_scale[tap] + w_scale[tap][c] - ScaleOffset);
//            taps outside the frame are zeros. Exact (AccWidth must hold the result).
// Frames:    H*W vectors of ceil(K/Group) * (Group/Lanes) beats {scale, Lanes elements} in;
//            OutH*OutW vectors of ceil(K/Lanes) beats out, surplus lanes undefined.
// Latency:   that of mx_line_buffer, the taps, and mx_pkg::mul_latency + 5 cycles.
// Rounding:  none.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. error_o as in mx_line_buffer.
// Memories:  $readmemh files: weight and scale word (beat, tap) field l = channel beat*Lanes + l,
//            bias word (beat) field l.
module mx_depthwise_serial #(
  parameter int AExpBits    = 2,   // activation element; 0: integer
  parameter int AManBits    = 1,
  parameter int WExpBits    = 2,   // weight element
  parameter int WManBits    = 1,
  parameter int Lanes       = 1,
  parameter int K           = 4,   // channels
  parameter int Group       = 4,
  parameter int H           = 4,
  parameter int W           = 4,
  parameter int OutH        = 2,
  parameter int OutW        = 2,
  parameter int KernelH     = 3,
  parameter int KernelW     = 3,
  parameter int StrideH     = 1,
  parameter int StrideW     = 1,
  parameter int DilationH   = 1,
  parameter int DilationW   = 1,
  parameter int PadTop      = 0,
  parameter int PadLeft     = 0,
  parameter int PadScale    = 0,
  parameter int AccWidth    = 32,
  parameter int ScaleOffset = 0,
  parameter int ShiftMax    = 0,   // largest x_scale + w_scale - ScaleOffset
  parameter bit HasBias     = 0,
  parameter string WeightFile = "",
  parameter string ScaleFile  = "",
  parameter string BiasFile   = "",
  localparam int ABits = mx_pkg::element_bits(AExpBits, AManBits),
  localparam int WBits = mx_pkg::element_bits(WExpBits, WManBits)
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s_axis_tvalid,
  output logic                      s_axis_tready,
  input  logic [8+Lanes*ABits-1:0]  s_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  input  logic                      s_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*AccWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast,

  output logic                      error_o
);

  if (K < 1 || Group < 1 || Lanes < 1 || Group % Lanes != 0 || AccWidth < 2 || ShiftMax < 0 ||
      ShiftMax > 255 || PadScale < 0 || PadScale > 254) begin : g_check
    $error("mx_depthwise_serial: K = %0d, Group = %0d, Lanes = %0d, AccWidth = %0d, ShiftMax = %0d; %s",
           K, Group, Lanes, AccWidth, ShiftMax, "expected Lanes a divisor of Group, ShiftMax <= 255");
  end

  localparam int Beats     = mx_pkg::ceil_div(K, Group) * (Group / Lanes);  // of a pixel, in
  localparam int OutBeats  = mx_pkg::ceil_div(K, Lanes);                    // that are kept
  localparam int Taps      = KernelH * KernelW;
  localparam int Depth     = OutBeats * Taps;
  localparam int AddrBits  = mx_pkg::index_bits(Depth);
  localparam int BeatBits  = mx_pkg::index_bits(Beats);
  localparam int BiasBits  = mx_pkg::index_bits(OutBeats);
  localparam int ShiftBits = mx_pkg::index_bits(ShiftMax + 1);
  localparam int MulDelay  = mx_pkg::mul_latency(AExpBits, AManBits, WExpBits, WManBits);
  localparam int ProdBits  = mx_pkg::product_bits(AExpBits, AManBits, WExpBits, WManBits);
  localparam bit Pending   = mx_pkg::sign_pending(AExpBits, AManBits, WExpBits, WManBits);

  logic                     valid, en, last, pad, first_tap, last_tap;
  logic [8+Lanes*ABits-1:0] data;

  mx_line_buffer #(
    .Width(8 + Lanes * ABits), .H(H), .W(W), .Beats(Beats), .OutH(OutH), .OutW(OutW),
    .KernelH(KernelH), .KernelW(KernelW), .StrideH(StrideH), .StrideW(StrideW),
    .DilationH(DilationH), .DilationW(DilationW), .PadTop(PadTop), .PadLeft(PadLeft),
    .TapsInner(1'b1)
  ) u_lines (
    .aclk, .aresetn,
    .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
    .m_axis_tvalid(valid), .m_axis_tready(en), .m_axis_tdata(data), .m_axis_tlast(last),
    .pad_o(pad), .first_tap_o(first_tap), .last_tap_o(last_tap), .error_o
  );

  // Beats that hold padding alone make no output; the frame ends with the last one that does.

  logic [BeatBits-1:0] beat_q;
  logic [BiasBits-1:0] bias_addr;
  logic [AddrBits-1:0] addr_q;
  logic                beat_end, keep, frame_end, done;

  assign beat_end  = beat_q == BeatBits'(Beats - 1);
  assign keep      = int'(beat_q) < OutBeats;
  assign bias_addr = BiasBits'(beat_q);

  localparam int Pixels    = OutH * OutW;
  localparam int PixelBits = mx_pkg::index_bits(Pixels);
  logic [PixelBits-1:0] pixel_q;
  assign frame_end = pixel_q == PixelBits'(Pixels - 1) && int'(beat_q) == OutBeats - 1;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      beat_q  <= '0;
      addr_q  <= '0;
      pixel_q <= '0;
    end else if (en && valid) begin
      if (keep) addr_q <= (addr_q == AddrBits'(Depth - 1)) ? '0 : addr_q + 1'b1;
      if (last_tap) begin
        beat_q <= beat_end ? '0 : beat_q + 1'b1;
        if (beat_end) pixel_q <= last ? '0 : pixel_q + 1'b1;
      end
    end
  end

  // Stages: 1 weights, then MulDelay of the product, then shift, then accumulator.

  localparam int Stages = MulDelay + 3;

  typedef struct packed {
    logic valid;
    logic first;
    logic done;
    logic last;
  } place_t;

  place_t [Stages:1] place_q;
  logic              out_valid_q, out_last_q;

  assign en = !out_valid_q || m_axis_tready;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      place_q     <= '0;
      out_valid_q <= 1'b0;
    end else if (en) begin
      place_q[1] <= '{
        valid: valid && keep, first: first_tap, done: valid && keep && last_tap,
        last: frame_end && last_tap
      };
      for (int i = 2; i <= Stages; i++) place_q[i] <= place_q[i-1];
      out_valid_q <= place_q[Stages].done;
    end
    if (en) out_last_q <= place_q[Stages].last;
  end

  logic [Lanes-1:0][ABits-1:0]   x1_q;
  logic [7:0]                    x_scale1_q;
  logic [Lanes-1:0][WBits-1:0]   w;
  logic [Lanes-1:0][7:0]         w_scale;
  logic [Lanes-1:0][AccWidth-1:0] bias;

  always_ff @(posedge aclk) begin
    if (en) begin
      x1_q       <= pad ? '0 : data[Lanes*ABits-1:0];
      x_scale1_q <= pad ? 8'(PadScale) : data[Lanes*ABits+:8];
    end
  end

  mx_rom #(
    .Width(Lanes * WBits), .Depth(Depth), .BlockDepth(256), .File(WeightFile)
  ) u_weights (
    .aclk, .en_i(en), .addr_i(addr_q), .data_o(w)
  );
  mx_rom #(
    .Width(8 * Lanes), .Depth(Depth), .BlockDepth(256), .File(ScaleFile)
  ) u_scales (
    .aclk, .en_i(en), .addr_i(addr_q), .data_o(w_scale)
  );

  // The bias waits until its accumulator begins.

  if (HasBias) begin : g_bias
    logic [Lanes-1:0][AccWidth-1:0] bias1;
    logic [Stages:2][Lanes*AccWidth-1:0] bias_q;
    mx_rom #(
      .Width(AccWidth * Lanes), .Depth(OutBeats), .BlockDepth(256), .File(BiasFile)
    ) u_bias (
      .aclk, .en_i(en), .addr_i(bias_addr), .data_o(bias1)
    );
    always_ff @(posedge aclk) begin
      if (en) begin
        bias_q[2] <= bias1;
        for (int i = 3; i <= Stages; i++) bias_q[i] <= bias_q[i-1];
      end
    end
    assign bias = bias_q[Stages];
  end else begin : g_no_bias
    assign bias = '0;
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [ProdBits-1:0]             product, signed2_q;
    logic                                   negate;
    logic [MulDelay+1:1][ShiftBits-1:0]     shift_q;
    logic signed [AccWidth-1:0]             term_q, acc_q;

    mx_mul #(
      .AExpBits(AExpBits), .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits),
      .UseDsp(AExpBits == 0 && WExpBits == 0)
    ) u_mul (
      .aclk, .en_i(en), .a_i(x1_q[i]), .w_i(w[i]), .prod_o(product), .neg_o(negate)
    );

    always_ff @(posedge aclk) begin
      if (en) begin
        shift_q[1] <= ShiftBits'(x_scale1_q) + ShiftBits'(w_scale[i]) - ShiftBits'(ScaleOffset);
        for (int j = 2; j <= MulDelay + 1; j++) shift_q[j] <= shift_q[j-1];
        signed2_q <= (product ^ {ProdBits{negate && Pending}}) + ProdBits'(negate);
        term_q    <= AccWidth'(signed2_q) <<< shift_q[MulDelay+1];
        if (place_q[Stages].valid) begin
          acc_q <= (place_q[Stages].first ? $signed(bias[i]) : acc_q) + term_q;
        end
      end
    end

    assign m_axis_tdata[i*AccWidth+:AccWidth] = acc_q;
  end

  assign m_axis_tvalid = out_valid_q;
  assign m_axis_tlast  = out_last_q;

endmodule
