// Where frames go around again, or leave: of Turns frames all but the last take the way back.
//
// Equation:  output 0 (bit and field 0) = the frames that go around again, output 1 = every Turns-th frame.
// Latency:   0 cycles (combinational); one beat per cycle sustained.
// Handshake: AXI4-Stream; frames end with TLAST. s_axis_tready depends on the m_axis_tready of the output whose turn it
//            is.
module mx_turns_out #(
  parameter int Width = 8,
  parameter int Turns = 2
) (
  input  logic               aclk,
  input  logic               aresetn,

  input  logic               s_axis_tvalid,
  output logic               s_axis_tready,
  input  logic [Width-1:0]   s_axis_tdata,
  input  logic               s_axis_tlast,

  output logic [1:0]         m_axis_tvalid,
  input  logic [1:0]         m_axis_tready,
  output logic [2*Width-1:0] m_axis_tdata,
  output logic [1:0]         m_axis_tlast
);

  if (Width < 1 || Turns < 2) begin : g_check
    $error("mx_turns_out: Width = %0d, Turns = %0d; expected Width >= 1, Turns >= 2", Width, Turns);
  end

  logic last;

  assign m_axis_tvalid = last ? {s_axis_tvalid, 1'b0} : {1'b0, s_axis_tvalid};
  assign s_axis_tready = last ? m_axis_tready[1] : m_axis_tready[0];
  assign m_axis_tdata  = {2{s_axis_tdata}};
  assign m_axis_tlast  = {2{s_axis_tlast}};

  mx_count #(.Count(Turns)) u_turns (
    .aclk, .aresetn, .step_i(s_axis_tvalid && s_axis_tready && s_axis_tlast), .last_o(last)
  );

endmodule
