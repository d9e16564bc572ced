// The product of two streams of wide integers, lane by lane (operator WideMultiply).
//
// Equation:  y = a * b / 2**Shift in every lane (OutWidth must hold it).
// Latency:   mx_pkg::wide_mul_latency(AWidth, BWidth) + 3 cycles; one beat per cycle sustained.
// Rounding:  nearest, ties to even.
// Handshake: AXI4-Stream; a beat is taken from both inputs at once. error_o is sticky: the inputs
//            ended a frame at different beats. Both s*_axis_tready depend on m_axis_tready.
module mx_multiply #(
  parameter int AWidth   = 16,
  parameter int BWidth   = 16,
  parameter int Shift    = 8,
  parameter int OutWidth = 24,
  parameter int Lanes    = 1
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s0_axis_tvalid,
  output logic                      s0_axis_tready,
  input  logic [Lanes*AWidth-1:0]   s0_axis_tdata,
  input  logic                      s0_axis_tlast,

  input  logic                      s1_axis_tvalid,
  output logic                      s1_axis_tready,
  input  logic [Lanes*BWidth-1:0]   s1_axis_tdata,
  input  logic                      s1_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast,

  output logic                      error_o
);

  if (AWidth < 2 || BWidth < 2 || Shift < 0 || OutWidth < 2 || Lanes < 1 || AWidth + BWidth > 63) begin : g_check
    $error("mx_multiply: AWidth = %0d, BWidth = %0d, Shift = %0d, OutWidth = %0d, Lanes = %0d; expected %s", AWidth,
           BWidth, Shift, OutWidth, Lanes, "widths >= 2, products of at most 63 bits, others positive");
  end

  localparam int Product  = AWidth + BWidth;
  localparam int Multiply = mx_pkg::wide_mul_latency(AWidth, BWidth);
  localparam int Stages   = Multiply + 3;

  logic            en, take;
  logic [Stages:1] valid_q, last_q;

  assign en             = !valid_q[Stages] || m_axis_tready;
  assign take           = en && s0_axis_tvalid && s1_axis_tvalid;
  assign s0_axis_tready = take;
  assign s1_axis_tready = take;
  assign m_axis_tvalid  = valid_q[Stages];
  assign m_axis_tlast   = last_q[Stages];

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      valid_q <= '0;
      error_o <= 1'b0;
    end else begin
      if (en) valid_q <= {valid_q[Stages-1:1], take};
      if (take && s0_axis_tlast != s1_axis_tlast) error_o <= 1'b1;
    end
    if (en) last_q <= {last_q[Stages-1:1], s0_axis_tlast};
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [AWidth-1:0]   a_q;
    logic signed [BWidth-1:0]   b_q;
    logic signed [Product-1:0]  product, product_q;
    logic signed [OutWidth-1:0] kept, result_q;
    logic                       up;

    mx_wide_mul #(.ABits(AWidth), .BBits(BWidth)) u_mul (
      .aclk, .en_i(en), .a_i(a_q), .b_i(b_q), .product_o(product)
    );

    assign kept = OutWidth'(product_q >>> Shift);
    if (Shift > 0) begin : g_round
      logic [Shift-1:0] rest;
      assign rest = product_q[Shift-1:0];
      assign up   = rest[Shift-1] && (product_q[Shift] || rest != (Shift'(1) << (Shift - 1)));
    end else begin : g_exact
      assign up = 1'b0;
    end

    always_ff @(posedge aclk) begin
      if (en) begin
        a_q       <= s0_axis_tdata[i*AWidth+:AWidth];
        b_q       <= s1_axis_tdata[i*BWidth+:BWidth];
        product_q <= product;
        result_q  <= kept + OutWidth'(up);
      end
    end

    assign m_axis_tdata[i*OutWidth+:OutWidth] = result_q;
  end

endmodule
