// Where frames begin to go around: each comes once from outside, then Turns - 1 times from the way back.
//
// Equation:  output stream = a frame of s0, Turns - 1 frames of s1, and so on.
// Latency:   0 cycles (combinational); one beat per cycle sustained.
// Handshake: AXI4-Stream; frames end with TLAST. The tready of the input whose turn it is depends on m_axis_tready.
module mx_turns_in #(
  parameter int Width = 8,
  parameter int Turns = 2
) (
  input  logic             aclk,
  input  logic             aresetn,

  input  logic             s0_axis_tvalid,
  output logic             s0_axis_tready,
  input  logic [Width-1:0] s0_axis_tdata,
  input  logic             s0_axis_tlast,

  input  logic             s1_axis_tvalid,
  output logic             s1_axis_tready,
  input  logic [Width-1:0] s1_axis_tdata,
  input  logic             s1_axis_tlast,

  output logic             m_axis_tvalid,
  input  logic             m_axis_tready,
  output logic [Width-1:0] m_axis_tdata,
  output logic             m_axis_tlast
);

  if (Width < 1 || Turns < 2) begin : g_check
    $error("mx_turns_in: Width = %0d, Turns = %0d; expected Width >= 1, Turns >= 2", Width, Turns);
  end

  logic around_q, last;  // around_q: frames come from the way back

  assign m_axis_tvalid  = around_q ? s1_axis_tvalid : s0_axis_tvalid;
  assign m_axis_tdata   = around_q ? s1_axis_tdata : s0_axis_tdata;
  assign m_axis_tlast   = around_q ? s1_axis_tlast : s0_axis_tlast;
  assign s0_axis_tready = !around_q && m_axis_tready;
  assign s1_axis_tready = around_q && m_axis_tready;

  logic ends;
  assign ends = m_axis_tvalid && m_axis_tready && m_axis_tlast;

  mx_count #(.Count(Turns)) u_turns (.aclk, .aresetn, .step_i(ends), .last_o(last));

  always_ff @(posedge aclk) begin
    if (!aresetn) around_q <= 1'b0;
    else if (ends) around_q <= !last;
  end

endmodule
