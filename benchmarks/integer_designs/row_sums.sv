// Holds a row until its sum is known and something is made of it (a reciprocal, a root).
//
// Equation:  total_o = sum of the terms of a row, when total_valid_o is high; result_o, beside every held value of that
//            row, is what came back as result_i.
// Latency:   the row, 1 cycle, what makes the result, 1 cycle; one value per cycle sustained as long as the result
//            takes fewer than K cycles.
// Handshake: valid and ready; s_ready_o is a register. A total has to be taken.
module row_sums #(
  parameter int HeldBits   = 16,
  parameter int TermBits   = 16,
  parameter int ResultBits = 16,
  parameter int K          = 128,
  localparam int SumBits   = TermBits + $clog2(K)
) (
  input  logic                  aclk,
  input  logic                  aresetn,

  input  logic                  s_valid_i,
  output logic                  s_ready_o,
  input  logic [HeldBits-1:0]   held_i,
  input  logic [TermBits-1:0]   term_i,  // unsigned

  output logic                  total_valid_o,
  output logic [SumBits-1:0]    total_o,
  input  logic                  result_valid_i,
  input  logic [ResultBits-1:0] result_i,

  output logic                  m_valid_o,
  input  logic                  m_ready_i,
  output logic [HeldBits-1:0]   held_o,
  output logic [ResultBits-1:0] result_o,
  output logic                  last_o
);

  localparam int BeatBits = $clog2(K);
  localparam int Depth    = 1 << $clog2(K + 12);
  localparam int UsedBits = $clog2(Depth + 1);

  logic                put, take, in_last, first, held_valid, result_valid;
  logic [BeatBits-1:0] in_q, out_q;
  logic [UsedBits-1:0] used_q;

  assign put       = s_valid_i && s_ready_o;
  assign in_last   = in_q == BeatBits'(K - 1);
  assign first     = in_q == '0;
  assign m_valid_o = held_valid && result_valid;
  assign take      = m_valid_o && m_ready_i;
  assign last_o    = out_q == BeatBits'(K - 1);

  mx_fifo #(.Width(HeldBits), .Depth(Depth)) u_held (
    .aclk, .aresetn, .s_axis_tvalid(put), .s_axis_tready(), .s_axis_tdata(held_i), .s_axis_tlast(1'b0),
    .m_axis_tvalid(held_valid), .m_axis_tready(take), .m_axis_tdata(held_o), .m_axis_tlast()
  );
  mx_fifo #(.Width(ResultBits), .Depth(4)) u_results (  // one for each row that has a value in u_held
    .aclk, .aresetn, .s_axis_tvalid(result_valid_i), .s_axis_tready(), .s_axis_tdata(result_i), .s_axis_tlast(1'b0),
    .m_axis_tvalid(result_valid), .m_axis_tready(take && last_o), .m_axis_tdata(result_o), .m_axis_tlast()
  );

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      in_q          <= '0;
      out_q         <= '0;
      total_valid_o <= 1'b0;
      used_q        <= '0;
      s_ready_o     <= 1'b1;
    end else begin
      used_q        <= used_q + UsedBits'(put) - UsedBits'(take);
      s_ready_o     <= used_q < UsedBits'(Depth - 4);  // a register: pipelines before it are held by it
      if (put) in_q <= in_last ? '0 : in_q + 1'b1;
      if (take) out_q <= last_o ? '0 : out_q + 1'b1;
      total_valid_o <= put && in_last;
    end
    if (put) total_o <= (first ? '0 : total_o) + SumBits'(term_i);
  end

endmodule
