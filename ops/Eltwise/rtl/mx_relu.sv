// ReLU on a stream of wide integers.
//
// Equation:  y = max(x, 0) in every lane; exact.
// Latency:   1 cycle.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
// Style:     the sign clears the output register, which costs no LUT.
module mx_relu #(
  parameter int Width = 32,
  parameter int Lanes = 1
) (
  input  logic                   aclk,
  input  logic                   aresetn,

  input  logic                   s_axis_tvalid,
  output logic                   s_axis_tready,
  input  logic [Lanes*Width-1:0] s_axis_tdata,
  input  logic                   s_axis_tlast,

  output logic                   m_axis_tvalid,
  input  logic                   m_axis_tready,
  output logic [Lanes*Width-1:0] m_axis_tdata,
  output logic                   m_axis_tlast
);

  if (Width < 2 || Lanes < 1) begin : g_check
    $error("mx_relu: Width = %0d, Lanes = %0d; expected Width >= 2 and Lanes >= 1", Width, Lanes);
  end

  logic en;
  assign en            = !m_axis_tvalid || m_axis_tready;
  assign s_axis_tready = en;

  always_ff @(posedge aclk) begin
    if (!aresetn) m_axis_tvalid <= 1'b0;
    else if (en) m_axis_tvalid <= s_axis_tvalid;
    if (en) m_axis_tlast <= s_axis_tlast;
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic [Width-1:0] value;
    assign value = s_axis_tdata[i*Width+:Width];

    always_ff @(posedge aclk) begin
      if (en) m_axis_tdata[i*Width+:Width] <= value[Width-1] ? '0 : value;
    end
  end

endmodule
