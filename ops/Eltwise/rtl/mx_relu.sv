// ReLU on a stream of wide integers.
//
// Equation:  y = max(x, 0) in every lane; exact.
// Latency:   0 cycles (combinational).
// Handshake: AXI4-Stream; valid, ready and last pass through.
module mx_relu #(
  parameter int Width = 32,
  parameter int Lanes = 1
) (
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

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    assign m_axis_tdata[i*Width+:Width] =
        s_axis_tdata[i*Width+Width-1] ? '0 : s_axis_tdata[i*Width+:Width];
  end

  assign m_axis_tvalid = s_axis_tvalid;
  assign s_axis_tready = m_axis_tready;
  assign m_axis_tlast  = s_axis_tlast;

endmodule
