// AILayerNorm of SOLE, one value a cycle: 8-bit inputs, squares of four bits, the inverse root from a table.
//
// Equation:  sole_norm of benchmarks/integer_designs.py; Factor / 2**16 takes an input to 8 bits.
// Latency:   rows wait once: until their sums are known.
// Handshake: AXI4-Stream; rows are counted, s_axis_tlast is not read.
// Memories:  RootsFile, $readmemh: word i = 2**8 / sqrt(1 + i / 16) in the middle of a step.
module sole_norm #(
  parameter int Width  = 20,
  parameter int K      = 128,  // a power of two
  parameter int Factor = 1204,
  parameter string RootsFile = "",
  localparam int OutWidth = 24
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
  localparam int FactorBits = 17;
  localparam int SquareBits = 15;
  localparam int VarBits    = SquareBits + 2 * Log;
  localparam int HalfBits   = $clog2((VarBits + 1) / 2);
  localparam int SumBits    = 8 + Log;

  // --- inputs of eight bits, and their squares -----------------------------------------------------------------------

  logic                               en, sum_ready;
  logic [6:1]                         valid_q;
  logic signed [Width-1:0]            x1_q;
  logic signed [Width+FactorBits-1:0] product2_q, rounded3_q;
  logic signed [7:0]                  x4_q, x5_q, x6_q;
  logic [6:0]                         magnitude5_q;
  logic [3:0]                         four;
  logic [7:0]                         square;
  logic                               upper;
  logic [SquareBits-1:0]              square6_q;

  assign en            = !valid_q[6] || sum_ready;
  assign s_axis_tready = en;
  assign upper         = magnitude5_q[6];
  assign four          = upper ? 4'(magnitude5_q[6:4]) : magnitude5_q[5:2];
  assign square        = four * 8'(four);

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[5:1], s_axis_tvalid};
    if (en) begin
      x1_q         <= s_axis_tdata;
      product2_q   <= x1_q * $signed(FactorBits'(Factor));
      rounded3_q   <= (product2_q + (Width + FactorBits)'(1 << 15)) >>> 16;
      x4_q         <= rounded3_q > 127 ? 8'sd127 : rounded3_q < -127 ? -8'sd127 : rounded3_q[7:0];
      x5_q         <= x4_q;
      magnitude5_q <= 7'(x4_q[7] ? -x4_q : x4_q);
      x6_q         <= x5_q;
      square6_q    <= upper ? SquareBits'({square, 8'h00}) : SquareBits'({square, 4'h0});
    end
  end

  // --- their sums, the variance, its inverse root --------------------------------------------------------------------

  localparam int TermBits = SquareBits;
  logic                       total_valid, y_valid, y_last, out_en, found_q;
  logic [TermBits+Log-1:0]    squares;
  logic [SumBits-1:0]         sum_q, sum1_q, sum2_q, sum3_q, sum4_q;
  logic                       first, put;
  logic [Log-1:0]             place_q;
  logic [4:1]                 made_q;
  logic signed [SumBits:0]    centered;
  logic [2*SumBits+1:0]       squared1_q;
  logic [VarBits-1:0]         scaled1_q, variance2_q;
  logic [HalfBits-1:0]        half, half3_q, half4_q;
  logic [5:0]                 index4_q;
  logic [7:0]                 root;
  logic [(VarBits+1)/2-1:0]   pairs;
  logic [SumBits+HalfBits+7:0] result;
  logic signed [7:0]          x;
  logic [SumBits-1:0]         y_sum;
  logic [HalfBits-1:0]        y_half;
  logic [7:0]                 y_root;
  logic                       unused;

  assign put      = valid_q[6] && sum_ready;
  assign first  = place_q == '0;
  assign centered = $signed({sum_q[SumBits-1], sum_q});

  row_sums #(.HeldBits(8), .TermBits(TermBits), .ResultBits(SumBits + HalfBits + 8), .K(K)) u_sums (
    .aclk, .aresetn, .s_valid_i(valid_q[6]), .s_ready_o(sum_ready), .held_i(x6_q), .term_i(square6_q),
    .total_valid_o(total_valid), .total_o(squares), .result_valid_i(made_q[4]), .result_i(result),
    .m_valid_o(y_valid), .m_ready_i(out_en), .held_o(x), .result_o({y_sum, y_half, y_root}), .last_o(y_last)
  );

  for (genvar i = 0; i < (VarBits + 1) / 2; i++) begin : g_pair
    if (2 * i + 1 < VarBits) begin : g_two
      assign pairs[i] = |variance2_q[2*i+:2];
    end else begin : g_one
      assign pairs[i] = variance2_q[2*i];
    end
  end
  mx_leading_one #(.Width((VarBits + 1) / 2)) u_half (.data_i(pairs), .top_o(half), .zero_o(unused));
  mx_rom #(.Width(8), .Depth(48), .BlockDepth(256), .File(RootsFile)) u_roots (
    .aclk, .en_i(1'b1), .addr_i(index4_q), .data_o(root)
  );
  assign result = {sum4_q, half4_q, root};

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      place_q <= '0;
      made_q  <= '0;
    end else begin
      if (put) place_q <= place_q + 1'b1;
      made_q <= {made_q[3:1], total_valid};
    end
    if (put) sum_q <= (first ? '0 : sum_q) + SumBits'(x6_q);
    // The row before is complete in the cycle in which total_valid is high.
    scaled1_q   <= VarBits'(squares) << Log;
    squared1_q  <= centered * (2 * SumBits + 2)'(centered);
    sum1_q      <= sum_q;
    variance2_q <= VarBits'(squared1_q) >= scaled1_q ? VarBits'(1) : scaled1_q - VarBits'(squared1_q);
    sum2_q      <= sum1_q;
    half3_q     <= half;
    index4_q    <= 6'({variance2_q, 4'h0} >> {half, 1'b0}) - 6'd16;
    sum3_q      <= sum2_q;
    half4_q     <= half3_q;
    sum4_q      <= sum3_q;
  end

  // --- out -----------------------------------------------------------------------------------------------------------

  logic [3:1]                    out_valid_q, out_last_q;
  logic signed [SumBits+1:0]     deviation1_q;
  logic [3:1][HalfBits-1:0]      half_q;
  logic [7:0]                    root1_q;
  logic signed [SumBits+10:0]    product2_out_q;
  logic signed [OutWidth-1:0]    y3_q;

  assign out_en        = !out_valid_q[3] || m_axis_tready;
  assign m_axis_tvalid = out_valid_q[3];
  assign m_axis_tlast  = out_last_q[3];
  assign m_axis_tdata  = y3_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) out_valid_q <= '0;
    else if (out_en) out_valid_q <= {out_valid_q[2:1], y_valid};
    if (out_en) begin
      out_last_q     <= {out_last_q[2:1], y_last};
      deviation1_q   <= ((SumBits + 2)'(x) <<< Log) - (SumBits + 2)'($signed(y_sum));
      root1_q        <= y_root;
      half_q         <= {half_q[2:1], y_half};
      product2_out_q <= deviation1_q * $signed((SumBits + 11)'(root1_q));
      y3_q           <= OutWidth'(product2_out_q >>> half_q[2]);
    end
  end

endmodule
