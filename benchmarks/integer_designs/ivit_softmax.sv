// Shiftmax of I-ViT, one score a cycle: 2**-p as a whole octave and a straight line, a division for every share.
//
// Equation:  ivit_softmax of benchmarks/integer_designs.py. Exponentials wait as a mantissa and an octave.
// Latency:   rows wait twice: until their maximum is known, and their sum; then OutBits + 2 cycles of a division that
//            takes one a cycle, one bit of the quotient a stage.
// Handshake: AXI4-Stream; rows are counted, s_axis_tlast is not read.
module ivit_softmax #(
  parameter int Width   = 20,
  parameter int K       = 128,
  parameter int Point   = 10,  // bits of a score below the point
  parameter int Most    = 15,
  parameter int OutBits = 8,
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

  localparam int ExpBits  = Point + 1 + Most;
  localparam int SumBits  = ExpBits + $clog2(K);
  localparam int HeldBits = Point + 1 + $clog2(Most + 1);

  logic                      d_valid, d_ready, e_ready, en;
  logic [Width-1:0]          d;
  logic [2:1]                valid_q;
  logic [Width+1:0]          far, p1_q, near;
  logic [Point:0]            mantissa2_q, mantissa;
  logic [$clog2(Most+1)-1:0] up2_q, up;

  row_distances #(.Width(Width), .K(K)) u_distances (
    .aclk, .aresetn, .s_valid_i(s_axis_tvalid), .s_ready_o(s_axis_tready), .s_data_i(s_axis_tdata),
    .m_valid_o(d_valid), .m_ready_i(d_ready), .m_data_o(d)
  );
  assign en      = !valid_q[2] || e_ready;
  assign d_ready = en;
  assign far     = (Width + 2)'(d);
  assign near    = p1_q > (Width + 2)'(Most << Point) ? (Width + 2)'(Most << Point) : p1_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[1], d_valid};
    if (en) begin
      // Shifts of negative numbers round down: of -d, (-d >> n) = -ceil(d / 2**n).
      p1_q        <= far + (far >> 1) + (Width + 2)'(d[0]) - (far >> 4) - (Width + 2)'(|d[3:0]);
      mantissa2_q <= (Point + 1)'(1 << Point) - (Point + 1)'(near[Point-1:1]);
      up2_q       <= ($clog2(Most + 1))'(Most) - near[Point+:$clog2(Most+1)];
    end
  end

  logic               total_valid, e_valid, e_last, out_en;
  logic [SumBits-1:0] total, sum;

  row_sums #(.HeldBits(HeldBits), .TermBits(ExpBits), .ResultBits(SumBits), .K(K)) u_sums (
    .aclk, .aresetn, .s_valid_i(valid_q[2]), .s_ready_o(e_ready), .held_i({mantissa2_q, up2_q}),
    .term_i(ExpBits'(mantissa2_q) << up2_q),
    .total_valid_o(total_valid), .total_o(total), .result_valid_i(total_valid), .result_i(total),
    .m_valid_o(e_valid), .m_ready_i(out_en), .held_o({mantissa, up}), .result_o(sum), .last_o(e_last)
  );
  row_divide_each #(.Bits(SumBits), .QuotientBits(OutBits)) u_divide (
    .aclk, .aresetn, .valid_i(e_valid), .ready_o(out_en), .last_i(e_last),
    .rest_i(SumBits'(ExpBits'(mantissa) << up)), .divisor_i(sum),
    .valid_o(m_axis_tvalid), .ready_i(m_axis_tready), .last_o(m_axis_tlast), .quotient_o(m_axis_tdata)
  );

endmodule
