// The channels of two streams of wide integers, side by side (operator WideConcat).
//
// Equation:  a vector of y = the AK channels of a << AShift, then the BK channels of b << BShift.
// Frames:    Vectors vectors of AK/Lanes and of BK/Lanes beats in, of (AK+BK)/Lanes beats out.
// Latency:   1 cycle; one beat per cycle sustained.
// Rounding:  none.
// Handshake: AXI4-Stream. One input waits while the other's part of a vector passes. error_o is
//            sticky: an input ended a frame at another vector. Both s*_axis_tready depend on
//            m_axis_tready.
module mx_concat #(
  parameter int AWidth   = 16,
  parameter int BWidth   = 16,
  parameter int AShift   = 0,
  parameter int BShift   = 0,
  parameter int OutWidth = 16,
  parameter int AK       = 4,
  parameter int BK       = 4,
  parameter int Vectors  = 1,
  parameter int Lanes    = 1
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s0_axis_tvalid,
  output logic                      s0_axis_tready,
  input  logic [Lanes*AWidth-1:0]   s0_axis_tdata,
  input  logic                      s0_axis_tlast,

  input  logic                      s1_axis_tvalid,
  output logic                      s1_axis_tready,
  input  logic [Lanes*BWidth-1:0]   s1_axis_tdata,
  input  logic                      s1_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast,

  output logic                      error_o
);

  if (AWidth < 2 || BWidth < 2 || OutWidth < 2 || AShift < 0 || BShift < 0 || Lanes < 1 ||
      AK < 1 || BK < 1 || AK % Lanes != 0 || BK % Lanes != 0 || Vectors < 1) begin : g_check
    $error("mx_concat: AK = %0d, BK = %0d, Lanes = %0d, OutWidth = %0d; expected %s", AK, BK, Lanes,
           OutWidth, "Lanes a divisor of both and widths >= 2");
  end

  localparam int ABeats     = AK / Lanes;
  localparam int Beats      = ABeats + BK / Lanes;
  localparam int BeatBits   = mx_pkg::index_bits(Beats);
  localparam int VectorBits = mx_pkg::index_bits(Vectors);

  logic                  en, take, second, vector_end, frame_end;
  logic [BeatBits-1:0]   beat_q;
  logic [VectorBits-1:0] vector_q;

  assign en             = !m_axis_tvalid || m_axis_tready;
  assign second         = int'(beat_q) >= ABeats;
  assign s0_axis_tready = en && !second;
  assign s1_axis_tready = en && second;
  assign take           = en && (second ? s1_axis_tvalid : s0_axis_tvalid);
  assign vector_end     = beat_q == BeatBits'(Beats - 1);
  assign frame_end      = vector_q == VectorBits'(Vectors - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      beat_q        <= '0;
      vector_q      <= '0;
      m_axis_tvalid <= 1'b0;
      error_o       <= 1'b0;
    end else begin
      if (en) m_axis_tvalid <= take;
      if (take) begin
        beat_q <= vector_end ? '0 : beat_q + 1'b1;
        if (vector_end) vector_q <= frame_end ? '0 : vector_q + 1'b1;
        if (second ? s1_axis_tlast != (vector_end && frame_end)
                   : s0_axis_tlast != (frame_end && int'(beat_q) == ABeats - 1)) error_o <= 1'b1;
      end
    end
    if (take) m_axis_tlast <= vector_end && frame_end;
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [AWidth-1:0] a;
    logic signed [BWidth-1:0] b;
    assign a = s0_axis_tdata[i*AWidth+:AWidth];
    assign b = s1_axis_tdata[i*BWidth+:BWidth];
    always_ff @(posedge aclk) begin
      if (take) begin
        m_axis_tdata[i*OutWidth+:OutWidth] <=
            second ? OutWidth'(b) <<< BShift : OutWidth'(a) <<< AShift;
      end
    end
  end

endmodule
