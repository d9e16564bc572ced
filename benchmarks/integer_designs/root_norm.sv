// LayerNorm of I-BERT and I-ViT, one value a cycle: the mean rounded, an integer root of the sum of squares, 31 bits of
// its inverse.
//
// Equation:  newton_norm of benchmarks/integer_designs.py. Newton's iteration ends at the root rounded down
//            (or one above, where the sum is one below a square and steps are left); a bit of it a cycle gives the same
//            in 24 cycles, where every step of Newton is a division.
// Latency:   rows wait twice: until their mean is known, and their sum of squares.
// Handshake: AXI4-Stream; rows are counted, s_axis_tlast is not read.
module root_norm #(
  parameter int Width = 20,
  parameter int K     = 128,  // a power of two
  localparam int OutWidth = 32
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

  localparam int Log        = $clog2(K);
  localparam int SumBits    = Width + Log;
  localparam int Deviation  = Width + 1;
  localparam int SquareBits = 2 * Width + 1;
  localparam int RootBits   = (SquareBits + Log + 1) / 2;

  // --- the mean: sums are unsigned, of values whose sign bit is turned -----------------------------------------------

  logic                        mean_found, mean_q_valid, x_valid, en, sq_ready;
  logic [SumBits-1:0]          sum;
  logic [Width-1:0]            x, mean_q, mean, turned;
  logic [3:1]                  valid_q;
  logic signed [Deviation-1:0] d1_q, d2_q, d3_q;
  logic [2*Deviation-1:0]      square2_q;
  logic [SquareBits-1:0]       square3_q;

  assign turned = s_axis_tdata ^ (Width'(1) << (Width - 1));
  assign en     = !valid_q[3] || sq_ready;

  row_sums #(.HeldBits(Width), .TermBits(Width), .ResultBits(Width), .K(K)) u_means (
    .aclk, .aresetn, .s_valid_i(s_axis_tvalid), .s_ready_o(s_axis_tready), .held_i(turned), .term_i(turned),
    .total_valid_o(mean_found), .total_o(sum), .result_valid_i(mean_q_valid), .result_i(mean_q),
    .m_valid_o(x_valid), .m_ready_i(en), .held_o(x), .result_o(mean), .last_o()
  );

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      mean_q_valid <= 1'b0;
      valid_q      <= '0;
    end else begin
      mean_q_valid <= mean_found;
      if (en) valid_q <= {valid_q[2:1], x_valid};
    end
    mean_q <= Width'((sum + SumBits'(K / 2 - 1) + SumBits'(sum[Log])) >> Log);  // to nearest, ties to even
    if (en) begin
      d1_q      <= $signed(Deviation'(x)) - $signed(Deviation'(mean));
      d2_q      <= d1_q;
      square2_q <= d1_q * (2 * Deviation)'(d1_q);
      d3_q      <= d2_q;
      square3_q <= square2_q[SquareBits-1:0];
    end
  end

  // --- the root of the sum of squares, and 2**31 by it ---------------------------------------------------------------

  logic                        total_valid, root_valid, result_valid, d_valid, d_last, out_en;
  logic [SquareBits+Log-1:0]   total;
  logic [RootBits-1:0]         root;
  logic [31:0]                 result, factor;
  logic signed [Deviation-1:0] d, d1_out_q;

  row_sums #(.HeldBits(Deviation), .TermBits(SquareBits), .ResultBits(32), .K(K)) u_squares (
    .aclk, .aresetn, .s_valid_i(valid_q[3]), .s_ready_o(sq_ready), .held_i(d3_q), .term_i(square3_q),
    .total_valid_o(total_valid), .total_o(total), .result_valid_i(result_valid), .result_i(result),
    .m_valid_o(d_valid), .m_ready_i(out_en), .held_o(d), .result_o(factor), .last_o(d_last)
  );
  row_root #(.RootBits(RootBits)) u_root (
    .aclk, .aresetn, .valid_i(total_valid), .square_i((2 * RootBits)'(total)), .valid_o(root_valid), .root_o(root)
  );
  row_divider #(.Numerator(64'd2147483648), .QuotientBits(32), .Bits(RootBits)) u_divider (
    .aclk, .aresetn, .valid_i(root_valid), .divisor_i(root), .valid_o(result_valid), .quotient_o(result)
  );

  // --- out -----------------------------------------------------------------------------------------------------------

  localparam int Multiply = mx_pkg::wide_mul_latency(Deviation, 33);
  localparam int Stages   = Multiply + 1;

  logic [Stages:1]                 out_valid_q, out_last_q;
  logic [31:0]                     factor_q;
  logic signed [Deviation+32:0]    product;

  assign out_en        = !out_valid_q[Stages] || m_axis_tready;
  assign m_axis_tvalid = out_valid_q[Stages];
  assign m_axis_tlast  = out_last_q[Stages];
  assign m_axis_tdata  = product[32:1];

  mx_wide_mul #(.ABits(Deviation), .BBits(33)) u_mul (
    .aclk, .en_i(out_en), .a_i(d1_out_q), .b_i({1'b0, factor_q}), .product_o(product)
  );

  always_ff @(posedge aclk) begin
    if (!aresetn) out_valid_q <= '0;
    else if (out_en) out_valid_q <= {out_valid_q[Stages-1:1], d_valid};
    if (out_en) begin
      out_last_q <= {out_last_q[Stages-1:1], d_last};
      d1_out_q   <= d;
      factor_q   <= factor;
    end
  end

endmodule
