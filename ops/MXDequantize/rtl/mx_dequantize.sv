// MX blocks to wide integers (operator MXDequantize).
//
// Equation:  y = linear(code) << (scale - ScaleOffset) in every lane, with linear the whole number of
//            smallest element steps; exact (OutWidth must hold the result).
// Frames:    vectors of ceil(K/Group) * (Group/Lanes) beats {scale, Lanes elements} in, or of
//            ceil(K/Group) / (Lanes/Group) beats of as many whole blocks; ceil(K/Lanes) beats out:
//            beats of padding are dropped.
// Latency:   2 cycles; one beat per cycle sustained.
// Rounding:  none.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
module mx_dequantize #(
  parameter int ExpBits     = 2,   // 0: integer element
  parameter int ManBits     = 1,
  parameter int K           = 32,  // elements of a vector
  parameter int Group       = 32,
  parameter int Lanes       = 1,
  parameter int ScaleOffset = 0,
  parameter int ShiftMax    = 0,   // largest scale - ScaleOffset
  parameter int OutWidth    = 16,
  localparam int Bits   = mx_pkg::element_bits(ExpBits, ManBits),
  localparam int Across = (Lanes > Group) ? Lanes / Group : 1,  // blocks of a beat
  localparam int Part   = Lanes / Across                        // elements of each
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s_axis_tvalid,
  output logic                      s_axis_tready,
  input  logic [Across-1:0][8+Part*Bits-1:0] s_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  input  logic                      s_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast
);

  if (K < 1 || Group < 1 || Lanes < 1 || Group % Part != 0 || Lanes != Across * Part ||
      mx_pkg::ceil_div(K, Group) % Across != 0 || OutWidth < 2 || ShiftMax < 0 || ShiftMax > 254) begin : g_check
    $error("mx_dequantize: K = %0d, Group = %0d, Lanes = %0d, OutWidth = %0d, ShiftMax = %0d; %s", K, Group, Lanes,
           OutWidth, ShiftMax, "expected Lanes a divisor of Group or whole groups that divide K's, ShiftMax <= 254");
  end

  localparam int InBeats   = mx_pkg::ceil_div(K, Group) / Across * (Group / Part);  // of a vector
  localparam int OutBeats  = mx_pkg::ceil_div(K, Lanes);
  localparam int BeatBits  = mx_pkg::index_bits(InBeats);
  localparam int ShiftBits = mx_pkg::index_bits(ShiftMax + mx_pkg::exponent_span(ExpBits) + 1);

  logic                en, take, keep, vector_end;
  logic [BeatBits-1:0] beat_q;
  logic                valid1_q, valid2_q, last1_q, last2_q, ended_q;

  assign en            = !valid2_q || m_axis_tready;
  assign s_axis_tready = en;
  assign take          = s_axis_tvalid && en;
  assign vector_end    = beat_q == BeatBits'(InBeats - 1);
  assign keep          = int'(beat_q) < OutBeats;

  // The last beat that is kept ends the frame, but only the last one that comes says so: it waits
  // in the first stage until the vector has come whole.
  logic hold1;
  assign hold1 = InBeats > OutBeats && valid1_q && !ended_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      beat_q   <= '0;
      valid1_q <= 1'b0;
      valid2_q <= 1'b0;
      ended_q  <= 1'b0;
    end else if (en) begin
      if (take) beat_q <= vector_end ? '0 : beat_q + 1'b1;
      valid2_q <= valid1_q && !hold1;
      if (take && keep) begin
        valid1_q <= 1'b1;
        ended_q  <= int'(beat_q) != OutBeats - 1;
      end else if (take && vector_end) begin
        ended_q <= 1'b1;
      end else if (!hold1) begin
        valid1_q <= 1'b0;
      end
    end
  end

  always_ff @(posedge aclk) begin
    if (en) begin
      if (take && (keep || vector_end)) last1_q <= s_axis_tlast;
      last2_q <= last1_q;
    end
  end

  // A mantissa with its sign, and one shift for its exponent and the scale of its block.
  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    localparam int MantBits = (ExpBits == 0) ? Bits : ManBits + 2;
    logic [Bits-1:0]            code;
    logic [7:0]                 scale;
    logic signed [MantBits-1:0] mantissa, mantissa1_q;
    logic [ShiftBits-1:0]       shift, shift1_q;
    logic signed [OutWidth-1:0] wide2_q;

    assign code  = s_axis_tdata[i/Part][(i%Part)*Bits+:Bits];
    assign scale = s_axis_tdata[i/Part][Part*Bits+:8];

    if (ExpBits == 0) begin : g_int
      assign mantissa = code;
      assign shift    = ShiftBits'(scale) - ShiftBits'(ScaleOffset);
    end else begin : g_float
      logic [ExpBits-1:0]  field;
      logic [MantBits-1:0] magnitude;
      assign field     = code[ManBits+:ExpBits];
      assign magnitude = MantBits'({field != '0, code[ManBits-1:0]});
      assign mantissa  = (magnitude ^ {MantBits{code[Bits-1]}}) + MantBits'(code[Bits-1]);
      // Exponents 0 and 1 shift by nothing.
      assign shift     = ShiftBits'(scale) - ShiftBits'(ScaleOffset + 1) + ShiftBits'(field | ExpBits'(field == '0));
    end

    always_ff @(posedge aclk) begin
      if (take && keep) begin
        mantissa1_q <= mantissa;
        shift1_q    <= shift;
      end
      if (en) wide2_q <= OutWidth'(mantissa1_q) <<< shift1_q;
    end
    assign m_axis_tdata[i*OutWidth+:OutWidth] = wide2_q;
  end

  assign m_axis_tvalid = valid2_q;
  assign m_axis_tlast  = last2_q;

endmodule
