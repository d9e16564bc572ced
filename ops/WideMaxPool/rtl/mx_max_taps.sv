// Largest of each window of wide integers, all taps of some pixels per cycle (mx_max_pool, Pixels > 0).
//
// Equation:  that of mx_max_pool.
// Frames:    H*W/Pixels beats of Pixels vectors in, OutH*OutW/Windows beats of as many vectors out, Windows =
//            max(Pixels/StrideW, 1).
// Latency:   that of mx_taps, and one cycle for every doubling of the taps.
// Rounding:  none.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready. error_o as in mx_taps.
module mx_max_taps #(
  parameter int Width     = 16,
  parameter int Lanes     = 1,  // channels
  parameter int Pixels    = 1,
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
  localparam int Windows = (Pixels > StrideW) ? Pixels / StrideW : 1
) (
  input  logic                           aclk,
  input  logic                           aresetn,

  input  logic                           s_axis_tvalid,
  output logic                           s_axis_tready,
  input  logic [Pixels*Lanes*Width-1:0]  s_axis_tdata,
  input  logic                           s_axis_tlast,

  output logic                           m_axis_tvalid,
  input  logic                           m_axis_tready,
  output logic [Windows*Lanes*Width-1:0] m_axis_tdata,
  output logic                           m_axis_tlast,

  output logic                           error_o
);

  if (Width < 2 || Lanes < 1 || Pixels < 1) begin : g_check
    $error("mx_max_taps: Width = %0d, Lanes = %0d, Pixels = %0d; expected Width >= 2, others positive", Width, Lanes,
           Pixels);
  end

  localparam int Taps   = KernelH * KernelW;
  localparam int Levels = $clog2(Taps);
  localparam int Stages = (Levels > 0) ? Levels : 1;

  logic                                              valid, en, last;
  logic [Windows-1:0][Taps-1:0][Lanes-1:0][Width-1:0] data;
  logic [Windows-1:0][Taps-1:0]                      pad;

  mx_taps #(
    .Width(Lanes * Width), .Pixels(Pixels), .H(H), .W(W), .OutH(OutH), .OutW(OutW), .KernelH(KernelH),
    .KernelW(KernelW), .StrideH(StrideH), .StrideW(StrideW), .PadTop(PadTop), .PadLeft(PadLeft)
  ) u_taps (
    .aclk, .aresetn,
    .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
    .m_axis_tvalid(valid), .m_axis_tready(en), .m_axis_tdata(data), .m_axis_tlast(last), .pad_o(pad), .error_o
  );

  logic [Stages:0] valid_d, last_d;
  logic [Stages:1] valid_q, last_q;

  assign valid_d       = {valid_q, valid};
  assign last_d        = {last_q, last};
  assign en            = !valid_q[Stages] || m_axis_tready;
  assign m_axis_tvalid = valid_q[Stages];
  assign m_axis_tlast  = last_q[Stages];

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= valid_d[Stages-1:0];
    if (en) last_q <= last_d[Stages-1:0];
  end

  for (genvar v = 0; v < Windows; v++) begin : g_window
    for (genvar i = 0; i < Lanes; i++) begin : g_lane
      // Taps outside the frame are the least integer: some tap of a window lies inside.
      for (genvar l = 0; l <= Stages; l++) begin : g_level
        localparam int Count = mx_pkg::ceil_div(Taps, 1 << l);
        logic signed [Width-1:0] best [Count];
        for (genvar t = 0; t < Count; t++) begin : g_best
          if (l == 0) begin : g_in
            assign best[t] = pad[v][t] ? {1'b1, {(Width - 1) {1'b0}}} : data[v][t][i];
          end else if (2 * t + 1 < mx_pkg::ceil_div(Taps, (1 << l) / 2)) begin : g_two
            always_ff @(posedge aclk) begin
              if (en) begin
                best[t] <= (g_level[l-1].best[2*t] > g_level[l-1].best[2*t+1]) ? g_level[l-1].best[2*t]
                           : g_level[l-1].best[2*t+1];
              end
            end
          end else begin : g_one
            always_ff @(posedge aclk) if (en) best[t] <= g_level[l-1].best[2*t];
          end
        end
      end
      assign m_axis_tdata[(v*Lanes+i)*Width+:Width] = g_level[Stages].best[0];
    end
  end

endmodule
