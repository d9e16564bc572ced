// All taps of windows at once: Pixels pixels of a frame in, the windows that end there out.
//
// Equation:  as mx_line_buffer: output pixel (y, x) reads, for every tap (i, j), input pixel
//            (y*StrideH - PadTop + i*DilationH, x*StrideW - PadLeft + j*DilationW); pad_o marks taps
//            outside the frame, whose data is undefined. Tap i*KernelW + j of window w of a beat is
//            m_axis_tdata[w][i*KernelW+j].
// Frames:    H*W/Pixels beats in, OutH*OutW/Windows beats out, Windows = max(Pixels/StrideW, 1).
// Latency:   1 cycle from the beat that is mx_pkg::taps_lag behind the first pixel of a window, at
//            most H*W/Pixels beats from frame to frame. Windows at the end of a frame look beyond it:
//            the next frame's beats move them on, or, where none waits, one cycle each.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready. error_o is sticky: an
//            s_axis_tlast came where no frame ends, or was missing where one does.
module mx_taps #(
  parameter int Width     = 8,  // of a pixel
  parameter int Pixels    = 1,  // of a beat, divides W; divides StrideW or is its multiple
  parameter int H         = 4,
  parameter int W         = 4,
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
  localparam int Windows = (Pixels > StrideW) ? Pixels / StrideW : 1,
  localparam int Taps    = KernelH * KernelW
) (
  input  logic                                     aclk,
  input  logic                                     aresetn,

  input  logic                                     s_axis_tvalid,
  output logic                                     s_axis_tready,
  input  logic [Pixels*Width-1:0]                  s_axis_tdata,
  input  logic                                     s_axis_tlast,

  output logic                                     m_axis_tvalid,
  input  logic                                     m_axis_tready,
  output logic [Windows-1:0][Taps-1:0][Width-1:0]  m_axis_tdata,
  output logic                                     m_axis_tlast,
  output logic [Windows-1:0][Taps-1:0]             pad_o,

  output logic                                     error_o
);

  localparam int SpanH = (KernelH - 1) * DilationH + 1;
  localparam int SpanW = (KernelW - 1) * DilationW + 1;

  if (Width < 1 || Pixels < 1 || H < 1 || W < 1 || OutH < 1 || OutW < 1 || KernelH < 1 || KernelW < 1 ||
      StrideH < 1 || StrideW < 1 || DilationH < 1 || DilationW < 1 || PadTop < 0 || PadLeft < 0 ||
      PadTop >= SpanH || PadLeft >= SpanW) begin : g_check
    $error("mx_taps: frame %0dx%0d of %0d pixels a beat, kernel %0dx%0d, stride %0dx%0d; expected %s", H, W, Pixels,
           KernelH, KernelW, StrideH, StrideW, "positive numbers and less padding than the kernel spans");
  end
  if (W % Pixels != 0 || (Pixels % StrideW != 0 && StrideW % Pixels != 0) || OutW % Windows != 0) begin : g_check_pixels
    $error("mx_taps: %0d pixels a beat, rows of %0d, %0d out, stride %0d; expected whole beats", Pixels, W, OutW,
           StrideW);
  end
  if ((OutH - 1) * StrideH >= H || (OutW - 1) * StrideW >= W ||
      H * W <= mx_pkg::taps_lag(W, SpanH, SpanW, PadTop, PadLeft, 1))
  begin : g_check_out
    $error("mx_taps: output %0dx%0d of a frame of %0dx%0d; expected windows that begin, shifted by their padding, %s",
           OutH, OutW, H, W, "inside it");
  end

  // A step takes one beat; steps are pixels of a row by Pixels. A window comes Lag steps behind the
  // place of its first tap, shifted by the padding, and reads registers at fixed delays.
  localparam int Steps     = W / Pixels;  // of a row
  localparam int Lag       = mx_pkg::taps_lag(W, SpanH, SpanW, PadTop, PadLeft, Pixels);
  localparam int Early     = Lag * Pixels - mx_pkg::taps_lag(W, SpanH, SpanW, PadTop, PadLeft, 1);
  localparam int Held      = mx_pkg::ceil_div(SpanW + Early + Pixels - 1, Pixels);  // beats of a row held
  localparam int Depth     = DilationH * Steps;
  localparam int LastRow   = (OutH - 1) * StrideH;
  localparam int LastStep  = ((OutW - 1) * StrideW) / Pixels;
  localparam int SkipSteps = (StrideW > Pixels) ? StrideW / Pixels : 1;  // of which one makes windows

  localparam int AddrBits  = mx_pkg::index_bits(Depth);
  localparam int RowBits   = mx_pkg::index_bits(H);
  localparam int StepBits  = mx_pkg::index_bits(Steps);
  localparam int LagBits   = mx_pkg::index_bits(Lag + 1);
  localparam int DownBits  = mx_pkg::index_bits(StrideH);
  localparam int SideBits  = mx_pkg::index_bits(SkipSteps);
  localparam int Beat      = Pixels * Width;

  logic en, step, take, begins, in_end, flushes;

  assign en            = !m_axis_tvalid || m_axis_tready;
  assign s_axis_tready = en;
  assign take          = en && s_axis_tvalid;
  assign step          = take || (en && flushes);

  // Place of the beat that comes.

  logic [RowBits-1:0]  in_row_q;
  logic [StepBits-1:0] in_step_q;
  logic                in_row_end;

  assign begins     = in_row_q == '0 && in_step_q == '0;
  assign in_row_end = in_step_q == StepBits'(Steps - 1);
  assign in_end     = in_row_end && in_row_q == RowBits'(H - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      in_row_q  <= '0;
      in_step_q <= '0;
      error_o   <= 1'b0;
    end else if (take) begin
      in_step_q <= in_row_end ? '0 : in_step_q + 1'b1;
      if (in_row_end) in_row_q <= in_end ? '0 : in_row_q + 1'b1;
      if (s_axis_tlast != in_end) error_o <= 1'b1;
    end
  end

  // Place of the windows that this step makes: it starts Lag steps behind a frame.

  logic                waits_q, runs_q, start, runs, row_end, frame_end, emits;
  logic [LagBits-1:0]  wait_q;
  logic [RowBits-1:0]  row_q;
  logic [StepBits-1:0] step_q;
  logic [DownBits-1:0] down_q;   // rows since one that makes windows
  logic [SideBits-1:0] side_q;

  if (Lag == 0) begin : g_at_once
    assign start = take && begins;
  end else begin : g_later
    assign start = step && waits_q && wait_q == LagBits'(1);
  end

  assign runs      = runs_q || start;
  assign flushes   = begins && (waits_q || runs_q) && !s_axis_tvalid;
  assign row_end   = step_q == StepBits'(Steps - 1);
  assign frame_end = row_q == RowBits'(LastRow) && step_q == StepBits'(LastStep);
  assign emits     = runs && down_q == '0 && side_q == '0 && int'(step_q) <= LastStep;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      waits_q <= 1'b0;
      wait_q  <= '0;
      runs_q  <= 1'b0;
      row_q   <= '0;
      step_q  <= '0;
      down_q  <= '0;
      side_q  <= '0;
    end else if (step) begin
      if (Lag != 0 && take && begins) begin
        waits_q <= 1'b1;
        wait_q  <= LagBits'(Lag);
      end else if (start) begin
        waits_q <= 1'b0;
      end else if (waits_q) begin
        wait_q  <= wait_q - 1'b1;
      end
      if (runs) begin
        runs_q <= !frame_end;
        if (frame_end) begin
          row_q  <= '0;
          step_q <= '0;
          down_q <= '0;
          side_q <= '0;
        end else begin
          step_q <= row_end ? '0 : step_q + 1'b1;
          side_q <= (row_end || side_q == SideBits'(SkipSteps - 1)) ? '0 : side_q + 1'b1;
          if (row_end) begin
            row_q  <= row_q + 1'b1;
            down_q <= (down_q == DownBits'(StrideH - 1)) ? '0 : down_q + 1'b1;
          end
        end
      end
    end
  end

  // Rows: each is the one below it, DilationH rows ago.

  logic [KernelH-1:0][Beat-1:0] line;  // 0: the lowest row of the kernel
  assign line[0] = s_axis_tdata;

  if (KernelH > 1) begin : g_rows
    logic [KernelH-2:0][Beat-1:0] rows_q;
    assign line[KernelH-1:1] = rows_q;

    if (Depth == 1) begin : g_register
      always_ff @(posedge aclk) if (step) rows_q <= line[KernelH-2:0];
    end else begin : g_memory
      localparam StyleName = (Depth > 64 && Depth * (KernelH - 1) * Beat > 4096) ? "block" : "distributed";
      (* ram_style = StyleName *) logic [(KernelH-1)*Beat-1:0] mem [Depth];
      logic [AddrBits-1:0] addr_q, next;

      assign next = (addr_q == AddrBits'(Depth - 1)) ? '0 : addr_q + 1'b1;

      always_ff @(posedge aclk) begin
        if (step) begin
          mem[addr_q] <= line[KernelH-2:0];
          rows_q      <= mem[next];
        end
        if (!aresetn) addr_q <= '0;
        else if (step) addr_q <= next;
      end
    end
  end

  // Columns: what came last stands in place 0 of each row.

  logic [KernelH-1:0][Held*Pixels-1:0][Width-1:0] held_q;

  for (genvar i = 0; i < KernelH; i++) begin : g_row
    logic [Pixels-1:0][Width-1:0] newest;
    for (genvar p = 0; p < Pixels; p++) begin : g_pixel
      // The last pixel of a beat came last.
      assign newest[p] = line[i][(Pixels-1-p)*Width+:Width];
    end
    always_ff @(posedge aclk) if (step) held_q[i][Pixels-1:0] <= newest;
    if (Held > 1) begin : g_older
      always_ff @(posedge aclk) if (step) held_q[i][Held*Pixels-1:Pixels] <= held_q[i][(Held-1)*Pixels-1:0];
    end
  end

  logic [KernelH-1:0]              row_pad_q;
  logic [Windows-1:0][KernelW-1:0] column_pad_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) m_axis_tvalid <= 1'b0;
    else if (en) m_axis_tvalid <= step && emits;
    if (step) begin
      m_axis_tlast <= frame_end;
      for (int i = 0; i < KernelH; i++) begin
        row_pad_q[i] <= int'(row_q) + i * DilationH < PadTop || int'(row_q) + i * DilationH >= H + PadTop;
      end
      for (int w = 0; w < Windows; w++) begin
        for (int j = 0; j < KernelW; j++) begin
          column_pad_q[w][j] <= int'(step_q) * Pixels + w * StrideW + j * DilationW < PadLeft
                                || int'(step_q) * Pixels + w * StrideW + j * DilationW >= W + PadLeft;
        end
      end
    end
  end

  for (genvar w = 0; w < Windows; w++) begin : g_window
    for (genvar i = 0; i < KernelH; i++) begin : g_down
      for (genvar j = 0; j < KernelW; j++) begin : g_across
        localparam int Delay = SpanW - 1 + Early + Pixels - 1 - w * StrideW - j * DilationW;
        assign m_axis_tdata[w][i*KernelW+j] = held_q[KernelH-1-i][Delay];
        assign pad_o[w][i*KernelW+j]        = row_pad_q[i] || column_pad_q[w][j];
      end
    end
  end

endmodule
