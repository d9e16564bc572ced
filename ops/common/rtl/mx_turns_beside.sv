// What every turn reads beside what goes around: each frame comes once and is sent Turns times. Holds two frames, so
// that the next one arrives while the present one is sent.
//
// Equation:  output stream = frame 0 (Turns times), frame 1 (Turns times), and so on.
// Latency:   2 cycles; one beat per cycle sustained.
// Handshake: AXI4-Stream; frames of Beats beats, which end with TLAST.
module mx_turns_beside #(
  parameter int Width = 8,
  parameter int Beats = 4,
  parameter int Turns = 2
) (
  input  logic             aclk,
  input  logic             aresetn,

  input  logic             s_axis_tvalid,
  output logic             s_axis_tready,
  input  logic [Width-1:0] s_axis_tdata,
  input  logic             s_axis_tlast,

  output logic             m_axis_tvalid,
  input  logic             m_axis_tready,
  output logic [Width-1:0] m_axis_tdata,
  output logic             m_axis_tlast
);

  if (Width < 1 || Beats < 1 || Turns < 2) begin : g_check
    $error("mx_turns_beside: Width = %0d, Beats = %0d, Turns = %0d; expected Width, Beats >= 1, Turns >= 2",
           Width, Beats, Turns);
  end

  mx_replay #(.Width(Width + 1), .Beats(Beats), .Times(Turns)) u_replay (
    .aclk, .aresetn,
    .s_axis_tvalid, .s_axis_tready, .s_axis_tdata({s_axis_tlast, s_axis_tdata}),
    .m_axis_tvalid, .m_axis_tready, .m_axis_tdata({m_axis_tlast, m_axis_tdata})
  );

endmodule
