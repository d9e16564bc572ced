// Softmax of vectors of wide integers, of the entries that a second stream names for every frame (operator
// WideMaskedSoftmax).
//
// Equation:  y = e / sum(e) with e = exp(x - max), of the entries whose mask is 1 and whose key is above zero (Keep = 1) or
//            is not (Keep = 0); see mx_softmax_rows.
// Frames:    Vectors vectors of ceil(K/Lanes) beats on s0; one vector of keys on s1, which serves them all.
// Latency:   that of mx_softmax_rows; the first vector of a frame waits for the keys, two frames of which are held.
// Handshake: AXI4-Stream; tready of both inputs depends on registers only. error_o: a TLAST not where a frame ends.
// Memories:  $readmemh files: values and slopes word i = segment i; mask word (row, beat) field l = entry beat*Lanes + l.
module mx_masked_softmax #(
  parameter int Width          = 16,
  parameter int K              = 8,
  parameter int Lanes          = 1,
  parameter int Factor         = 23637,
  parameter int Drop           = 0,
  parameter int DistanceBits   = 16,
  parameter int Fraction       = 10,
  parameter int SegmentBits    = 4,
  parameter int ExpBits        = 16,
  parameter int ReciprocalBits = 17,
  parameter int OutBits        = 15,
  parameter int SlopeWidth     = 17,
  parameter int MaskRows       = 1,
  parameter int MaskRepeat     = 1,
  parameter int KeyWidth       = 2,
  parameter int Keep           = 1,
  parameter int Vectors        = 1,
  parameter string ValuesFile = "",
  parameter string SlopesFile = "",
  parameter string MaskFile   = "",
  localparam int OutWidth = OutBits + 2
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s0_axis_tvalid,
  output logic                      s0_axis_tready,
  input  logic [Lanes*Width-1:0]    s0_axis_tdata,
  input  logic                      s0_axis_tlast,

  input  logic                      s1_axis_tvalid,
  output logic                      s1_axis_tready,
  input  logic [Lanes*KeyWidth-1:0] s1_axis_tdata,
  input  logic                      s1_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast,
  output logic                      error_o
);

  if (K < 1 || Lanes < 1 || KeyWidth < 1 || Vectors < 1) begin : g_check
    $error("mx_masked_softmax: K = %0d, Lanes = %0d, KeyWidth = %0d, Vectors = %0d; expected positive ones", K, Lanes,
           KeyWidth, Vectors);
  end

  localparam int Beats      = mx_pkg::ceil_div(K, Lanes);
  localparam int BeatBits   = mx_pkg::index_bits(Beats);
  localparam int VectorBits = mx_pkg::index_bits(Vectors);

  // --- keys: two banks, one is filled while the other is read -----------------------------------------------------------

  logic [Lanes-1:0]      keys [2*(2**BeatBits)];
  logic [Lanes-1:0]      key, key_q;
  logic                  fill_q, use_q, use_d, fill, filled, used, known_q;
  logic [1:0]            full_q;
  logic [BeatBits-1:0]   fill_beat_q, beat_q, beat_d;
  logic [VectorBits-1:0] vector_q;
  logic                  vector_ends, rows_ready;

  for (genvar i = 0; i < Lanes; i++) begin : g_key
    assign key[i] = ($signed(s1_axis_tdata[i*KeyWidth+:KeyWidth]) > 0) == (Keep != 0);
  end

  assign s1_axis_tready = !full_q[fill_q];
  assign fill           = s1_axis_tvalid && s1_axis_tready;
  assign filled         = fill && fill_beat_q == BeatBits'(Beats - 1);
  assign vector_ends    = s0_axis_tvalid && s0_axis_tready && beat_q == BeatBits'(Beats - 1);
  assign used           = vector_ends && vector_q == VectorBits'(Vectors - 1);
  assign use_d          = use_q ^ used;
  assign s0_axis_tready = rows_ready && known_q;

  always_comb begin
    beat_d = beat_q;
    if (s0_axis_tvalid && s0_axis_tready) beat_d = vector_ends ? '0 : beat_q + 1'b1;
  end

  always_ff @(posedge aclk) begin
    if (fill) keys[{fill_q, fill_beat_q}] <= key;
    key_q <= keys[{use_d, beat_d}];
    if (!aresetn) begin
      fill_q      <= 1'b0;
      use_q       <= 1'b0;
      full_q      <= '0;
      known_q     <= 1'b0;
      fill_beat_q <= '0;
      beat_q      <= '0;
      vector_q    <= '0;
      error_o     <= 1'b0;
    end else begin
      if (fill) fill_beat_q <= filled ? '0 : fill_beat_q + 1'b1;
      if (filled) full_q[fill_q] <= 1'b1;
      if (used) full_q[use_q] <= 1'b0;
      fill_q  <= fill_q ^ filled;
      use_q   <= use_d;
      known_q <= full_q[use_d];
      beat_q  <= beat_d;
      if (vector_ends) vector_q <= used ? '0 : vector_q + 1'b1;
      error_o <= error_o || (fill && s1_axis_tlast != filled) ||
                 (s0_axis_tvalid && s0_axis_tready && s0_axis_tlast != used);
    end
  end

  mx_softmax_rows #(
    .Width(Width), .K(K), .Lanes(Lanes), .Factor(Factor), .Drop(Drop), .DistanceBits(DistanceBits), .Fraction(Fraction),
    .SegmentBits(SegmentBits), .ExpBits(ExpBits), .ReciprocalBits(ReciprocalBits), .OutBits(OutBits),
    .SlopeWidth(SlopeWidth), .MaskRows(MaskRows), .MaskRepeat(MaskRepeat), .ValuesFile(ValuesFile),
    .SlopesFile(SlopesFile), .MaskFile(MaskFile)
  ) u_rows (
    .aclk, .aresetn, .s_axis_tvalid(s0_axis_tvalid && known_q), .s_axis_tready(rows_ready),
    .s_axis_tdata(s0_axis_tdata), .s_axis_tlast(s0_axis_tlast), .keys_i(key_q),
    .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast
  );

endmodule
