// Softmax of ITA, one score a cycle: scores of eight bits over eight octaves, shares by a reciprocal a row and a shift.
//
// Equation:  ita_softmax of benchmarks/integer_designs.py; Factor / 2**24 takes a score to 32 steps an octave.
// Latency:   rows wait twice: until their maximum is known, and their sum.
// Handshake: AXI4-Stream; rows are counted, s_axis_tlast is not read.
module ita_softmax #(
  parameter int Width  = 20,
  parameter int K      = 128,
  parameter int Factor = 756389,
  localparam int OutWidth = 8
) (
  input  logic                aclk,
  input  logic                aresetn,

  input  logic                s_axis_tvalid,
  output logic                s_axis_tready,
  input  logic [Width-1:0]    s_axis_tdata,
  input  logic                s_axis_tlast,

  output logic                m_axis_tvalid,
  input  logic                m_axis_tready,
  output logic [OutWidth-1:0] m_axis_tdata,
  output logic                m_axis_tlast
);

  localparam int FactorBits = 21;  // signed
  localparam int SumBits    = 9 + $clog2(K);

  // --- scores of eight bits ------------------------------------------------------------------------------------------

  logic                               en, x_ready, d_valid, d_ready;
  logic [4:1]                         valid_q;
  logic signed [Width-1:0]            x1_q;
  logic signed [Width+FactorBits-1:0] product2_q, rounded3_q;
  logic [7:0]                         x4_q, d;

  assign en            = !valid_q[4] || x_ready;
  assign s_axis_tready = en;

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[3:1], s_axis_tvalid};
    if (en) begin
      x1_q       <= s_axis_tdata;
      product2_q <= x1_q * $signed(FactorBits'(Factor));
      rounded3_q <= (product2_q + (Width + FactorBits)'(1 << 23)) >>> 24;
      x4_q       <= rounded3_q > 127 ? 8'h7f : rounded3_q < -128 ? 8'h80 : rounded3_q[7:0];
    end
  end

  row_distances #(.Width(8), .K(K)) u_distances (
    .aclk, .aresetn, .s_valid_i(valid_q[4]), .s_ready_o(x_ready), .s_data_i(x4_q),
    .m_valid_o(d_valid), .m_ready_i(d_ready), .m_data_o(d)
  );

  // --- the sum of powers of two, its reciprocal, shares --------------------------------------------------------------

  logic               total_valid, result_valid, e_valid, e_last, out_en;
  logic [SumBits-1:0] total;
  logic [7:0]         result, inverse;
  logic [2:0]         shift;

  row_sums #(.HeldBits(3), .TermBits(9), .ResultBits(8), .K(K)) u_sums (
    .aclk, .aresetn, .s_valid_i(d_valid), .s_ready_o(d_ready), .held_i(d[7:5]), .term_i(9'h100 >> d[7:5]),
    .total_valid_o(total_valid), .total_o(total), .result_valid_i(result_valid), .result_i(result),
    .m_valid_o(e_valid), .m_ready_i(out_en), .held_o(shift), .result_o(inverse), .last_o(e_last)
  );
  row_divider #(.Numerator(64'd65280), .QuotientBits(8), .Bits(SumBits)) u_divider (
    .aclk, .aresetn, .valid_i(total_valid), .divisor_i(total), .valid_o(result_valid), .quotient_o(result)
  );

  logic       out_valid_q, out_last_q;
  logic [7:0] share_q;
  assign out_en        = !out_valid_q || m_axis_tready;
  assign m_axis_tvalid = out_valid_q;
  assign m_axis_tlast  = out_last_q;
  assign m_axis_tdata  = share_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) out_valid_q <= 1'b0;
    else if (out_en) out_valid_q <= e_valid;
    if (out_en) begin
      out_last_q <= e_last;
      share_q    <= inverse >> shift;
    end
  end

endmodule
