// Softmax of I-BERT, one score a cycle: exp by a parabola on (-ln 2, 0] and a shift, a reciprocal a row
//
// Equation:  ibert_softmax of benchmarks/integer_designs.py. z = d / Ln2 is a product with Inverse, exact for the
//            distances that are left after the limit of 30 * Ln2.
// Latency:   rows wait twice: until their maximum is known, and their sum.
// Handshake: AXI4-Stream; rows are counted, s_axis_tlast is not read.
module ibert_softmax #(
  parameter int Width   = 20,
  parameter int K       = 128,
  parameter int OutBits = 8,
  parameter int Ln2     = 709,
  parameter int B       = 1385,
  parameter int C       = 1006182,
  parameter int Inverse = 23664,  // ceil(2**24 / Ln2)
  localparam int OutWidth = OutBits + 1
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

  localparam int ExpBits    = 22;
  localparam int ReciprocalBits = 11;  // a sum is 2**21 at least: its largest exponential
  localparam int NearBits   = 15;
  localparam int Stages     = 7;

  // --- exponentials --------------------------------------------------------------------------------------------------

  logic                  d_valid, d_ready, en;
  logic [Width-1:0]      d;
  logic [Stages:1]       valid_q;
  logic [NearBits-1:0]   near1_q, near2_q, near3_q;
  logic [NearBits+14:0]  product2_q;
  logic [4:0]            z3_q;
  logic [6:4][4:0]       z_q;
  logic [10:0]           root4_q;
  logic [21:0]           square5_q;
  logic [ExpBits-1:0]    raised6_q, exp7_q;

  row_distances #(.Width(Width), .K(K)) u_distances (
    .aclk, .aresetn, .s_valid_i(s_axis_tvalid), .s_ready_o(s_axis_tready), .s_data_i(s_axis_tdata),
    .m_valid_o(d_valid), .m_ready_i(d_ready), .m_data_o(d)
  );

  logic e_ready;
  assign en      = !valid_q[Stages] || e_ready;
  assign d_ready = en;

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[Stages-1:1], d_valid};
    if (en) begin
      near1_q    <= d > Width'(30 * Ln2) ? NearBits'(30 * Ln2) : NearBits'(d);
      near2_q    <= near1_q;
      product2_q <= near1_q * (NearBits + 15)'(Inverse);
      near3_q    <= near2_q;
      z3_q       <= 5'(product2_q >> 24);
      root4_q    <= 11'(NearBits'(B) - near3_q + NearBits'(z3_q * NearBits'(Ln2)));
      z_q        <= {z_q[5:4], z3_q};
      square5_q  <= root4_q * 22'(root4_q);
      raised6_q  <= square5_q + ExpBits'(C);
      exp7_q     <= raised6_q >> z_q[6];
    end
  end

  // --- their sum, its reciprocal, shares -----------------------------------------------------------------------------

  logic                          total_valid, result_valid, e_valid, e_last, out_en;
  logic [ExpBits+$clog2(K)-1:0]  total;
  logic [ReciprocalBits:0]       result, factor;
  logic [ExpBits-1:0]            e;
  logic [2:1]                    out_valid_q, out_last_q;
  logic [ExpBits-1:0]            e_q;
  logic [ReciprocalBits:0]       factor_q;
  logic [ExpBits+ReciprocalBits:0] share_q;

  row_sums #(.HeldBits(ExpBits), .TermBits(ExpBits), .ResultBits(ReciprocalBits + 1), .K(K)) u_sums (
    .aclk, .aresetn, .s_valid_i(valid_q[Stages]), .s_ready_o(e_ready), .held_i(exp7_q), .term_i(exp7_q),
    .total_valid_o(total_valid), .total_o(total), .result_valid_i(result_valid), .result_i(result),
    .m_valid_o(e_valid), .m_ready_i(out_en), .held_o(e), .result_o(factor), .last_o(e_last)
  );
  mx_softmax_reciprocal #(
    .SumBits(ExpBits + $clog2(K)), .ExpBits(ExpBits - 1), .ReciprocalBits(ReciprocalBits)
  ) u_reciprocal (
    .aclk, .aresetn, .valid_i(total_valid), .ready_o(), .sum_i(total), .valid_o(result_valid), .reciprocal_o(result)
  );

  assign out_en        = !out_valid_q[2] || m_axis_tready;
  assign m_axis_tvalid = out_valid_q[2];
  assign m_axis_tlast  = out_last_q[2];
  assign m_axis_tdata  = OutWidth'(share_q >> (32 - OutBits));

  always_ff @(posedge aclk) begin
    if (!aresetn) out_valid_q <= '0;
    else if (out_en) out_valid_q <= {out_valid_q[1], e_valid};
    if (out_en) begin
      out_last_q <= {out_last_q[1], e_last};
      e_q        <= e;
      factor_q   <= factor;
      share_q    <= e_q * (ExpBits + ReciprocalBits + 1)'(factor_q);
    end
  end

endmodule
