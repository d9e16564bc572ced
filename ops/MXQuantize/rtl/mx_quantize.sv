// Block quantizer: wide signed integers -> MX blocks (dataflow operator MXQuantize).
//
// Equation:  the input v (Width bits) stands for v * 2**LsbExp. For every block of Group elements:
//            scale = clip(floor(log2(amax)) + carry + LsbExp + 127 - Emax, CodeMin, CodeMax)
//            (mx_block_scale; `carry` is the rounding rule's, see RoundBias there),
//            code  = element nearest to v * 2**(LsbExp + 127 - scale), saturated (mx_encode).
//            Equals mxexport.numbers.fixedpoint.mx_quantize bit for bit.
// Frames:    Vectors vectors, each of ceil(K/Lanes) beats in, ceil(K/Group) * (Group/Lanes) beats out:
//            surplus lanes of a vector's last input beat are ignored, and its last short block is
//            padded with zero codes.
// Static:    an integer element with one scale code needs no scale found: mx_quantize_static.
// Latency:   9 cycles from the last beat of a block to its first output beat (2 if Static). One beat
//            per cycle sustained: a block is read from the buffer while the next ones are written.
// Rounding:  nearest, ties to even.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only (on m_axis_tready if Static).
//            error_o is sticky: an s_axis_tlast came where no frame ends, or was missing where one
//            does (frames are counted, TLAST is only checked). clamped_o counts blocks whose own
//            scale code lay outside [CodeMin, CodeMax].
module mx_quantize #(
  parameter int Width     = 32,
  parameter int LsbExp    = 0,
  parameter int K         = 32,   // elements of a vector
  parameter int Vectors   = 1,    // vectors of a frame (pixels, tokens)
  parameter int Group     = 32,   // elements that share a scale, power of two
  parameter int Lanes     = 1,    // elements per beat, divides Group
  parameter int ExpBits   = 2,    // 0: integer element
  parameter int ManBits   = 1,    // fraction bits of an integer element
  parameter int Bias      = 1,
  parameter int MaxCode   = 7,    // magnitude code of the largest finite element
  parameter int Emax      = 2,    // exponent of the largest binade
  parameter int RoundBias = 0,    // rounding rule of the scale (R in mxexport.numbers.formats.round_bias)
  parameter int CodeMin   = 0,
  parameter int CodeMax   = 254,
  parameter bit Static    = 0,    // an integer element and one scale code: rounds only
  localparam int Bits = mx_pkg::element_bits(ExpBits, ManBits)
) (
  input  logic                     aclk,
  input  logic                     aresetn,

  input  logic                     s_axis_tvalid,
  output logic                     s_axis_tready,
  input  logic [Lanes*Width-1:0]   s_axis_tdata,
  input  logic                     s_axis_tlast,

  output logic                     m_axis_tvalid,
  input  logic                     m_axis_tready,
  output logic [8+Lanes*Bits-1:0]  m_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  output logic                     m_axis_tlast,

  output logic [31:0]              clamped_o,
  output logic                     error_o
);

  // Codes that the element format can hold, for the check below.
  localparam int Emin    = (ExpBits == 0) ? 0 : 1 - Bias;
  localparam int Binades = (ExpBits == 0) ? 0 : Emax - Emin;

  if (Width < 2 || Width > 64 || K < 1 || Vectors < 1 || Group < 1 || (Group & (Group - 1)) != 0 || Lanes < 1 ||
      Group % Lanes != 0) begin : g_check_shape
    $error("mx_quantize: Width = %0d, K = %0d, Group = %0d, Lanes = %0d; expected %s", Width, K,
           Group, Lanes, "Width in 2..64, K, Vectors >= 1, Group a power of two, Lanes a divisor of it");
  end
  if (Bits < 2 || Bits > 8 + Static || MaxCode < 1 || MaxCode >= (1 << (Bits - 1)) + Static || Binades < 0 ||
      (ExpBits == 0 && Emax != 0) ||
      (ExpBits != 0 && (MaxCode >> ManBits) - Bias != Emax)) begin : g_check_element
    $error("mx_quantize: ExpBits = %0d, ManBits = %0d, Bias = %0d, MaxCode = %0d, Emax = %0d; %s",
           ExpBits, ManBits, Bias, MaxCode, Emax,
           "expected 2..8 bits, MaxCode within them and Emax the exponent of MaxCode");
  end
  if ((Static && (ExpBits != 0 || CodeMin != CodeMax)) || CodeMin < 0 || CodeMax > 254 || CodeMin > CodeMax ||
      RoundBias < 0 || RoundBias > 'h7F_FFFF) begin : g_check_scale
    $error("mx_quantize: CodeMin = %0d, CodeMax = %0d, RoundBias = %0d; expected %s", CodeMin,
           CodeMax, RoundBias, "0 <= CodeMin <= CodeMax <= 254 (one code if Static), RoundBias in 0..0x7FFFFF");
  end

  if (Static) begin : g_static
    mx_quantize_static #(
      .Width(Width), .K(K), .Vectors(Vectors), .Group(Group), .Lanes(Lanes), .Bits(Bits),
      .Shift(CodeMin - ManBits - (LsbExp + 127)), .MaxCode(MaxCode), .ScaleCode(CodeMin)
    ) u_static (
      .aclk, .aresetn,
      .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
      .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast,
      .error_o
    );
    assign clamped_o = '0;
  end else begin : g_blocks
    mx_quantize_blocks #(
      .Width(Width), .LsbExp(LsbExp), .K(K), .Vectors(Vectors), .Group(Group), .Lanes(Lanes), .ExpBits(ExpBits),
      .ManBits(ManBits), .Bias(Bias), .MaxCode(MaxCode), .Emax(Emax), .RoundBias(RoundBias), .CodeMin(CodeMin),
      .CodeMax(CodeMax)
    ) u_blocks (
      .aclk, .aresetn,
      .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
      .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast,
      .clamped_o, .error_o
    );
  end

endmodule
