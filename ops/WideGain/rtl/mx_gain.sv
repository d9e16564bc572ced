// A factor of its own for every place of a frame of wide integers (operator WideGain).
//
// Equation:  y = x * gain[place] / 2**Shift in every lane (OutWidth must hold it).
// Frames:    Beats beats in and out, counted.
// Latency:   mx_pkg::wide_mul_latency(Width, GainWidth) + 3 cycles; one beat per cycle sustained.
// Rounding:  nearest, ties to even.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
// Memory:    $readmemh file: word (beat of the frame) field l = factor of lane l.
module mx_gain #(
  parameter int Width     = 16,
  parameter int GainWidth = 18,
  parameter int OutWidth  = 22,
  parameter int Shift     = 12,
  parameter int Beats     = 1,
  parameter int Lanes     = 1,
  parameter string GainFile = ""
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s_axis_tvalid,
  output logic                      s_axis_tready,
  input  logic [Lanes*Width-1:0]    s_axis_tdata,
  input  logic                      s_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast
);

  if (Width < 2 || GainWidth < 2 || OutWidth < 2 || Shift < 1 || Beats < 1 || Lanes < 1) begin : g_check
    $error("mx_gain: Width = %0d, GainWidth = %0d, Shift = %0d, Beats = %0d, Lanes = %0d; %s",
           Width, GainWidth, Shift, Beats, Lanes, "expected widths >= 2, others positive");
  end

  localparam int Product  = Width + GainWidth;
  localparam int BeatBits = mx_pkg::index_bits(Beats);
  localparam int Stages   = mx_pkg::wide_mul_latency(Width, GainWidth) + 3;

  logic                en;
  logic [Stages:1]     valid_q, last_q;
  logic [BeatBits-1:0] beat_q;

  assign en            = !valid_q[Stages] || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = valid_q[Stages];
  assign m_axis_tlast  = last_q[Stages];

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      valid_q <= '0;
      beat_q  <= '0;
    end else if (en) begin
      valid_q <= {valid_q[Stages-1:1], s_axis_tvalid};
      if (s_axis_tvalid) beat_q <= (beat_q == BeatBits'(Beats - 1)) ? '0 : beat_q + 1'b1;
    end
    if (en) last_q <= {last_q[Stages-1:1], s_axis_tlast};
  end

  logic [Lanes-1:0][GainWidth-1:0] gain;

  mx_rom #(
    .Width(Lanes * GainWidth), .Depth(Beats), .BlockDepth(256), .File(GainFile)
  ) u_gain (
    .aclk, .en_i(en), .addr_i(beat_q), .data_o(gain)
  );

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [Width-1:0]     value_q;
    logic signed [GainWidth-1:0] factor;
    logic signed [Product-1:0]   product, product_q;
    logic signed [OutWidth-1:0]  result_q;
    logic [Shift-1:0]            rest;
    logic                        up;

    assign factor = gain[i];
    assign rest   = product_q[Shift-1:0];
    assign up     = rest[Shift-1] && (product_q[Shift] || rest != (Shift'(1) << (Shift - 1)));

    mx_wide_mul #(.ABits(Width), .BBits(GainWidth)) u_mul (
      .aclk, .en_i(en), .a_i(value_q), .b_i(factor), .product_o(product)
    );

    always_ff @(posedge aclk) begin
      if (en) begin
        value_q   <= s_axis_tdata[i*Width+:Width];
        product_q <= product;
        result_q  <= OutWidth'(product_q >>> Shift) + OutWidth'(up);
      end
    end

    assign m_axis_tdata[i*OutWidth+:OutWidth] = result_q;
  end

endmodule
