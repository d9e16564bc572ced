// Pixels of a frame further apart, and a border around them: the places between hold Fill.
//
// Equation:  output pixel (PadTop + y*StepH, PadLeft + x*StepW) = input pixel (y, x); all others Fill.
// Frames:    H*W*Beats beats in, OutH*OutW*Beats beats out.
// Latency:   1 cycle; one beat per cycle sustained.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready. error_o is sticky: an s_axis_tlast
//            came where no frame ends, or was missing where one does.
module mx_spread #(
  parameter int Width   = 8,
  parameter int H       = 2,
  parameter int W       = 2,
  parameter int Beats   = 1,
  parameter int OutH    = 4,
  parameter int OutW    = 4,
  parameter int StepH   = 1,
  parameter int StepW   = 1,
  parameter int PadTop  = 1,
  parameter int PadLeft = 1,
  parameter logic [Width-1:0] Fill = '0
) (
  input  logic             aclk,
  input  logic             aresetn,

  input  logic             s_axis_tvalid,
  output logic             s_axis_tready,
  input  logic [Width-1:0] s_axis_tdata,
  input  logic             s_axis_tlast,

  output logic             m_axis_tvalid,
  input  logic             m_axis_tready,
  output logic [Width-1:0] m_axis_tdata,
  output logic             m_axis_tlast,

  output logic             error_o
);

  if (Width < 1 || H < 1 || W < 1 || Beats < 1 || StepH < 1 || StepW < 1 || PadTop < 0 || PadLeft < 0 ||
      OutH < PadTop + (H - 1) * StepH + 1 || OutW < PadLeft + (W - 1) * StepW + 1) begin : g_check
    $error("mx_spread: %0dx%0d pixels, steps %0dx%0d, in %0dx%0d; expected room for all of them",
           H, W, StepH, StepW, OutH, OutW);
  end

  localparam int RowBits  = mx_pkg::index_bits(OutH);
  localparam int ColBits  = mx_pkg::index_bits(OutW);
  localparam int BeatBits = mx_pkg::index_bits(Beats);
  localparam int DownBits = mx_pkg::index_bits(StepH);
  localparam int SideBits = mx_pkg::index_bits(StepW);

  logic [RowBits-1:0]  row_q;
  logic [ColBits-1:0]  col_q;
  logic [BeatBits-1:0] beat_q;
  logic [DownBits-1:0] down_q;    // rows since the last one that holds pixels
  logic [SideBits-1:0] side_q;
  logic                en, step, holds, begins, beat_end, col_end, row_end, in_last;

  // Steps are counted inside the border; before it and behind the last pixel everything is Fill.
  assign holds = int'(row_q) >= PadTop && int'(row_q) <= PadTop + (H - 1) * StepH && down_q == '0 &&
                  int'(col_q) >= PadLeft && int'(col_q) <= PadLeft + (W - 1) * StepW && side_q == '0;

  assign en            = !m_axis_tvalid || m_axis_tready;
  assign s_axis_tready = en && holds;
  // A frame begins when its first beat is there.
  assign begins        = row_q == '0 && col_q == '0 && beat_q == '0;
  assign step          = en && ((!holds && !begins) || s_axis_tvalid);
  assign beat_end      = beat_q == BeatBits'(Beats - 1);
  assign col_end       = col_q == ColBits'(OutW - 1);
  assign row_end       = row_q == RowBits'(OutH - 1);
  assign in_last       = beat_end && int'(row_q) == PadTop + (H - 1) * StepH
                         && int'(col_q) == PadLeft + (W - 1) * StepW;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      row_q         <= '0;
      col_q         <= '0;
      beat_q        <= '0;
      down_q        <= '0;
      side_q        <= '0;
      m_axis_tvalid <= 1'b0;
      error_o       <= 1'b0;
    end else begin
      if (en) m_axis_tvalid <= step;
      if (step) begin
        beat_q <= beat_end ? '0 : beat_q + 1'b1;
        if (beat_end) begin
          col_q  <= col_end ? '0 : col_q + 1'b1;
          side_q <= (col_end || int'(col_q) < PadLeft || int'(side_q) == StepW - 1) ? '0
                    : side_q + 1'b1;
          if (col_end) begin
            row_q  <= row_end ? '0 : row_q + 1'b1;
            down_q <= (row_end || int'(row_q) < PadTop || int'(down_q) == StepH - 1) ? '0
                      : down_q + 1'b1;
          end
        end
        if (holds && s_axis_tlast != in_last) error_o <= 1'b1;
      end
    end
    if (step) begin
      m_axis_tdata <= holds ? s_axis_tdata : Fill;
      m_axis_tlast <= beat_end && col_end && row_end;
    end
  end

endmodule
