// Average of each window of wide integers (operator WideAveragePool).
//
// Equation:  y = sum of the taps * 2**Shift / Divisor, rounded once, in every lane; taps outside the
//            frame count as zeros.
// Frames:    H*W vectors of ceil(K/Lanes) beats in, OutH*OutW vectors of as many out. With Pixels > 0,
//            Pixels vectors a beat in, max(Pixels/StrideW, 1) a beat out.
// Latency:   that of mx_divide, of mx_line_buffer, and KernelH*KernelW cycles; with Pixels > 0 that of
//            mx_divide, of mx_taps, and mx_pkg::sum_latency(taps) + 1.
// Rounding:  nearest, ties to even.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only (on m_axis_tready with Pixels > 0).
//            error_o as in mx_line_buffer.
module mx_average_pool #(
  parameter int Width     = 16,
  parameter int OutWidth  = 16,
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
  parameter int Divisor   = 4,
  parameter int Shift     = 0,  // of the sum, before it is divided
  parameter int Pixels    = 0,  // at once, with all their taps and channels; 0: Lanes channels of one tap
  localparam int Windows  = (Pixels > StrideW) ? Pixels / StrideW : 1,
  localparam int InBits   = (Pixels > 0 ? Pixels : 1) * Lanes * Width
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s_axis_tvalid,
  output logic                      s_axis_tready,
  input  logic [InBits-1:0]                 s_axis_tdata,
  input  logic                      s_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Windows*Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast,

  output logic                      error_o
);

  localparam int SumWidth = Width + $clog2(KernelH * KernelW);

  if (Width < 2 || OutWidth < 2 || Lanes < 1 || K < 1 || Pixels < 0 || (Pixels > 0 && Lanes < K)) begin : g_check
    $error("mx_average_pool: Width = %0d, OutWidth = %0d, Lanes = %0d, K = %0d, Pixels = %0d; expected %s", Width,
           OutWidth, Lanes, K, Pixels, "widths >= 2, others positive, all channels where several taps go at once");
  end

  localparam int Beats = mx_pkg::ceil_div(K, Lanes);

  logic [Windows*Lanes-1:0][SumWidth-1:0] sum_q;
  logic                                   done_q, last_q, divide_ready;

  if (Pixels > 0) begin : g_taps
    localparam int Taps   = KernelH * KernelW;
    localparam int Stages = mx_pkg::sum_latency(Taps) + 1;

    logic                                               valid, en, last;
    logic [Windows-1:0][Taps-1:0][Lanes-1:0][Width-1:0] data;
    logic [Windows-1:0][Taps-1:0]                       pad;
    logic [Stages:0]                                    valid_d, last_d;
    logic [Stages:1]                                    valid_q, lasts_q;

    mx_taps #(
      .Width(Lanes * Width), .Pixels(Pixels), .H(H), .W(W), .OutH(OutH), .OutW(OutW), .KernelH(KernelH),
      .KernelW(KernelW), .StrideH(StrideH), .StrideW(StrideW), .PadTop(PadTop), .PadLeft(PadLeft)
    ) u_taps (
      .aclk, .aresetn,
      .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
      .m_axis_tvalid(valid), .m_axis_tready(en), .m_axis_tdata(data), .m_axis_tlast(last), .pad_o(pad), .error_o
    );

    assign valid_d = {valid_q, valid};
    assign last_d  = {lasts_q, last};
    assign done_q  = valid_q[Stages];
    assign last_q  = lasts_q[Stages];
    assign en      = !done_q || divide_ready;

    always_ff @(posedge aclk) begin
      if (!aresetn) valid_q <= '0;
      else if (en) valid_q <= valid_d[Stages-1:0];
      if (en) lasts_q <= last_d[Stages-1:0];
    end

    for (genvar v = 0; v < Windows; v++) begin : g_window
      for (genvar i = 0; i < Lanes; i++) begin : g_lane
        logic [Taps-1:0][SumWidth-1:0] terms_q;
        for (genvar t = 0; t < Taps; t++) begin : g_tap
          always_ff @(posedge aclk) begin
            if (en) terms_q[t] <= pad[v][t] ? '0 : SumWidth'($signed(data[v][t][i]));
          end
        end
        mx_sum #(.Terms(Taps), .Width(SumWidth)) u_sum (
          .aclk, .en_i(en), .terms_i(terms_q), .sum_o(sum_q[v*Lanes+i])
        );
      end
    end
  end else if (KernelH == H && KernelW == W && OutH == 1 && OutW == 1) begin : g_whole
    // One window, the frame: the sum so far of every beat of a pixel.
    (* ram_style = "distributed" *) logic [Lanes-1:0][SumWidth-1:0] sums [Beats];

    logic [mx_pkg::index_bits(Beats)-1:0] beat;
    logic [Lanes-1:0][SumWidth-1:0]       next;
    logic                                 take, first, final_pixel;

    assign s_axis_tready = !done_q || divide_ready;
    assign take          = s_axis_tvalid && s_axis_tready;

    mx_frame_walk #(.Pixels(H * W), .Beats(Beats)) u_walk (
      .aclk, .aresetn, .step_i(take), .last_i(s_axis_tlast),
      .beat_o(beat), .first_pixel_o(first), .last_pixel_o(final_pixel), .error_o
    );

    for (genvar i = 0; i < Lanes; i++) begin : g_lane
      assign next[i] = (first ? '0 : sums[beat][i]) + SumWidth'($signed(s_axis_tdata[i*Width+:Width]));
    end

    always_ff @(posedge aclk) begin
      if (take) sums[beat] <= next;
      if (s_axis_tready) begin
        sum_q  <= next;
        last_q <= s_axis_tlast;
      end
      if (!aresetn) done_q <= 1'b0;
      else if (s_axis_tready) done_q <= take && final_pixel;
    end
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

    assign ready = !done_q || divide_ready;

    always_ff @(posedge aclk) begin
      if (!aresetn) done_q <= 1'b0;
      else if (ready) done_q <= valid && last_tap;
      if (ready) last_q <= last;
    end

    for (genvar i = 0; i < Lanes; i++) begin : g_lane
      logic signed [SumWidth-1:0] value;
      assign value = pad ? '0 : SumWidth'($signed(data[i*Width+:Width]));
      always_ff @(posedge aclk) begin
        if (ready && valid) sum_q[i] <= (first_tap ? '0 : sum_q[i]) + value;
      end
    end
  end

  mx_divide #(
    .Width(SumWidth), .OutWidth(OutWidth), .Lanes(Windows * Lanes), .Divisor(Divisor), .Shift(Shift)
  ) u_divide (
    .aclk, .aresetn,
    .s_axis_tvalid(done_q), .s_axis_tready(divide_ready), .s_axis_tdata(sum_q), .s_axis_tlast(last_q),
    .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast
  );

endmodule
