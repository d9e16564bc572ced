// Line buffer: frames of H x W pixels in, the taps of every output pixel out.
//
// Equation:  output pixel (y, x) reads, for every tap (i, j), input pixel
//            (y*StrideH - PadTop + i*DilationH, x*StrideW - PadLeft + j*DilationW); pad_o marks taps
//            outside the frame, whose data is undefined. Beats of a pixel travel inside a tap, or
//            the taps inside a beat (TapsInner).
// Frames:    H*W*Beats beats in, OutH*OutW*KernelH*KernelW*Beats beats out. Holds the rows of one
//            output row and StrideH more, which arrive meanwhile.
// Latency:   3 cycles from the last beat that an output pixel needs to its first beat, if that beat
//            was waited for; one beat per cycle sustained.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. error_o is sticky: an
//            s_axis_tlast came where no frame ends, or was missing where one does.
module mx_line_buffer #(
  parameter int Width     = 8,
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
  parameter bit TapsInner = 0
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
  output logic             pad_o,
  output logic             first_tap_o,
  output logic             last_tap_o,

  output logic             error_o
);

  localparam int SpanH = (KernelH - 1) * DilationH + 1;
  localparam int SpanW = (KernelW - 1) * DilationW + 1;

  if (Width < 1 || H < 1 || W < 1 || Beats < 1 || OutH < 1 || OutW < 1 || KernelH < 1 ||
      KernelW < 1 || StrideH < 1 || StrideW < 1 || DilationH < 1 || DilationW < 1 || PadTop < 0 ||
      PadLeft < 0 || PadTop >= SpanH || PadLeft >= SpanW) begin : g_check
    $error("mx_line_buffer: frame %0dx%0d of %0d beats, kernel %0dx%0d, stride %0dx%0d; expected %s",
           H, W, Beats, KernelH, KernelW, StrideH, StrideW,
           "positive numbers and less padding than the kernel spans");
  end
  if ((OutH - 1) * StrideH - PadTop >= H || (OutW - 1) * StrideW - PadLeft >= W) begin : g_check_out
    $error("mx_line_buffer: output %0dx%0d reads only padding of a frame of %0dx%0d",
           OutH, OutW, H, W);
  end

  localparam int Rows      = SpanH + StrideH;   // held at once
  localparam int RowBeats  = W * Beats;
  localparam int Depth     = Rows * RowBeats;
  localparam int FrameStep = (H - (OutH - 1) * StrideH + OutH * Rows * StrideH) % Rows;
  localparam int FirstSlot = (Rows * (PadTop + 1) - PadTop) % Rows;

  localparam int AddrBits  = mx_pkg::index_bits(Depth);
  localparam int CountBits = $clog2(Depth + H * RowBeats + 2);
  localparam int SlotBits  = mx_pkg::index_bits(Rows);
  localparam int RowBits   = $clog2(H + OutH * StrideH + SpanH + PadTop + 1) + 1;
  localparam int ColBits   = $clog2(W + OutW * StrideW + SpanW + PadLeft + 1) + 1;
  localparam int YBits     = mx_pkg::index_bits(OutH);
  localparam int XBits     = mx_pkg::index_bits(OutW);
  localparam int KhBits    = mx_pkg::index_bits(KernelH);
  localparam int KwBits    = mx_pkg::index_bits(KernelW);
  localparam int BeatBits  = mx_pkg::index_bits(Beats);
  localparam int FrameBits = mx_pkg::index_bits(H * RowBeats);

  typedef logic signed [RowBits-1:0] row_t;
  typedef logic signed [ColBits-1:0] col_t;
  typedef logic [CountBits-1:0]      count_t;
  typedef logic [SlotBits-1:0]       slot_t;

  // Slot of the buffer `step` rows further on.
  function automatic slot_t next_slot(slot_t slot, int step);
    int sum;
    sum = int'(slot) + step;
    return slot_t'(sum >= Rows ? sum - Rows : sum);
  endfunction

  // First beat of a slot: a table of few inputs, no sum.
  function automatic logic [AddrBits-1:0] beat_of_slot(slot_t slot);
    beat_of_slot = '0;
    for (int i = 0; i < Rows; i++) if (int'(slot) == i) beat_of_slot |= AddrBits'(i * RowBeats);
  endfunction

  // Pixel `index` of a frame, counted on into the next frames: its first row and column.
  function automatic row_t row_of(int index);
    return row_t'((index / OutW) % OutH * StrideH - PadTop);
  endfunction

  function automatic col_t col_of(int index);
    return col_t'(index % OutW * StrideW - PadLeft);
  endfunction

  // What an output pixel needs, step by step: which rows and columns within the frame, how many these are, how many
  // beats, and in the end their sum.
  typedef struct packed {
    row_t first;
    row_t last;
    row_t behind;  // first row held behind the last pixel of its row
    col_t cols;    // of the last row
  } reach_t;

  typedef struct packed {
    row_t rows;      // above the last one, from the first one held on
    row_t released;  // behind the last pixel of its row
    col_t cols;
  } span_t;

  typedef struct packed {
    count_t rows;
    count_t released;
    count_t cols;
  } beats_t;

  function automatic reach_t reach_of(row_t row, col_t col, logic last_row);
    return '{
      first: (int'(row) < 0) ? '0 : row,
      last: (int'(row) > H - SpanH) ? row_t'(H - 1) : row + row_t'(SpanH - 1),
      behind: (last_row || int'(row) > H - StrideH) ? row_t'(H)
              : (int'(row) < -StrideH) ? '0 : row + row_t'(StrideH),
      cols: (int'(col) > W - SpanW) ? col_t'(W) : col + col_t'(SpanW)
    };
  endfunction

  function automatic span_t span_of(reach_t reach);
    return '{rows: reach.last - reach.first, released: reach.behind - reach.first, cols: reach.cols};
  endfunction

  function automatic beats_t beats_of(span_t span);
    return '{
      rows: count_t'(mx_pkg::times(int'(span.rows), RowBeats)),
      released: count_t'(mx_pkg::times(int'(span.released), RowBeats)),
      cols: count_t'(mx_pkg::times(int'(span.cols), Beats))
    };
  endfunction

  function automatic logic last_row_of(int index);
    return (index / OutW) % OutH == OutH - 1;
  endfunction

  function automatic beats_t beats_of_pixel(int index);
    return beats_of(span_of(reach_of(row_of(index), col_of(index), last_row_of(index))));
  endfunction

  // Write.

  localparam StyleName = (Depth > 64 && Depth * Width > 4096) ? "block" : "distributed";
  (* ram_style = StyleName *) logic [Width-1:0] mem [Depth];

  logic [AddrBits-1:0]  write_q;
  logic [FrameBits-1:0] in_beat_q;
  // Beats in the buffer, and those of them that are given up and read out of the memory (their places may be
  // written); both less one, so that a sign says whether there are any.
  logic signed [CountBits:0] held_less_q, free_less_q;
  logic                 put, drop, in_end;

  assign s_axis_tready = held_less_q < $signed((CountBits + 1)'(Depth - 1));
  assign put           = s_axis_tvalid && s_axis_tready;
  assign drop          = !free_less_q[CountBits] && !held_less_q[CountBits];
  assign in_end        = in_beat_q == FrameBits'(H * RowBeats - 1);

  always_ff @(posedge aclk) begin
    if (put) mem[write_q] <= s_axis_tdata;
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      write_q   <= '0;
      in_beat_q <= '0;
      held_less_q <= '1;
      error_o   <= 1'b0;
    end else begin
      held_less_q <= held_less_q + $signed((CountBits + 1)'(put)) - $signed((CountBits + 1)'(drop));
      if (put) begin
        write_q   <= (write_q == AddrBits'(Depth - 1)) ? '0 : write_q + 1'b1;
        in_beat_q <= in_end ? '0 : in_beat_q + 1'b1;
        if (s_axis_tlast != in_end) error_o <= 1'b1;
      end
    end
  end

  // Place of the next beat to read: output pixel, tap, beat.

  logic                en, get;
  logic [YBits-1:0]    y_q;
  logic [XBits-1:0]    x_q;
  logic [KhBits-1:0]   kh_q;
  logic [KwBits-1:0]   kw_q;
  logic [BeatBits-1:0] beat_q;
  row_t                row_q, tap_row_q;   // first row of the output pixel, row of the tap
  col_t                col_q, tap_col_q;
  slot_t               slot_q, tap_slot_q;
  count_t              need_q, released_q;
  logic signed [CountBits:0] fresh_q;  // beats that came less those given up, some of which are still to come
  logic                beat_end, kw_end, kh_end, taps_end, pixel_end, row_end, frame_end;
  row_t                next_row;
  col_t                next_col;
  slot_t               next_row_slot;

  assign get       = en && fresh_q >= $signed({1'b0, need_q});
  assign beat_end  = beat_q == BeatBits'(Beats - 1);
  assign kw_end    = kw_q == KwBits'(KernelW - 1);
  assign kh_end    = kh_q == KhBits'(KernelH - 1);
  assign taps_end  = kw_end && kh_end;
  assign pixel_end = beat_end && taps_end;
  assign row_end   = x_q == XBits'(OutW - 1);
  assign frame_end = row_end && y_q == YBits'(OutH - 1);

  assign next_col      = row_end ? col_t'(-PadLeft) : col_q + col_t'(StrideW);
  assign next_row      = frame_end ? row_t'(-PadTop) : row_end ? row_q + row_t'(StrideH) : row_q;
  assign next_row_slot = frame_end ? next_slot(slot_q, FrameStep)
                         : row_end ? next_slot(slot_q, StrideH % Rows) : slot_q;

  // What the next pixels need: beats_q of the next one, span_q of the one behind it, and so on.
  reach_t           reach_q;
  span_t            span_q;
  beats_t           beats_q;
  logic [YBits-1:0] ahead_y_q;    // the fourth one from here
  logic [XBits-1:0] ahead_x_q;
  row_t             ahead_row_q;
  col_t             ahead_col_q;
  logic             ahead_row_end, ahead_last_row;

  assign ahead_row_end  = ahead_x_q == XBits'(OutW - 1);
  assign ahead_last_row = ahead_y_q == YBits'(OutH - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      need_q      <= beats_of_pixel(0).rows + beats_of_pixel(0).cols;
      released_q  <= beats_of_pixel(0).released;
      beats_q     <= beats_of_pixel(1);
      span_q      <= span_of(reach_of(row_of(2), col_of(2), last_row_of(2)));
      reach_q     <= reach_of(row_of(3), col_of(3), last_row_of(3));
      ahead_row_q <= row_of(4);
      ahead_col_q <= col_of(4);
      ahead_x_q   <= XBits'(4 % OutW);
      ahead_y_q   <= YBits'((4 / OutW) % OutH);
    end else if (get && pixel_end) begin
      need_q      <= beats_q.rows + beats_q.cols;
      released_q  <= beats_q.released;
      beats_q     <= beats_of(span_q);
      span_q      <= span_of(reach_q);
      reach_q     <= reach_of(ahead_row_q, ahead_col_q, ahead_last_row);
      ahead_x_q   <= ahead_row_end ? '0 : ahead_x_q + 1'b1;
      ahead_col_q <= ahead_row_end ? col_t'(-PadLeft) : ahead_col_q + col_t'(StrideW);
      if (ahead_row_end) begin
        ahead_y_q   <= ahead_last_row ? '0 : ahead_y_q + 1'b1;
        ahead_row_q <= ahead_last_row ? row_t'(-PadTop) : ahead_row_q + row_t'(StrideH);
      end
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      y_q        <= '0;
      x_q        <= '0;
      kh_q       <= '0;
      kw_q       <= '0;
      beat_q     <= '0;
      row_q      <= row_t'(-PadTop);
      tap_row_q  <= row_t'(-PadTop);
      col_q      <= col_t'(-PadLeft);
      tap_col_q  <= col_t'(-PadLeft);
      slot_q     <= slot_t'(FirstSlot);
      tap_slot_q <= slot_t'(FirstSlot);
      fresh_q    <= '0;
    end else begin
      fresh_q <= fresh_q + $signed({1'b0, count_t'(put)})
                 - $signed({1'b0, (get && pixel_end && row_end) ? released_q : count_t'(0)});
      if (get) begin
        if (TapsInner ? taps_end : 1'b1) beat_q <= beat_end ? '0 : beat_q + 1'b1;
        if (TapsInner ? 1'b1 : beat_end) begin
          kw_q      <= kw_end ? '0 : kw_q + 1'b1;
          tap_col_q <= kw_end ? col_q : tap_col_q + col_t'(DilationW);
          if (kw_end) begin
            kh_q       <= kh_end ? '0 : kh_q + 1'b1;
            tap_row_q  <= kh_end ? row_q : tap_row_q + row_t'(DilationH);
            tap_slot_q <= kh_end ? slot_q : next_slot(tap_slot_q, DilationH % Rows);
          end
        end
        if (pixel_end) begin
          x_q        <= row_end ? '0 : x_q + 1'b1;
          if (row_end) y_q <= frame_end ? '0 : y_q + 1'b1;
          col_q      <= next_col;
          tap_col_q  <= next_col;
          row_q      <= next_row;
          tap_row_q  <= next_row;
          slot_q     <= next_row_slot;
          tap_slot_q <= next_row_slot;
        end
      end
    end
  end

  // Stages: 1 address, 2 memory output.

  typedef struct packed {
    logic pad;
    logic first_tap;
    logic last_tap;
    logic last;
  } place_t;

  logic                valid1_q, valid2_q;
  count_t              released1_q;
  logic [AddrBits-1:0] addr1_q;
  place_t              place1_q, place2_q;
  logic [Width-1:0]    data2_q;

  assign en = !valid2_q || m_axis_tready;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      valid1_q <= 1'b0;
      valid2_q <= 1'b0;
    end else if (en) begin
      valid1_q <= get;
      valid2_q <= valid1_q;
    end
  end

  // An address that waits in stage 1 is read later: until then nothing may be written over it.
  always_ff @(posedge aclk) begin
    if (!aresetn) free_less_q <= '1;
    else begin
      free_less_q <= free_less_q - $signed((CountBits + 1)'(drop))
                     + $signed({1'b0, (en && valid1_q) ? released1_q : count_t'(0)});
    end
  end

  always_ff @(posedge aclk) begin
    if (en) begin
      released1_q <= (get && pixel_end && row_end) ? released_q : '0;
      addr1_q  <= beat_of_slot(tap_slot_q) + AddrBits'(mx_pkg::times(int'(tap_col_q), Beats)) + AddrBits'(beat_q);
      place1_q <= '{
        pad: int'(tap_row_q) < 0 || int'(tap_row_q) >= H || int'(tap_col_q) < 0 || int'(tap_col_q) >= W,
        first_tap: kh_q == '0 && kw_q == '0,
        last_tap: taps_end,
        last: pixel_end && frame_end
      };
      place2_q <= place1_q;
      data2_q  <= mem[addr1_q];
    end
  end

  assign m_axis_tvalid = valid2_q;
  assign m_axis_tdata  = data2_q;
  assign m_axis_tlast  = place2_q.last;
  assign pad_o         = place2_q.pad;
  assign first_tap_o   = place2_q.first_tap;
  assign last_tap_o    = place2_q.last_tap;

endmodule
