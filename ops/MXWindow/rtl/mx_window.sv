// Windows of MX blocks: the operand of a convolution, tap by tap (operator MXWindow).
//
// Equation:  output pixel = the blocks of its taps, one tap after the other; taps outside the frame
//            are zero blocks of scale PadScale. Equals mxexport.numbers.spatial.window bit for bit.
// Frames:    H*W vectors of Beats beats {scale, Simd elements} in, OutH*OutW vectors of
//            KernelH*KernelW*Beats beats out.
// Latency:   that of mx_line_buffer.
// Rounding:  none.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. error_o as in mx_line_buffer.
module mx_window #(
  parameter int Bits      = 8,  // of an element
  parameter int Simd      = 1,
  parameter int H         = 4,
  parameter int W         = 4,
  parameter int Beats     = 1,  // of a pixel
  parameter int OutH      = 2,
  parameter int OutW      = 2,
  parameter int KernelH   = 3,
  parameter int KernelW   = 3,
  parameter int StrideH   = 1,
  parameter int StrideW   = 1,
  parameter int DilationH = 1,
  parameter int DilationW = 1,
  parameter int PadTop    = 0,
  parameter int PadLeft   = 0,
  parameter int PadScale  = 0
) (
  input  logic                   aclk,
  input  logic                   aresetn,

  input  logic                   s_axis_tvalid,
  output logic                   s_axis_tready,
  input  logic [8+Simd*Bits-1:0] s_axis_tdata,
  input  logic                   s_axis_tlast,

  output logic                   m_axis_tvalid,
  input  logic                   m_axis_tready,
  output logic [8+Simd*Bits-1:0] m_axis_tdata,
  output logic                   m_axis_tlast,

  output logic                   error_o
);

  if (Bits < 1 || Simd < 1 || PadScale < 0 || PadScale > 254) begin : g_check
    $error("mx_window: Bits = %0d, Simd = %0d, PadScale = %0d; expected positive numbers, %s",
           Bits, Simd, PadScale, "PadScale in 0..254");
  end

  localparam int Width = 8 + Simd * Bits;

  logic             pad;
  logic [Width-1:0] data;

  mx_line_buffer #(
    .Width(Width), .H(H), .W(W), .Beats(Beats), .OutH(OutH), .OutW(OutW), .KernelH(KernelH),
    .KernelW(KernelW), .StrideH(StrideH), .StrideW(StrideW), .DilationH(DilationH),
    .DilationW(DilationW), .PadTop(PadTop), .PadLeft(PadLeft), .TapsInner(1'b0)
  ) u_lines (
    .aclk, .aresetn,
    .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
    .m_axis_tvalid, .m_axis_tready, .m_axis_tdata(data), .m_axis_tlast,
    .pad_o(pad), .first_tap_o(), .last_tap_o(), .error_o
  );

  assign m_axis_tdata = pad ? {8'(PadScale), {Simd * Bits{1'b0}}} : data;

endmodule
