// How far every score lies below the largest of its row: what each of these softmaxes begins with.
//
// Equation:  m_data_o = max(row) - x, unsigned.
// Latency:   4 cycles from the last score of a row (5 where the FIFO is of block RAM); one score per cycle sustained.
// Handshake: valid and ready; s_ready_o depends on registers only. Rows have K scores.
module row_distances #(
  parameter int Width = 20,
  parameter int K     = 128
) (
  input  logic             aclk,
  input  logic             aresetn,

  input  logic             s_valid_i,
  output logic             s_ready_o,
  input  logic [Width-1:0] s_data_i,

  output logic             m_valid_o,
  input  logic             m_ready_i,
  output logic [Width-1:0] m_data_o
);

  localparam int BeatBits = $clog2(K);

  logic                put, take, x_valid, found, top_valid, in_last, out_last;
  logic [BeatBits-1:0] in_q, out_q;
  logic [Width-1:0]    x, largest, top;

  assign put      = s_valid_i && s_ready_o;
  assign take     = x_valid && top_valid && (!m_valid_o || m_ready_i);
  assign in_last  = in_q == BeatBits'(K - 1);
  assign out_last = out_q == BeatBits'(K - 1);

  mx_fifo #(.Width(Width), .Depth(1 << $clog2(K + 8))) u_scores (
    .aclk, .aresetn, .s_axis_tvalid(s_valid_i), .s_axis_tready(s_ready_o), .s_axis_tdata(s_data_i), .s_axis_tlast(1'b0),
    .m_axis_tvalid(x_valid), .m_axis_tready(take), .m_axis_tdata(x), .m_axis_tlast()
  );
  mx_softmax_top #(.Width(Width), .Lanes(1)) u_top (
    .aclk, .aresetn, .valid_i(put), .data_i(s_data_i), .kept_i(1'b1), .last_i(in_last), .valid_o(found), .top_o(largest)
  );
  mx_fifo #(.Width(Width), .Depth(4)) u_tops (  // one for each row that has a score in u_scores
    .aclk, .aresetn, .s_axis_tvalid(found), .s_axis_tready(), .s_axis_tdata(largest), .s_axis_tlast(1'b0),
    .m_axis_tvalid(top_valid), .m_axis_tready(take && out_last), .m_axis_tdata(top), .m_axis_tlast()
  );

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      in_q      <= '0;
      out_q     <= '0;
      m_valid_o <= 1'b0;
    end else begin
      if (put) in_q <= in_last ? '0 : in_q + 1'b1;
      if (take) out_q <= out_last ? '0 : out_q + 1'b1;
      if (take || m_ready_i) m_valid_o <= take;
    end
    if (take) m_data_o <= top - x;
  end

endmodule
