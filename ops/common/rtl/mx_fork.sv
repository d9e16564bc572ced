// One stream to several readers, each at its own pace.
//
// Equation:  every output stream = input stream.
// Latency:   0 cycles (combinational); one beat per cycle sustained.
// Handshake: AXI4-Stream. A beat is taken when every output has taken it; an output that took it
//            waits. s_axis_tready depends on m_axis_tready. Output i has bit i and field i.
module mx_fork #(
  parameter int Width   = 8,
  parameter int Outputs = 2
) (
  input  logic                     aclk,
  input  logic                     aresetn,

  input  logic                     s_axis_tvalid,
  output logic                     s_axis_tready,
  input  logic [Width-1:0]         s_axis_tdata,
  input  logic                     s_axis_tlast,

  output logic [Outputs-1:0]       m_axis_tvalid,
  input  logic [Outputs-1:0]       m_axis_tready,
  output logic [Outputs*Width-1:0] m_axis_tdata,
  output logic [Outputs-1:0]       m_axis_tlast
);

  if (Width < 1 || Outputs < 2) begin : g_check
    $error("mx_fork: Width = %0d, Outputs = %0d; expected Width >= 1, Outputs >= 2", Width, Outputs);
  end

  logic [Outputs-1:0] taken_q;  // outputs that have taken the present beat

  assign m_axis_tvalid = s_axis_tvalid ? ~taken_q : '0;
  assign s_axis_tready = &(taken_q | m_axis_tready);
  assign m_axis_tdata  = {Outputs{s_axis_tdata}};
  assign m_axis_tlast  = {Outputs{s_axis_tlast}};

  always_ff @(posedge aclk) begin
    if (!aresetn) taken_q <= '0;
    else if (s_axis_tvalid) taken_q <= s_axis_tready ? '0 : taken_q | m_axis_tready;
  end

endmodule
