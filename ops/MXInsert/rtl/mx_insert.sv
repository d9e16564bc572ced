// Zero blocks between pixels of MX blocks (operator MXInsert): the input of a transposed convolution.
//
// Equation:  output pixel (y*StepH, x*StepW) = input pixel (y, x); all others are zero blocks of scale
//            PadScale.
// Frames:    H*W vectors of Beats beats {scale, Simd elements} in, OutH*OutW vectors out.
// Latency:   that of mx_spread.
// Rounding:  none.
// Handshake: AXI4-Stream, as mx_spread.
module mx_insert #(
  parameter int Bits     = 8,  // of an element
  parameter int Simd     = 1,
  parameter int H        = 2,
  parameter int W        = 2,
  parameter int Beats    = 1,
  parameter int OutH     = 3,
  parameter int OutW     = 3,
  parameter int StepH    = 2,
  parameter int StepW    = 2,
  parameter int PadScale = 0,
  parameter int Group    = 32,  // elements of a block; Simd divides it or is a multiple
  localparam int Across  = (Simd > Group) ? Simd / Group : 1,  // blocks of a beat
  localparam int Width   = Across * 8 + Simd * Bits
) (
  input  logic                   aclk,
  input  logic                   aresetn,

  input  logic                   s_axis_tvalid,
  output logic                   s_axis_tready,
  input  logic [Width-1:0] s_axis_tdata,
  input  logic                   s_axis_tlast,

  output logic                   m_axis_tvalid,
  input  logic                   m_axis_tready,
  output logic [Width-1:0] m_axis_tdata,
  output logic                   m_axis_tlast,

  output logic                   error_o
);

  if (Bits < 1 || Simd < 1 || (Group % Simd != 0 && Simd % Group != 0) || PadScale < 0 ||
      PadScale > 254) begin : g_check
    $error("mx_insert: Bits = %0d, Simd = %0d, PadScale = %0d; expected positive numbers, %s",
           Bits, Simd, PadScale, "PadScale in 0..254");
  end

  mx_spread #(
    .Width(Width), .H(H), .W(W), .Beats(Beats), .OutH(OutH), .OutW(OutW), .StepH(StepH),
    .StepW(StepW), .PadTop(0), .PadLeft(0), .Fill({Across{8'(PadScale), {Simd / Across * Bits{1'b0}}}})
  ) u_spread (.*);

endmodule
