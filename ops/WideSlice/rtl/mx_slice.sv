// A part of every frame of wide integers (operator WideSlice): beats are kept whole or left out.
//
// Equation:  output pixel (y, x), channel c = input pixel (Top + y, Left + x), channel Channel + c.
// Frames:    H*W vectors of ceil(K/Lanes) beats in, OutH*OutW vectors of ceil(OutK/Lanes) out.
// Latency:   0 cycles (combinational).
// Rounding:  none.
// Handshake: AXI4-Stream; beats left out are taken whatever m_axis_tready is. error_o is sticky: a misplaced TLAST.
module mx_slice #(
  parameter int Width   = 16,
  parameter int Lanes   = 1,
  parameter int K       = 2,
  parameter int H       = 2,
  parameter int W       = 2,
  parameter int Top     = 0,
  parameter int Left    = 0,
  parameter int Channel = 0,
  parameter int OutH    = 1,
  parameter int OutW    = 1,
  parameter int OutK    = 1
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

  if (Width < 2 || Lanes < 1 || OutH < 1 || OutW < 1 || OutK < 1 || Top < 0 || Left < 0 || Channel < 0 ||
      Top + OutH > H || Left + OutW > W || Channel + OutK > K || Channel % Lanes != 0 ||
      (Channel + OutK != K && OutK % Lanes != 0)) begin : g_check
    $error("mx_slice: %0d x %0d x %0d at (%0d, %0d, %0d) of %0d x %0d x %0d, Lanes = %0d; expected %s", OutH, OutW,
           OutK, Top, Left, Channel, H, W, K, Lanes, "a part of the frame, made of whole beats");
  end

  localparam int Beats    = mx_pkg::ceil_div(K, Lanes);
  localparam int First    = Channel / Lanes;
  localparam int Final    = First + mx_pkg::ceil_div(OutK, Lanes) - 1;
  localparam int BeatBits = mx_pkg::index_bits(Beats);
  localparam int ColBits  = mx_pkg::index_bits(W);
  localparam int RowBits  = mx_pkg::index_bits(H);

  logic [BeatBits-1:0] beat_q;
  logic [ColBits-1:0]  column_q;
  logic [RowBits-1:0]  row_q;
  logic                beat_end, column_end, row_end, keep, take;

  assign beat_end   = beat_q == BeatBits'(Beats - 1);
  assign column_end = column_q == ColBits'(W - 1);
  assign row_end    = row_q == RowBits'(H - 1);
  assign keep       = int'(row_q) >= Top && int'(row_q) < Top + OutH && int'(column_q) >= Left &&
                      int'(column_q) < Left + OutW && int'(beat_q) >= First && int'(beat_q) <= Final;
  assign take       = s_axis_tvalid && s_axis_tready;

  assign s_axis_tready = !keep || m_axis_tready;
  assign m_axis_tvalid = s_axis_tvalid && keep;
  assign m_axis_tdata  = s_axis_tdata;
  assign m_axis_tlast  = beat_q == BeatBits'(Final) && column_q == ColBits'(Left + OutW - 1) &&
                         row_q == RowBits'(Top + OutH - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      beat_q   <= '0;
      column_q <= '0;
      row_q    <= '0;
      error_o  <= 1'b0;
    end else if (take) begin
      beat_q <= beat_end ? '0 : beat_q + 1'b1;
      if (beat_end) column_q <= column_end ? '0 : column_q + 1'b1;
      if (beat_end && column_end) row_q <= row_end ? '0 : row_q + 1'b1;
      if (s_axis_tlast != (beat_end && column_end && row_end)) error_o <= 1'b1;
    end
  end

endmodule
