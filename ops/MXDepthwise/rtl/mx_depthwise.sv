// Depthwise convolution of MX blocks (operator MXDepthwise): one tap per cycle, or all taps of some pixels.
//
// Equation:  y[c] = bias[c] + sum over taps of
//                   linear(x[tap][c]) * linear(w[tap][c])
//                   << (x_scale[tap] + w_scale[tap][c] - ScaleOffset);
//            taps outside the frame are zeros. Exact (AccWidth must hold the result).
// Frames:    H*W vectors of ceil(K/Group) * (Group/Lanes) beats {scale, Lanes elements} in;
//            OutH*OutW vectors of ceil(K/Lanes) beats out, surplus lanes undefined. With Pixels > 0,
//            Pixels vectors of whole blocks a beat in, max(Pixels/StrideW, 1) vectors a beat out.
// Latency:   that of mx_depthwise_serial or mx_depthwise_taps.
// Rounding:  none.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only (on m_axis_tready with Pixels > 0).
// Memories:  $readmemh files: weight and scale word (beat, tap) field l = channel beat*Lanes + l,
//            bias word (beat) field l; with Pixels > 0 one word, weight and scale field tap*K + l.
module mx_depthwise #(
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
  parameter int Pixels      = 0,   // at once, with all their taps and channels; 0: Lanes channels of one tap
  localparam int ABits   = mx_pkg::element_bits(AExpBits, AManBits),
  localparam int InBits  = (Pixels == 0) ? 8 + Lanes * ABits
      : Pixels * mx_pkg::ceil_div(K, Group) * (8 + Group * ABits),
  localparam int OutBits = (Pixels > StrideW ? Pixels / StrideW : 1) * Lanes * AccWidth
) (
  input  logic               aclk,
  input  logic               aresetn,

  input  logic               s_axis_tvalid,
  output logic               s_axis_tready,
  input  logic [InBits-1:0]  s_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  input  logic               s_axis_tlast,

  output logic               m_axis_tvalid,
  input  logic               m_axis_tready,
  output logic [OutBits-1:0] m_axis_tdata,
  output logic               m_axis_tlast,

  output logic               error_o
);

  if (K < 1 || Group < 1 || Lanes < 1 || Pixels < 0 || (Pixels > 0 && Lanes < K) || PadScale < 0 || PadScale > 254)
  begin : g_check
    $error("mx_depthwise: K = %0d, Group = %0d, Lanes = %0d, Pixels = %0d, PadScale = %0d; expected %s", K, Group,
           Lanes, Pixels, PadScale, "positive numbers, all channels in the lanes where several taps go at once");
  end

  if (Pixels > 0) begin : g_taps
    mx_depthwise_taps #(
      .AExpBits(AExpBits), .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits), .Lanes(Lanes), .K(K),
      .Group(Group), .Pixels(Pixels), .H(H), .W(W), .OutH(OutH), .OutW(OutW), .KernelH(KernelH), .KernelW(KernelW),
      .StrideH(StrideH), .StrideW(StrideW), .DilationH(DilationH), .DilationW(DilationW), .PadTop(PadTop),
      .PadLeft(PadLeft), .PadScale(PadScale), .AccWidth(AccWidth), .ScaleOffset(ScaleOffset), .ShiftMax(ShiftMax),
      .HasBias(HasBias), .WeightFile(WeightFile), .ScaleFile(ScaleFile), .BiasFile(BiasFile)
    ) u_taps (.*);
  end else begin : g_serial
    mx_depthwise_serial #(
      .AExpBits(AExpBits), .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits), .Lanes(Lanes), .K(K),
      .Group(Group), .H(H), .W(W), .OutH(OutH), .OutW(OutW), .KernelH(KernelH), .KernelW(KernelW),
      .StrideH(StrideH), .StrideW(StrideW), .DilationH(DilationH), .DilationW(DilationW), .PadTop(PadTop),
      .PadLeft(PadLeft), .PadScale(PadScale), .AccWidth(AccWidth), .ScaleOffset(ScaleOffset), .ShiftMax(ShiftMax),
      .HasBias(HasBias), .WeightFile(WeightFile), .ScaleFile(ScaleFile), .BiasFile(BiasFile)
    ) u_serial (.*);
  end

endmodule
