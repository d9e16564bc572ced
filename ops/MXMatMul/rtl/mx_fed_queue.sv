// The words of a fold, each as often as vectors want them: the reading side of mx_matmul_fed where weights are streamed.
//
// Equation:  output = the Words words of fold 0 (Times times), of fold 1 (Times times), ...
// Handshake: AXI4-Stream without TLAST. Where Buffered, words of two folds are held.
module mx_fed_queue #(
  parameter int Width    = 8,
  parameter int Words    = 4,
  parameter int Times    = 1,
  parameter bit Buffered = 1
) (
  input  logic             aclk,
  input  logic             aresetn,

  input  logic             s_axis_tvalid,
  output logic             s_axis_tready,
  input  logic [Width-1:0] s_axis_tdata,

  output logic             m_axis_tvalid,
  input  logic             m_axis_tready,
  output logic [Width-1:0] m_axis_tdata
);

  if (Width < 1 || Words < 1 || Times < 1) begin : g_check
    $error("mx_fed_queue: Width = %0d, Words = %0d, Times = %0d; expected at least 1 each", Width, Words, Times);
  end

  if (Times == 1 && Buffered) begin : g_fifo
    logic last, unused;
    mx_fifo #(.Width(Width), .Depth(2 << $clog2(Words))) u_fifo (
      .aclk, .aresetn,
      .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast(1'b0),
      .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast(last)
    );
    assign unused = last;
  end else begin : g_replay
    mx_replay #(.Width(Width), .Beats(Words), .Times(Times)) u_replay (
      .aclk, .aresetn,
      .s_axis_tvalid, .s_axis_tready, .s_axis_tdata,
      .m_axis_tvalid, .m_axis_tready, .m_axis_tdata
    );
  end

endmodule
