// Block quantizer: wide signed integers -> MX blocks (dataflow operator MXQuantize).
//
// Equation:  the input v (Width bits) stands for v * 2**LsbExp. For every block of Group elements:
//            scale = clip(floor(log2(amax)) + carry + LsbExp + 127 - Emax, CodeMin, CodeMax)
//            (mx_block_scale; `carry` is the rounding rule's, see RoundBias there),
//            code  = element nearest to v * 2**(LsbExp + 127 - scale), saturated (mx_encode).
//            Equals mxexport.numbers.fixedpoint.mx_quantize bit for bit.
// Frames:    Vectors vectors, each of ceil(K/Lanes) beats in, ceil(K/Group) * (Group/Lanes) beats out
//            (as many as in where Lanes is several groups: whole blocks side by side): surplus lanes of
//            a vector's last input beat are ignored, and its last short block is padded with zero codes.
// Static:    an integer element with one scale code needs no scale found: mx_quantize_static.
// Latency:   8 to 12 cycles from the last beat of a block to its first output beat (mx_quantize_blocks; 2 if
//            Static). One beat per cycle sustained: a block is read from the buffer while the next ones are written.
// Rounding:  nearest, ties to even.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only (on m_axis_tready if Static).
//            error_o is sticky: an s_axis_tlast came where no frame ends, or was missing where one
//            does (frames are counted, TLAST is only checked). clamped_o counts blocks whose own
//            scale code lay outside [CodeMin, CodeMax], up to 65,535 for each block of a beat.
module mx_quantize #(
  parameter int Width     = 32,
  parameter int LsbExp    = 0,
  parameter int K         = 32,   // elements of a vector
  parameter int Vectors   = 1,    // vectors of a frame (pixels, tokens)
  parameter int Group     = 32,   // elements that share a scale, power of two
  parameter int Lanes     = 1,    // elements per beat, divides Group, or is whole groups: a divisor of a vector's
  parameter int ExpBits   = 2,    // 0: integer element
  parameter int ManBits   = 1,    // fraction bits of an integer element
  parameter int Bias      = 1,
  parameter int MaxCode   = 7,    // magnitude code of the largest finite element
  parameter int Emax      = 2,    // exponent of the largest binade
  parameter int RoundBias = 0,    // rounding rule of the scale (R in mxexport.numbers.formats.round_bias)
  parameter int CodeMin   = 0,
  parameter int CodeMax   = 254,
  parameter bit Static    = 0,    // an integer element and one scale code: rounds only
  parameter bit Signed    = 1,    // 0: no input is negative
  localparam int Bits   = mx_pkg::element_bits(ExpBits, ManBits),
  localparam int Across = (Lanes > Group) ? Lanes / Group : 1,  // blocks of a beat
  localparam int Part   = Lanes / Across                        // elements of each
) (
  input  logic                     aclk,
  input  logic                     aresetn,

  input  logic                     s_axis_tvalid,
  output logic                     s_axis_tready,
  input  logic [Across-1:0][Part*Width-1:0]  s_axis_tdata,
  input  logic                     s_axis_tlast,

  output logic                     m_axis_tvalid,
  input  logic                     m_axis_tready,
  output logic [Across-1:0][8+Part*Bits-1:0] m_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  output logic                     m_axis_tlast,

  output logic [31:0]              clamped_o,
  output logic                     error_o
);

  // Codes that the element format can hold, for the check below.
  localparam int Emin    = (ExpBits == 0) ? 0 : 1 - Bias;
  localparam int Binades = (ExpBits == 0) ? 0 : Emax - Emin;

  if (Width < 2 || Width > 64 || K < 1 || Vectors < 1 || Group < 1 || (Group & (Group - 1)) != 0 || Lanes < 1 ||
      Group % Part != 0 || Lanes != Across * Part || mx_pkg::ceil_div(K, Group) % Across != 0) begin : g_check_shape
    $error("mx_quantize: Width = %0d, K = %0d, Group = %0d, Lanes = %0d; expected %s", Width, K, Group, Lanes,
           "Width in 2..64, K, Vectors >= 1, Group a power of two, Lanes its divisor or whole groups that divide K's");
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

  // Copies side by side take the blocks of a beat; all move as the first does.

  localparam int Blocks = mx_pkg::ceil_div(K, Group);

  logic [Across-1:0]       ready, valid, last, error;
  logic [Across-1:0][31:0] clamped;

  for (genvar b = 0; b < Across; b++) begin : g_block
    localparam int Own = (b == Across - 1) ? K - (Blocks - Blocks / Across) * Group : Blocks / Across * Group;

    if (Static) begin : g_static
      mx_quantize_static #(
        .Width(Width), .K(Own), .Vectors(Vectors), .Group(Group), .Lanes(Part), .Bits(Bits),
        .Shift(CodeMin - ManBits - (LsbExp + 127)), .MaxCode(MaxCode), .ScaleCode(CodeMin)
      ) u_static (
        .aclk, .aresetn,
        .s_axis_tvalid, .s_axis_tready(ready[b]), .s_axis_tdata(s_axis_tdata[b]), .s_axis_tlast,
        .m_axis_tvalid(valid[b]), .m_axis_tready, .m_axis_tdata(m_axis_tdata[b]), .m_axis_tlast(last[b]),
        .error_o(error[b])
      );
      assign clamped[b] = '0;
    end else begin : g_dynamic
      mx_quantize_blocks #(
        .Width(Width), .LsbExp(LsbExp), .K(Own), .Vectors(Vectors), .Group(Group), .Lanes(Part), .ExpBits(ExpBits),
        .ManBits(ManBits), .Bias(Bias), .MaxCode(MaxCode), .Emax(Emax), .RoundBias(RoundBias), .CodeMin(CodeMin),
        .CodeMax(CodeMax), .Signed(Signed)
      ) u_blocks (
        .aclk, .aresetn,
        .s_axis_tvalid, .s_axis_tready(ready[b]), .s_axis_tdata(s_axis_tdata[b]), .s_axis_tlast,
        .m_axis_tvalid(valid[b]), .m_axis_tready, .m_axis_tdata(m_axis_tdata[b]), .m_axis_tlast(last[b]),
        .clamped_o(clamped[b]), .error_o(error[b])
      );
    end
  end

  assign s_axis_tready = ready[0];
  assign m_axis_tvalid = valid[0];
  assign m_axis_tlast  = last[0];
  assign error_o       = error[0];

  if (Across == 1) begin : g_one
    assign clamped_o = clamped[0];
  end else begin : g_several
    logic [39:0] sum;
    logic        unused;
    always_comb begin
      sum = '0;
      for (int b = 0; b < Across; b++) sum += 40'(clamped[b]);
    end
    assign clamped_o = (sum[39:32] != '0) ? '1 : sum[31:0];
    assign unused    = ^{ready, valid, last, error};
  end

endmodule
