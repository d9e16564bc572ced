// E2Softmax of SOLE, one score a cycle: exponentials as four-bit powers of two, a division by the leading one of a sum.
//
// Equation:  sole_softmax of benchmarks/integer_designs.py.
// Latency:   rows wait twice: until their maximum is known, and their sum.
// Handshake: AXI4-Stream; rows are counted, s_axis_tlast is not read.
module sole_softmax #(
  parameter int Width   = 20,
  parameter int K       = 128,
  parameter int Point   = 10,   // bits of a score below the point
  parameter int OutBits = 8,
  parameter int Low     = 209,  // 0.818 * 2**OutBits
  parameter int High    = 145,  // 0.568 * 2**OutBits
  localparam int OutWidth = OutBits
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

  localparam int TermBits = 16;  // 2**15 is the largest term
  localparam int SumBits  = TermBits + $clog2(K);
  localparam int TopBits  = $clog2(SumBits);

  logic                d_valid, d_ready, e_ready, en;
  logic [Width-1:0]    d;
  logic [2:1]          valid_q;
  logic [Width+1:0]    octaves1_q, rounded;
  logic [3:0]          k2_q, k;

  row_distances #(.Width(Width), .K(K)) u_distances (
    .aclk, .aresetn, .s_valid_i(s_axis_tvalid), .s_ready_o(s_axis_tready), .s_data_i(s_axis_tdata),
    .m_valid_o(d_valid), .m_ready_i(d_ready), .m_data_o(d)
  );
  assign en      = !valid_q[2] || e_ready;
  assign d_ready = en;
  assign rounded = (octaves1_q + (Width + 2)'(1 << (Point - 1))) >> Point;

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[1], d_valid};
    if (en) begin
      octaves1_q <= (Width + 2)'(d) + (Width + 2)'(d >> 1) - (Width + 2)'(d >> 4);
      k2_q       <= rounded > (Width + 2)'(15) ? 4'd15 : 4'(rounded);
    end
  end

  // --- the sum; of it, the place of its leading one and the bit behind it --------------------------------------------

  logic               total_valid, ks_valid_q, e_valid, e_last, out_en, unused;
  logic [SumBits-1:0] total;
  logic [TopBits-1:0] top, ks_q;
  logic               half_q;
  logic [TopBits-1:0] ks;
  logic               half;

  row_sums #(.HeldBits(4), .TermBits(TermBits), .ResultBits(TopBits + 1), .K(K)) u_sums (
    .aclk, .aresetn, .s_valid_i(valid_q[2]), .s_ready_o(e_ready), .held_i(k2_q), .term_i(16'h8000 >> k2_q),
    .total_valid_o(total_valid), .total_o(total), .result_valid_i(ks_valid_q), .result_i({half_q, ks_q}),
    .m_valid_o(e_valid), .m_ready_i(out_en), .held_o(k), .result_o({half, ks}), .last_o(e_last)
  );
  mx_leading_one #(.Width(SumBits)) u_top (.data_i(total), .top_o(top), .zero_o(unused));

  // --- shares --------------------------------------------------------------------------------------------------------

  logic [2:1]         out_valid_q, out_last_q;
  logic [TopBits:0]   shift1_q;
  logic               half1_q;
  logic [OutBits-1:0] share_q;

  assign out_en        = !out_valid_q[2] || m_axis_tready;
  assign m_axis_tvalid = out_valid_q[2];
  assign m_axis_tlast  = out_last_q[2];
  assign m_axis_tdata  = share_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      out_valid_q <= '0;
      ks_valid_q  <= 1'b0;
    end else begin
      ks_valid_q <= total_valid;
      if (out_en) out_valid_q <= {out_valid_q[1], e_valid};
    end
    ks_q   <= top - TopBits'(15);
    half_q <= total[top-1'b1];
    if (out_en) begin
      out_last_q <= {out_last_q[1], e_last};
      shift1_q   <= (TopBits + 1)'(k) + (TopBits + 1)'(ks);
      half1_q    <= half;
      share_q    <= (half1_q ? OutBits'(High) : OutBits'(Low)) >> shift1_q;
    end
  end

endmodule
