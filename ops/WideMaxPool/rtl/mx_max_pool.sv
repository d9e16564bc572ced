// Largest of each window of wide integers (operator WideMaxPool).
//
// Equation:  y = max of the taps inside the frame, in every lane.
// Frames:    H*W vectors of ceil(K/Lanes) beats in, OutH*OutW vectors of as many out. With Pixels > 0,
//            Pixels vectors a beat in, max(Pixels/StrideW, 1) a beat out.
// Latency:   that of mx_line_buffer, and KernelH*KernelW cycles; 1 cycle if the window is the frame; that
//            of mx_max_taps with Pixels > 0.
// Rounding:  none.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only (on m_axis_tready with Pixels > 0).
//            error_o as in mx_line_buffer.
module mx_max_pool #(
  parameter int Width     = 16,
  parameter int Lanes     = 1,
  parameter int K         = 1,  // channels
  parameter int H         = 4,
  parameter int W         = 4,
  parameter int OutH      = 2,
  parameter int OutW      = 2,
  parameter int KernelH   = 2,
  parameter int KernelW   = 2,
  parameter int StrideH   = 2,
  parameter int StrideW   = 2,
  parameter int PadTop    = 0,
  parameter int PadLeft   = 0,
  parameter int Pixels    = 0,  // at once, with all their taps and channels; 0: Lanes channels of one tap
  localparam int InBits   = (Pixels > 0 ? Pixels : 1) * Lanes * Width,
  localparam int OutBits  = (Pixels > StrideW ? Pixels / StrideW : 1) * Lanes * Width
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s_axis_tvalid,
  output logic                      s_axis_tready,
  input  logic [InBits-1:0]         s_axis_tdata,
  input  logic                      s_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [OutBits-1:0]        m_axis_tdata,
  output logic                      m_axis_tlast,

  output logic                      error_o
);

  if (Width < 2 || Lanes < 1 || K < 1 || Pixels < 0 || (Pixels > 0 && Lanes < K)) begin : g_check
    $error("mx_max_pool: Width = %0d, Lanes = %0d, K = %0d, Pixels = %0d; expected Width >= 2, others positive, %s",
           Width, Lanes, K, Pixels, "all channels in the lanes where several taps go at once");
  end

  localparam int Beats = mx_pkg::ceil_div(K, Lanes);

  if (Pixels > 0) begin : g_taps
    mx_max_taps #(
      .Width(Width), .Lanes(Lanes), .Pixels(Pixels), .H(H), .W(W), .OutH(OutH), .OutW(OutW), .KernelH(KernelH),
      .KernelW(KernelW), .StrideH(StrideH), .StrideW(StrideW), .PadTop(PadTop), .PadLeft(PadLeft)
    ) u_taps (.*);
  end else if (KernelH == H && KernelW == W && OutH == 1 && OutW == 1) begin : g_whole
    // One window, the frame: the largest so far of every beat of a pixel.
    (* ram_style = "distributed" *) logic [Lanes-1:0][Width-1:0] best [Beats];

    logic [mx_pkg::index_bits(Beats)-1:0] beat;
    logic [Lanes-1:0][Width-1:0]          next;
    logic                                 take, first, final_pixel, valid_q, last_q;
    logic [Lanes*Width-1:0]               data_q;

    assign s_axis_tready = !valid_q || m_axis_tready;
    assign take          = s_axis_tvalid && s_axis_tready;

    mx_frame_walk #(.Pixels(H * W), .Beats(Beats)) u_walk (
      .aclk, .aresetn, .step_i(take), .last_i(s_axis_tlast),
      .beat_o(beat), .first_pixel_o(first), .last_pixel_o(final_pixel), .error_o
    );

    for (genvar i = 0; i < Lanes; i++) begin : g_lane
      logic signed [Width-1:0] value, so_far;
      assign value   = s_axis_tdata[i*Width+:Width];
      assign so_far  = best[beat][i];
      assign next[i] = (first || value > so_far) ? value : so_far;
    end

    always_ff @(posedge aclk) begin
      if (take) best[beat] <= next;
      if (s_axis_tready) begin
        data_q <= next;
        last_q <= s_axis_tlast;
      end
      if (!aresetn) valid_q <= 1'b0;
      else if (s_axis_tready) valid_q <= take && final_pixel;
    end

    assign m_axis_tvalid = valid_q;
    assign m_axis_tdata  = data_q;
    assign m_axis_tlast  = last_q;
  end else begin : g_windows
    logic                   valid, ready, last, pad, first_tap, last_tap;
    logic [Lanes*Width-1:0] data;

    mx_line_buffer #(
      .Width(Lanes * Width), .H(H), .W(W), .Beats(Beats), .OutH(OutH),
      .OutW(OutW), .KernelH(KernelH), .KernelW(KernelW), .StrideH(StrideH), .StrideW(StrideW),
      .PadTop(PadTop), .PadLeft(PadLeft), .TapsInner(1'b1)
    ) u_lines (
      .aclk, .aresetn,
      .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
      .m_axis_tvalid(valid), .m_axis_tready(ready), .m_axis_tdata(data), .m_axis_tlast(last),
      .pad_o(pad), .first_tap_o(first_tap), .last_tap_o(last_tap), .error_o
    );

    logic done_q, last_q;
    logic seen_q;  // a tap inside the frame came already
    assign ready = !done_q || m_axis_tready;

    always_ff @(posedge aclk) begin
      if (!aresetn) done_q <= 1'b0;
      else if (ready) done_q <= valid && last_tap;
      if (ready) last_q <= last;
      if (ready && valid) seen_q <= (first_tap ? 1'b0 : seen_q) || !pad;
    end

    for (genvar i = 0; i < Lanes; i++) begin : g_lane
      logic signed [Width-1:0] value, best_q;
      assign value = data[i*Width+:Width];
      always_ff @(posedge aclk) begin
        if (ready && valid && !pad && (first_tap || !seen_q || value > best_q)) best_q <= value;
      end
      assign m_axis_tdata[i*Width+:Width] = best_q;
    end

    assign m_axis_tvalid = done_q;
    assign m_axis_tlast  = last_q;
  end

endmodule
