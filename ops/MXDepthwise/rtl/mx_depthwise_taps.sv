// Depthwise convolution of MX blocks, all taps of some pixels per cycle (mx_depthwise, Pixels > 0).
//
// Equation:  that of mx_depthwise.
// Frames:    H*W/Pixels beats of Pixels vectors {scale, elements} of all blocks in, OutH*OutW/Windows beats
//            of as many vectors of Lanes accumulators out, those behind K zero, Windows = max(Pixels/StrideW, 1).
// Latency:   that of mx_taps, mx_pkg::mul_latency + 3 and mx_pkg::sum_latency(taps + 1) cycles.
// Rounding:  none.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready. error_o as in mx_taps.
// Memories:  one word: weight and scale field tap*K + l, bias field l.
module mx_depthwise_taps #(
  parameter int AExpBits    = 2,
  parameter int AManBits    = 1,
  parameter int WExpBits    = 2,
  parameter int WManBits    = 1,
  parameter int Lanes       = 4,   // that go out, K or more
  parameter int K           = 4,   // channels
  parameter int Group       = 4,   // channels of a block
  parameter int Pixels      = 1,
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
  parameter int ShiftMax    = 0,
  parameter bit HasBias     = 0,
  parameter string WeightFile = "",
  parameter string ScaleFile  = "",
  parameter string BiasFile   = "",
  localparam int ABits   = mx_pkg::element_bits(AExpBits, AManBits),
  localparam int WBits   = mx_pkg::element_bits(WExpBits, WManBits),
  localparam int Blocks  = mx_pkg::ceil_div(K, Group),
  localparam int Pixel   = Blocks * (8 + Group * ABits),
  localparam int Windows = (Pixels > StrideW) ? Pixels / StrideW : 1
) (
  input  logic                              aclk,
  input  logic                              aresetn,

  input  logic                              s_axis_tvalid,
  output logic                              s_axis_tready,
  input  logic [Pixels*Pixel-1:0]           s_axis_tdata,
  input  logic                              s_axis_tlast,

  output logic                              m_axis_tvalid,
  input  logic                              m_axis_tready,
  output logic [Windows*Lanes*AccWidth-1:0] m_axis_tdata,
  output logic                              m_axis_tlast,

  output logic                              error_o
);

  if (K < 1 || Lanes < K || Group < 1 || Pixels < 1 || AccWidth < 2 || ShiftMax < 0 || ShiftMax > 255) begin : g_check
    $error("mx_depthwise_taps: Lanes = %0d, K = %0d, Group = %0d, Pixels = %0d, AccWidth = %0d, ShiftMax = %0d; %s",
           Lanes, K, Group, Pixels, AccWidth, ShiftMax, "expected positive numbers, Lanes for all K, ShiftMax <= 255");
  end

  localparam int Taps      = KernelH * KernelW;
  localparam int Terms     = Taps + int'(HasBias);
  localparam int ShiftBits = mx_pkg::index_bits(ShiftMax + 1);
  localparam int MulDelay  = mx_pkg::mul_latency(AExpBits, AManBits, WExpBits, WManBits);
  localparam int ProdBits  = mx_pkg::product_bits(AExpBits, AManBits, WExpBits, WManBits);
  localparam bit Pending   = mx_pkg::sign_pending(AExpBits, AManBits, WExpBits, WManBits);
  // Stages behind the windows: product, sign, shift, sum.
  localparam int Stages    = MulDelay + 2 + mx_pkg::sum_latency(Terms);

  logic                                             valid, en, last;
  logic [Windows-1:0][Taps-1:0][Blocks-1:0][8+Group*ABits-1:0] data;
  logic [Windows-1:0][Taps-1:0]                     pad;

  mx_taps #(
    .Width(Pixel), .Pixels(Pixels), .H(H), .W(W), .OutH(OutH), .OutW(OutW), .KernelH(KernelH), .KernelW(KernelW),
    .StrideH(StrideH), .StrideW(StrideW), .DilationH(DilationH), .DilationW(DilationW), .PadTop(PadTop),
    .PadLeft(PadLeft)
  ) u_taps (
    .aclk, .aresetn,
    .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
    .m_axis_tvalid(valid), .m_axis_tready(en), .m_axis_tdata(data), .m_axis_tlast(last), .pad_o(pad), .error_o
  );

  logic [Stages:1] valid_q, last_q;

  assign en            = !valid_q[Stages] || m_axis_tready;
  assign m_axis_tvalid = valid_q[Stages];
  assign m_axis_tlast  = last_q[Stages];

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[Stages-1:1], valid};
    if (en) last_q <= {last_q[Stages-1:1], last};
  end

  logic [Taps-1:0][K-1:0][WBits-1:0] w;
  logic [Taps-1:0][K-1:0][7:0]       w_scale;
  logic [K-1:0][AccWidth-1:0]        bias;

  mx_rom #(.Width(Taps * K * WBits), .Depth(1), .File(WeightFile)) u_weights (
    .aclk, .en_i(1'b1), .addr_i(1'b0), .data_o(w)
  );
  mx_rom #(.Width(Taps * K * 8), .Depth(1), .File(ScaleFile)) u_scales (
    .aclk, .en_i(1'b1), .addr_i(1'b0), .data_o(w_scale)
  );
  if (HasBias) begin : g_bias
    mx_rom #(.Width(K * AccWidth), .Depth(1), .File(BiasFile)) u_bias (
      .aclk, .en_i(1'b1), .addr_i(1'b0), .data_o(bias)
    );
  end else begin : g_no_bias
    assign bias = '0;
  end

  for (genvar v = 0; v < Windows; v++) begin : g_window
    for (genvar i = K; i < Lanes; i++) begin : g_surplus
      assign m_axis_tdata[(v*Lanes+i)*AccWidth+:AccWidth] = '0;
    end
    for (genvar i = 0; i < K; i++) begin : g_lane
      logic [Terms-1:0][AccWidth-1:0] terms_q;
      logic signed [AccWidth-1:0]     sum;

      for (genvar t = 0; t < Taps; t++) begin : g_tap
        logic [8+Group*ABits-1:0]           block;
        logic [ABits-1:0]                   code;
        logic [7:0]                         scale;
        logic signed [ProdBits-1:0]         product, signed_q;
        logic                               negate;
        logic [MulDelay+1:1][ShiftBits-1:0] shift_q;

        assign block = data[v][t][i/Group];
        assign code  = pad[v][t] ? '0 : block[(i%Group)*ABits+:ABits];
        assign scale = pad[v][t] ? 8'(PadScale) : block[Group*ABits+:8];

        mx_mul #(
          .AExpBits(AExpBits), .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits),
          .UseDsp(AExpBits == 0 && WExpBits == 0)
        ) u_mul (
          .aclk, .en_i(en), .a_i(code), .w_i(w[t][i]), .prod_o(product), .neg_o(negate)
        );

        always_ff @(posedge aclk) begin
          if (en) begin
            shift_q[1] <= ShiftBits'(scale) + ShiftBits'(w_scale[t][i]) - ShiftBits'(ScaleOffset);
            for (int j = 2; j <= MulDelay + 1; j++) shift_q[j] <= shift_q[j-1];
            signed_q   <= (product ^ {ProdBits{negate && Pending}}) + ProdBits'(negate);
            terms_q[t] <= AccWidth'(signed_q) <<< shift_q[MulDelay+1];
          end
        end
      end

      if (HasBias) begin : g_add
        assign terms_q[Taps] = bias[i];
      end

      mx_sum #(.Terms(Terms), .Width(AccWidth)) u_sum (.aclk, .en_i(en), .terms_i(terms_q), .sum_o(sum));
      assign m_axis_tdata[(v*Lanes+i)*AccWidth+:AccWidth] = sum;
    end
  end

endmodule
