// Quantizer of integers with a constant scale: wide signed integers -> blocks (mx_quantize, Static = 1).
//
// Equation:  code = clip(v * 2**-Shift rounded to the nearest integer, -MaxCode, MaxCode), as its low
//            Bits bits; every block has the scale ScaleCode.
// Frames:    as mx_quantize. Frames are counted; TLAST is only checked.
// Latency:   2 cycles; one beat per cycle sustained. Padding of a vector's last block costs beats.
// Rounding:  nearest, ties to even.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
module mx_quantize_static #(
  parameter int Width     = 32,
  parameter int K         = 32,
  parameter int Vectors   = 1,
  parameter int Group     = 32,
  parameter int Lanes     = 1,
  parameter int Bits      = 8,
  parameter int Shift     = 0,    // may be negative
  parameter int MaxCode   = 127,
  parameter int ScaleCode = 127
) (
  input  logic                     aclk,
  input  logic                     aresetn,

  input  logic                     s_axis_tvalid,
  output logic                     s_axis_tready,
  input  logic [Lanes*Width-1:0]   s_axis_tdata,
  input  logic                     s_axis_tlast,

  output logic                     m_axis_tvalid,
  input  logic                     m_axis_tready,
  output logic [8+Lanes*Bits-1:0]  m_axis_tdata,
  output logic                     m_axis_tlast,

  output logic                     error_o
);

  if (Width < 2 || K < 1 || Vectors < 1 || Lanes < 1 || Group % Lanes != 0 || Bits < 2 || Bits > 9 || MaxCode < 1 ||
      MaxCode > (1 << (Bits - 1)) || ScaleCode < 0 || ScaleCode > 254) begin : g_check
    $error("mx_quantize_static: Width = %0d, K = %0d, Lanes = %0d, Bits = %0d, MaxCode = %0d; expected %s", Width, K,
           Lanes, Bits, MaxCode, "Lanes a divisor of Group, and elements of 2 to 9 bits that hold MaxCode");
  end

  localparam int InBeats    = mx_pkg::ceil_div(K, Lanes);                    // of a vector
  localparam int OutBeats   = mx_pkg::ceil_div(K, Group) * (Group / Lanes);
  localparam int TailLanes  = K - (InBeats - 1) * Lanes;
  localparam int BeatBits   = mx_pkg::index_bits(OutBeats);
  localparam int VectorBits = mx_pkg::index_bits(Vectors);
  // Beyond these, everything but zero saturates, or everything is zero.
  localparam int Left       = mx_pkg::clip(-Shift, 0, Bits);
  localparam int Right      = mx_pkg::clip(Shift, 0, Width);
  localparam int Whole      = Width + Left + 1 - Right;                      // of the rounded integer

  localparam int Compared   = (Whole > Bits ? Whole : Bits) + 1;

  logic                  en, pad, take, go, in_end, out_end, frame_end;
  logic [BeatBits-1:0]   beat_q;
  logic [VectorBits-1:0] vector_q;
  logic [2:1]            valid_q, last_q;

  assign en            = !valid_q[2] || m_axis_tready;
  assign pad           = int'(beat_q) >= InBeats;
  assign s_axis_tready = en && !pad;
  assign take          = s_axis_tvalid && s_axis_tready;
  assign go            = take || (en && pad);
  assign in_end        = beat_q == BeatBits'(InBeats - 1);
  assign out_end       = beat_q == BeatBits'(OutBeats - 1);
  assign frame_end     = vector_q == VectorBits'(Vectors - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      beat_q   <= '0;
      vector_q <= '0;
      valid_q  <= '0;
      error_o  <= 1'b0;
    end else begin
      if (en) valid_q <= {valid_q[1], go};
      if (go) begin
        beat_q <= out_end ? '0 : beat_q + 1'b1;
        if (out_end) vector_q <= frame_end ? '0 : vector_q + 1'b1;
      end
      if (take && s_axis_tlast != (in_end && frame_end)) error_o <= 1'b1;
    end
    if (en) last_q <= {last_q[1], out_end && frame_end};
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [Width-1:0]      value;
    logic signed [Width+Left:0]   scaled;
    logic signed [Whole-1:0]      kept, rounded1_q;
    logic signed [Compared-1:0]   wide;
    logic                         up, high, low;
    logic [Bits-1:0]              code_q;

    assign value  = s_axis_tdata[i*Width+:Width];
    assign scaled = (Width + Left + 1)'(value) <<< Left;
    assign kept   = Whole'(scaled >>> Right);

    if (Right == 0) begin : g_whole
      assign up = 1'b0;
    end else if (Right == 1) begin : g_half
      assign up = scaled[0] && kept[0];
    end else begin : g_round
      assign up = scaled[Right-1] && (kept[0] || scaled[Right-2:0] != '0);
    end

    assign wide = Compared'(rounded1_q);
    assign high = wide > Compared'(MaxCode);
    assign low  = wide < Compared'(-MaxCode);

    always_ff @(posedge aclk) begin
      if (en) begin
        rounded1_q <= (pad || (i >= TailLanes && in_end)) ? '0 : kept + Whole'(up);
        code_q     <= high ? Bits'(MaxCode) : low ? Bits'(-MaxCode) : Bits'(rounded1_q);
      end
    end

    assign m_axis_tdata[i*Bits+:Bits] = code_q;
  end

  assign m_axis_tdata[Lanes*Bits+:8] = 8'(ScaleCode);
  assign m_axis_tvalid               = valid_q[2];
  assign m_axis_tlast                = last_q[2];

endmodule
