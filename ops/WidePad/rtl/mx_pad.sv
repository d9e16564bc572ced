// A border of zeros around frames of wide integers (operator WidePad).
//
// Equation:  output pixel (PadTop + y, PadLeft + x) = input pixel (y, x); all others are zero.
// Frames:    H*W vectors of ceil(K/Lanes) beats in, OutH*OutW vectors of as many out.
// Latency:   that of mx_spread.
// Rounding:  none.
// Handshake: AXI4-Stream, as mx_spread.
module mx_pad #(
  parameter int Width   = 16,
  parameter int Lanes   = 1,
  parameter int K       = 1,
  parameter int H       = 2,
  parameter int W       = 2,
  parameter int OutH    = 4,
  parameter int OutW    = 4,
  parameter int PadTop  = 1,
  parameter int PadLeft = 1
) (
  input  logic                   aclk,
  input  logic                   aresetn,

  input  logic                   s_axis_tvalid,
  output logic                   s_axis_tready,
  input  logic [Lanes*Width-1:0] s_axis_tdata,
  input  logic                   s_axis_tlast,

  output logic                   m_axis_tvalid,
  input  logic                   m_axis_tready,
  output logic [Lanes*Width-1:0] m_axis_tdata,
  output logic                   m_axis_tlast,

  output logic                   error_o
);

  if (Width < 2 || Lanes < 1 || K < 1) begin : g_check
    $error("mx_pad: Width = %0d, Lanes = %0d, K = %0d; expected Width >= 2, others positive",
           Width, Lanes, K);
  end

  mx_spread #(
    .Width(Lanes * Width), .H(H), .W(W), .Beats(mx_pkg::ceil_div(K, Lanes)), .OutH(OutH),
    .OutW(OutW), .StepH(1), .StepW(1), .PadTop(PadTop), .PadLeft(PadLeft), .Fill('0)
  ) u_spread (.*);

endmodule
