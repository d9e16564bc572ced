// Every channel of wide integers times its own gain, plus its own offset (operator WideAffine).
//
// Equation:  y[c] = (x[c] * gain[c] + offset[c]) / 2**Shift in every lane (OutWidth must hold it).
// Frames:    vectors of ceil(K/Lanes) beats in and out.
// Latency:   mx_pkg::wide_mul_latency(Width, GainWidth) + 3 cycles; one beat per cycle sustained.
// Rounding:  nearest, ties to even.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready. Vectors are counted.
// Turns:     frames of Vectors vectors take the words of Layers layers in turn (mx_layer_words).
// Memories:  $readmemh files: gain and offset word (layer, beat) field l = channel beat*Lanes + l.
module mx_affine #(
  parameter int Width       = 16,
  parameter int GainWidth   = 18,
  parameter int OffsetWidth = 16,
  parameter int OutWidth    = 16,
  parameter int Shift       = 12,
  parameter int K           = 1,
  parameter int Lanes       = 1,
  parameter int Vectors     = 1,  // of a frame, where Layers > 1
  parameter int Layers      = 1,
  parameter string GainFile   = "",
  parameter string OffsetFile = ""
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

  if (Width < 2 || GainWidth < 2 || OffsetWidth < 2 || OutWidth < 2 || Shift < 1 || K < 1 ||
      Lanes < 1) begin : g_check
    $error("mx_affine: Width = %0d, GainWidth = %0d, OffsetWidth = %0d, Shift = %0d, Lanes = %0d; %s",
           Width, GainWidth, OffsetWidth, Shift, Lanes, "expected widths >= 2, others positive");
  end

  localparam int Product  = Width + GainWidth;
  localparam int Sum      = (Product > OffsetWidth ? Product : OffsetWidth) + 1;
  localparam int Beats    = mx_pkg::ceil_div(K, Lanes);
  localparam int Words    = Layers * Beats;
  localparam int WordBits = mx_pkg::index_bits(Words);
  localparam int Multiply = mx_pkg::wide_mul_latency(Width, GainWidth);
  localparam int Stages   = Multiply + 3;

  logic                en;
  logic [Stages:1]     valid_q, last_q;
  logic [WordBits-1:0] word;

  assign en            = !valid_q[Stages] || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = valid_q[Stages];
  assign m_axis_tlast  = last_q[Stages];

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      valid_q <= '0;
    end else if (en) begin
      valid_q <= {valid_q[Stages-1:1], s_axis_tvalid};
    end
    if (en) last_q <= {last_q[Stages-1:1], s_axis_tlast};
  end

  mx_layer_words #(.Words(Beats), .Passes(Vectors), .Layers(Layers)) u_words (
    .aclk, .aresetn, .step_i(en && s_axis_tvalid), .addr_o(word)
  );

  logic [Lanes-1:0][GainWidth-1:0]   gain;
  logic [Lanes-1:0][OffsetWidth-1:0] offset;

  mx_rom #(
    .Width(Lanes * GainWidth), .Depth(Words), .BlockDepth(256), .File(GainFile)
  ) u_gain (
    .aclk, .en_i(en), .addr_i(word), .data_o(gain)
  );
  mx_rom #(
    .Width(Lanes * OffsetWidth), .Depth(Words), .BlockDepth(256), .File(OffsetFile)
  ) u_offset (
    .aclk, .en_i(en), .addr_i(word), .data_o(offset)
  );

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [Width-1:0]       value1_q;
    logic signed [GainWidth-1:0]   factor;
    logic [Multiply:1][OffsetWidth-1:0] added_q;
    logic signed [Product-1:0]     product;
    logic signed [Sum-1:0]         sum_q, kept;
    logic [Shift-1:0]              rest;
    logic                          up;
    logic signed [OutWidth-1:0]    result_q;

    assign factor = gain[i];
    assign kept   = sum_q >>> Shift;
    assign rest   = sum_q[Shift-1:0];
    assign up     = rest[Shift-1] && (kept[0] || rest != (Shift'(1) << (Shift - 1)));

    mx_wide_mul #(.ABits(Width), .BBits(GainWidth)) u_mul (
      .aclk, .en_i(en), .a_i(value1_q), .b_i(factor), .product_o(product)
    );

    always_ff @(posedge aclk) begin
      if (en) begin
        value1_q   <= s_axis_tdata[i*Width+:Width];
        added_q[1] <= offset[i];
        for (int k = 2; k <= Multiply; k++) added_q[k] <= added_q[k-1];
        sum_q      <= Sum'(product) + Sum'($signed(added_q[Multiply]));
        result_q   <= OutWidth'(kept) + OutWidth'(up);
      end
    end

    assign m_axis_tdata[i*OutWidth+:OutWidth] = result_q;
  end

endmodule
