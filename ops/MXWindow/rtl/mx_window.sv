// Windows of MX blocks: the operand of a convolution, tap by tap (operator MXWindow).
//
// Equation:  output pixel = the blocks of its taps, one tap after the other; taps outside the frame
//            are zero blocks of scale PadScale. Equals mxexport.numbers.spatial.window bit for bit.
// Frames:    H*W vectors of Beats beats {scale, Simd elements} in, or of several whole blocks a beat;
//            OutH*OutW vectors of KernelH*KernelW*Beats beats out. With Pixels > 0, Pixels vectors a
//            beat in and max(Pixels/StrideW, 1) a beat out, with all of their taps.
// Latency:   that of mx_line_buffer, or of mx_taps.
// Rounding:  none.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only (on m_axis_tready with Pixels > 0).
//            error_o as in mx_line_buffer.
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
  parameter int PadScale  = 0,
  parameter int Group     = 32,  // elements of a block; Simd divides it or is a multiple
  parameter int Pixels    = 0,   // at once, with all their taps; 0: one beat of one tap after the other
  localparam int Across   = (Simd > Group) ? Simd / Group : 1,  // blocks of a pixel's beat
  localparam int Width    = Across * 8 + Simd * Bits,
  localparam int InBits   = (Pixels > 0) ? Pixels * Width : Width,
  localparam int OutBits  = (Pixels == 0) ? Width
      : (Pixels > StrideW ? Pixels / StrideW : 1) * KernelH * KernelW * Width
) (
  input  logic                   aclk,
  input  logic                   aresetn,

  input  logic                   s_axis_tvalid,
  output logic                   s_axis_tready,
  input  logic [InBits-1:0]      s_axis_tdata,
  input  logic                   s_axis_tlast,

  output logic                   m_axis_tvalid,
  input  logic                   m_axis_tready,
  output logic [OutBits-1:0]     m_axis_tdata,
  output logic                   m_axis_tlast,

  output logic                   error_o
);

  if (Bits < 1 || Simd < 1 || (Group % Simd != 0 && Simd % Group != 0) || PadScale < 0 || PadScale > 254 ||
      Pixels < 0 || (Pixels > 0 && Beats != 1)) begin : g_check
    $error("mx_window: Bits = %0d, Simd = %0d, PadScale = %0d, Pixels = %0d; expected positive numbers, %s", Bits, Simd,
           PadScale, Pixels, "PadScale in 0..254, whole pixels where several taps go at once");
  end

  localparam logic [Width-1:0] Fill = {Across{8'(PadScale), {Simd / Across * Bits{1'b0}}}};

  if (Pixels > 0) begin : g_taps
    localparam int Parts = OutBits / Width;
    logic [Parts-1:0][Width-1:0] data;
    logic [Parts-1:0]            pad;

    mx_taps #(
      .Width(Width), .Pixels(Pixels), .H(H), .W(W), .OutH(OutH), .OutW(OutW), .KernelH(KernelH), .KernelW(KernelW),
      .StrideH(StrideH), .StrideW(StrideW), .DilationH(DilationH), .DilationW(DilationW), .PadTop(PadTop),
      .PadLeft(PadLeft)
    ) u_taps (
      .aclk, .aresetn,
      .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
      .m_axis_tvalid, .m_axis_tready, .m_axis_tdata(data), .m_axis_tlast, .pad_o(pad), .error_o
    );

    for (genvar i = 0; i < Parts; i++) begin : g_part
      assign m_axis_tdata[i*Width+:Width] = pad[i] ? Fill : data[i];
    end
  end else begin : g_lines
    logic             pad;
    logic [Width-1:0] data;

    mx_line_buffer #(
      .Width(Width), .H(H), .W(W), .Beats(Beats), .OutH(OutH), .OutW(OutW), .KernelH(KernelH), .KernelW(KernelW),
      .StrideH(StrideH), .StrideW(StrideW), .DilationH(DilationH), .DilationW(DilationW), .PadTop(PadTop),
      .PadLeft(PadLeft), .TapsInner(1'b0)
    ) u_lines (
      .aclk, .aresetn,
      .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
      .m_axis_tvalid, .m_axis_tready, .m_axis_tdata(data), .m_axis_tlast,
      .pad_o(pad), .first_tap_o(), .last_tap_o(), .error_o
    );

    assign m_axis_tdata = pad ? Fill : data;
  end

endmodule
