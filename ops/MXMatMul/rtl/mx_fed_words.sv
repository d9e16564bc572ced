// Words of weights, scales and biases out of the beats of a bus, for mx_matmul_fed.
//
// Frames:    of every fold come its biases (HasBias), then its scales, then its weights: Turns words, ScaleWords words,
//            Beats words, each kind from a new beat on, as mx_gear reads them.
// Handshake: AXI4-Stream without TLAST, beats and folds are counted.
module mx_fed_words #(
  parameter int Bus        = 128,
  parameter int Beats      = 4,   // words of weights of a fold
  parameter int Width      = 32,  // of them
  parameter int ScaleWords = 1,
  parameter int ScaleWidth = 8,
  parameter int BiasWords  = 1,
  parameter int BiasWidth  = 32,
  parameter bit HasBias    = 0
) (
  input  logic                  aclk,
  input  logic                  aresetn,

  input  logic                  s_axis_tvalid,
  output logic                  s_axis_tready,
  input  logic [Bus-1:0]        s_axis_tdata,

  output logic                  weight_valid_o,
  input  logic                  weight_ready_i,
  output logic [Width-1:0]      weight_o,
  output logic                  scale_valid_o,
  input  logic                  scale_ready_i,
  output logic [ScaleWidth-1:0] scale_o,
  output logic                  bias_valid_o,
  input  logic                  bias_ready_i,
  output logic [BiasWidth-1:0]  bias_o
);

  if (Bus < 1 || Beats < 1 || Width < 1 || ScaleWords < 1 || ScaleWidth < 1 || BiasWords < 1 || BiasWidth < 1)
  begin : g_check
    $error("mx_fed_words: Bus = %0d, Beats = %0d, Width = %0d, ScaleWords = %0d, BiasWords = %0d; expected %s", Bus,
           Beats, Width, ScaleWords, BiasWords, "at least 1 each");
  end

  typedef enum logic [1:0] {Bias, Scale, Weight} kind_e;
  localparam kind_e First = HasBias ? Bias : Scale;

  kind_e kind_q;
  logic  bias_ready, scale_ready, weight_ready, bias_end, scale_end, weight_end;
  logic  take_bias, take_scale, take_weight;

  assign s_axis_tready = kind_q == Bias ? bias_ready : kind_q == Scale ? scale_ready : weight_ready;
  assign take_bias     = s_axis_tvalid && kind_q == Bias && bias_ready;
  assign take_scale    = s_axis_tvalid && kind_q == Scale && scale_ready;
  assign take_weight   = s_axis_tvalid && kind_q == Weight && weight_ready;

  mx_count #(.Count(mx_pkg::bus_beats(Bus, ScaleWidth, ScaleWords))) u_scales (
    .aclk, .aresetn, .step_i(take_scale), .last_o(scale_end)
  );
  mx_count #(.Count(mx_pkg::bus_beats(Bus, Width, Beats))) u_weights (
    .aclk, .aresetn, .step_i(take_weight), .last_o(weight_end)
  );

  always_ff @(posedge aclk) begin
    if (!aresetn) kind_q <= First;
    else if (take_bias && bias_end) kind_q <= Scale;
    else if (take_scale && scale_end) kind_q <= Weight;
    else if (take_weight && weight_end) kind_q <= First;
  end

  mx_gear #(.Bus(Bus), .Width(ScaleWidth), .Words(ScaleWords)) u_scale (
    .aclk, .aresetn,
    .s_axis_tvalid(s_axis_tvalid && kind_q == Scale), .s_axis_tready(scale_ready), .s_axis_tdata,
    .m_axis_tvalid(scale_valid_o), .m_axis_tready(scale_ready_i), .m_axis_tdata(scale_o)
  );

  mx_gear #(.Bus(Bus), .Width(Width), .Words(Beats)) u_weight (
    .aclk, .aresetn,
    .s_axis_tvalid(s_axis_tvalid && kind_q == Weight), .s_axis_tready(weight_ready), .s_axis_tdata,
    .m_axis_tvalid(weight_valid_o), .m_axis_tready(weight_ready_i), .m_axis_tdata(weight_o)
  );

  if (HasBias) begin : g_bias
    mx_count #(.Count(mx_pkg::bus_beats(Bus, BiasWidth, BiasWords))) u_biases (
      .aclk, .aresetn, .step_i(take_bias), .last_o(bias_end)
    );
    mx_gear #(.Bus(Bus), .Width(BiasWidth), .Words(BiasWords)) u_bias (
      .aclk, .aresetn,
      .s_axis_tvalid(s_axis_tvalid && kind_q == Bias), .s_axis_tready(bias_ready), .s_axis_tdata,
      .m_axis_tvalid(bias_valid_o), .m_axis_tready(bias_ready_i), .m_axis_tdata(bias_o)
    );
  end else begin : g_no_bias
    logic unused;
    assign bias_end     = 1'b0;
    assign bias_ready   = 1'b0;
    assign bias_valid_o = 1'b1;
    assign bias_o       = '0;
    assign unused       = bias_ready_i;
  end

endmodule
