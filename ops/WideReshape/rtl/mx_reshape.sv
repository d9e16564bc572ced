// Frames of wide integers in other vectors: the same beats.
//
// Equation:  y = x.
// Latency:   0 cycles.
// Handshake: AXI4-Stream; all wires pass.
// Style:     no logic; the compiler picks lanes whose beats are the same on both sides.
module mx_reshape #(
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
    $error("mx_reshape: Width = %0d, Lanes = %0d; expected Width >= 2 and Lanes >= 1", Width, Lanes);
  end

  assign s_axis_tready = m_axis_tready;
  assign m_axis_tvalid = s_axis_tvalid;
  assign m_axis_tdata  = s_axis_tdata;
  assign m_axis_tlast  = s_axis_tlast;

endmodule
