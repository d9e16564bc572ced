// Sums of products of MX blocks, Pe rows by Simd elements per cycle: the datapath of mx_matmul and mx_product.
//
// Equation:  y[o] = bias[o] + sum over blocks b of
//                   dot(x[b], w[o][b]) << (x_scale[b] + w_scale[o][b] - ScaleOffset),
//            with dot the exact integer product of linear element values. Exact (AccWidth must hold
//            the result), so neither order nor folding matters.
// Frames:    Vectors vectors; of each come Folds times the same Places * (Group/Part) beats, and go out Folds
//            beats of Pe accumulators, one behind each pass.
// Operands:  w_i are the weights of the beat that was taken in the cycle before; w_scale_i the scales of Groups
//            rows, of the word that scale_step_o asked for in the cycle before, and bias_i likewise. Words of
//            scales: by fold, block (all blocks of a beat together) and turn, row g*Turns + turn of a fold in field
//            g. Cycles count where en_o is high: whoever reads memories for it moves with it.
// Latency:   dot_latency (or pair_latency) + Late + sum_latency(blocks of a beat) + rows_in_turn + 4 cycles from
//            the last beat of a pass to its output beat.
// Rounding:  none.
// Handshake: AXI4-Stream; x is taken where en_o is high. A stalled output stalls everything.
module mx_products #(
  parameter int Places      = 1,   // beats' worth of blocks, one after the other, of a vector
  parameter int Folds       = 1,
  parameter int Vectors     = 1,   // of a frame
  parameter int Group       = 32,  // elements that share a scale, power of two
  parameter int Pe          = 1,
  parameter int Simd        = 8,   // divides Group, or is whole groups
  parameter int AExpBits    = 2,   // activation element; 0: integer
  parameter int AManBits    = 1,
  parameter int WExpBits    = 2,   // weight element
  parameter int WManBits    = 1,
  parameter int AccWidth    = 32,
  parameter int ScaleOffset = 254,
  parameter int ShiftMax    = 0,   // largest x_scale + w_scale - ScaleOffset of a non-zero block
  parameter int UseDsp      = -1,  // 0: LUTs, 1: DSP blocks, 2: in threes, -1: DSP blocks if both are integers
  parameter bit Pair        = 0,   // rows go in pairs, two products of linear values per DSP block (mx_dot_pair)
  parameter bit Late        = 0,   // the weights pass one register more
  localparam int ABits     = mx_pkg::element_bits(AExpBits, AManBits),
  localparam int WBits     = mx_pkg::element_bits(WExpBits, WManBits),
  localparam int WStored   = Pair ? mx_pkg::linear_bits(WExpBits, WManBits) : WBits,  // pairs take linear values
  localparam int Across    = (Simd > Group) ? Simd / Group : 1,  // blocks of a beat
  localparam int Part      = Simd / Across,                      // elements of each
  localparam int ShiftBits = mx_pkg::index_bits(ShiftMax + 1),   // the low bits of a shift need no others of scales
  localparam int PartBeat  = ShiftBits + Part * ABits,
  localparam int Groups    = mx_pkg::ceil_div(Pe, mx_pkg::rows_in_turn(Pe, Group / Part))
) (
  input  logic                                      aclk,
  input  logic                                      aresetn,

  output logic                                      en_o,
  input  logic                                      x_valid_i,
  input  logic [Across-1:0][PartBeat-1:0]           x_i,  // {low bits of the scale, elements}
  input  logic [Pe-1:0][Simd-1:0][WStored-1:0]      w_i,
  output logic                                      scale_step_o,
  input  logic [Groups-1:0][Across-1:0][ShiftBits-1:0] w_scale_i,
  output logic                                      bias_step_o,
  input  logic [Groups-1:0][AccWidth-1:0]           bias_i,

  output logic                                      m_axis_tvalid,
  input  logic                                      m_axis_tready,
  output logic [Pe*AccWidth-1:0]                    m_axis_tdata,
  output logic                                      m_axis_tlast
);

  if (Places < 1 || Folds < 1 || Vectors < 1 || Pe < 1 || Simd < 1 || Group < 1 || (Group & (Group - 1)) != 0 ||
      Group % Part != 0 || Simd != Across * Part) begin : g_check_shape
    $error("mx_products: Places = %0d, Folds = %0d, Group = %0d, Pe = %0d, Simd = %0d; expected %s", Places, Folds,
           Group, Pe, Simd, "all >= 1, Group a power of two, Simd its divisor or whole groups");
  end
  if (ABits < 2 || ABits > 8 + int'(AExpBits == 0) || WBits < 2 || WBits > 8 || (AExpBits != 0 && AManBits < 1) ||
      (WExpBits != 0 && WManBits < 1)) begin : g_check_element
    $error("mx_products: activation e%0dm%0d, weight e%0dm%0d; expected 2 to 8 bits each, %s",
           AExpBits, AManBits, WExpBits, WManBits, "and a mantissa bit in a minifloat");
  end
  if (Pair && (mx_pkg::linear_bits(AExpBits, AManBits) > 9 || mx_pkg::linear_bits(WExpBits, WManBits) > 8 ||
      Pe % 2 != 0)) begin : g_check_pair
    $error("mx_products: Pair with linear values of %0d and %0d bits, Pe = %0d; expected at most 9 and 8, an even Pe",
           mx_pkg::linear_bits(AExpBits, AManBits), mx_pkg::linear_bits(WExpBits, WManBits), Pe);
  end
  if (UseDsp == 2 && (AExpBits != 0 || WExpBits != 0 || ABits > 9 || WBits > 8)) begin : g_check_three
    $error("mx_products: UseDsp = 2 with e%0dm%0d and e%0dm%0d; expected integers of at most 9 and 8 bits",
           AExpBits, AManBits, WExpBits, WManBits);
  end
  if (AccWidth < 2 || ShiftMax < 0 || ShiftMax > 255) begin : g_check_window
    $error("mx_products: AccWidth = %0d, ShiftMax = %0d; expected AccWidth >= 2, ShiftMax in 0..255",
           AccWidth, ShiftMax);
  end

  localparam int BlockBeats = Group / Part;

  localparam int PartBits   = mx_pkg::index_bits(BlockBeats);
  localparam int BlockBits  = mx_pkg::index_bits(Places);
  localparam int FoldBits   = mx_pkg::index_bits(Folds);
  localparam int VectorBits = mx_pkg::index_bits(Vectors);
  localparam bit Dsp        = (UseDsp < 0) ? AExpBits == 0 && WExpBits == 0 : UseDsp != 0;

  // Pairs multiply linear values.
  localparam int ALinear    = mx_pkg::linear_bits(AExpBits, AManBits);
  localparam int WLinear    = mx_pkg::linear_bits(WExpBits, WManBits);

  localparam bit Three      = UseDsp == 2 && !Pair;
  localparam int DotDelay   = (Pair ? mx_pkg::pair_latency(ALinear, WLinear, Part) : Three ? mx_pkg::three_latency(Part)
      : mx_pkg::dot_latency(AExpBits, AManBits, WExpBits, WManBits, Part, Dsp)) + int'(Late);
  localparam int SumDelay   = mx_pkg::sum_latency(Across);
  localparam int DotBits    = $clog2(Part)
      + (Pair ? ALinear + WLinear : mx_pkg::product_bits(AExpBits, AManBits, WExpBits, WManBits));
  localparam int BlockSum   = DotBits + $clog2(BlockBeats);

  // Every register moves with `en`.
  logic en;
  assign en   = !m_axis_tvalid || m_axis_tready;
  assign en_o = en;

  logic [Across-1:0][PartBeat-1:0]      x_q;
  logic [Pe-1:0][Simd-1:0][WStored-1:0] w_dot;
  logic [Across-1:0][Part*ABits-1:0]    x_dot;

  always_ff @(posedge aclk) if (en) x_q <= x_i;

  if (Late) begin : g_late
    always_ff @(posedge aclk) begin
      if (en) begin
        w_dot <= w_i;
        for (int b = 0; b < Across; b++) x_dot[b] <= x_q[b][Part*ABits-1:0];
      end
    end
  end else begin : g_at_once
    assign w_dot = w_i;
    for (genvar b = 0; b < Across; b++) begin : g_x
      assign x_dot[b] = x_q[b][Part*ABits-1:0];
    end
  end

  // Delay of the dot product, for the valid flag and the activation scale.

  logic [DotDelay:0]                            valid_d;
  logic [DotDelay:0][Across-1:0][ShiftBits-1:0] x_scale_d;
  logic [DotDelay:1]                            valid_d_q;
  logic [DotDelay:1][Across-1:0][ShiftBits-1:0] x_scale_d_q;
  logic                                         valid_q;

  assign valid_d               = {valid_d_q, valid_q};
  assign x_scale_d[DotDelay:1] = x_scale_d_q;
  for (genvar b = 0; b < Across; b++) begin : g_scale
    assign x_scale_d[0][b] = x_q[b][Part*ABits+:ShiftBits];
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      valid_q   <= 1'b0;
      valid_d_q <= '0;
    end else if (en) begin
      valid_q   <= x_valid_i;
      valid_d_q <= valid_d[DotDelay-1:0];
    end
    if (en) x_scale_d_q <= x_scale_d[DotDelay-1:0];
  end

  // Place of a beat: counted one cycle before its dot product comes out.

  typedef struct packed {
    logic block_start;  // first block of the fold
    logic block_end;    // last block of the fold
    logic frame_end;    // last block of the frame's last vector
  } place_t;

  logic                  beat, part_end, block_end, fold_end, frame_end;
  logic [PartBits-1:0]   part_q;
  logic [BlockBits-1:0]  block_q;
  logic [FoldBits-1:0]   fold_q;
  logic [VectorBits-1:0] vector_q;
  logic                  first_q, done_q;  // first beat of a block, last one
  place_t                place_q;

  assign beat      = valid_d[DotDelay-1];
  assign part_end  = part_q == PartBits'(BlockBeats - 1);
  assign block_end = part_end && block_q == BlockBits'(Places - 1);
  assign fold_end  = block_end && fold_q == FoldBits'(Folds - 1);
  assign frame_end = fold_end && vector_q == VectorBits'(Vectors - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      part_q   <= '0;
      block_q  <= '0;
      fold_q   <= '0;
      vector_q <= '0;
      done_q   <= 1'b0;
    end else if (en) begin
      done_q <= beat && part_end;
      if (beat) begin
        part_q <= part_end ? '0 : part_q + 1'b1;
        if (part_end) block_q <= block_end ? '0 : block_q + 1'b1;
        if (block_end) fold_q <= fold_end ? '0 : fold_q + 1'b1;
        if (fold_end) vector_q <= frame_end ? '0 : vector_q + 1'b1;
      end
    end
    if (en) begin
      first_q <= part_q == '0;
      place_q <= '{block_start: block_q == '0, block_end: block_end, frame_end: frame_end};
    end
  end

  // Behind a block, its rows take turns: Turns of them share a shifter and an accumulator. Stages: 0 a row's
  // block sum is chosen, 1 it is shifted, then the sum over the blocks of a beat, Summed its accumulation.

  localparam int Turns  = mx_pkg::rows_in_turn(Pe, BlockBeats);
  localparam int Summed = 2 + SumDelay;
  localparam int TurnBits = mx_pkg::index_bits(Turns);

  logic [TurnBits-1:0]              turn_q;
  logic                             turn_end, last_q, out_q;
  place_t                           now_q;           // of the block whose rows take turns
  logic [Summed:1]                  valid_s_q;
  logic [Summed:1]                  end_q;           // of the turns
  place_t [Summed:1]                place_s_q;
  place_t                           place_summed;
  logic                             turn_valid_q;
  logic [Across-1:0][ShiftBits-1:0] x_shift_q;

  assign turn_end     = turn_q == TurnBits'(Turns - 1);
  assign place_summed = place_s_q[Summed];
  assign scale_step_o = done_q || turn_valid_q && !turn_end;  // of the first turn while its block ends
  assign bias_step_o  = valid_s_q[Summed-1] && place_s_q[Summed-1].block_start;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      turn_valid_q <= 1'b0;
      turn_q       <= '0;
      valid_s_q    <= '0;
      out_q        <= 1'b0;
    end else if (en) begin
      if (done_q) turn_valid_q <= 1'b1;
      else if (turn_end) turn_valid_q <= 1'b0;
      turn_q <= (done_q || turn_end) ? '0 : turn_q + 1'b1;
      valid_s_q <= {valid_s_q[Summed-1:1], turn_valid_q};
      out_q     <= valid_s_q[Summed] && end_q[Summed] && place_summed.block_end;
    end
  end

  always_ff @(posedge aclk) begin
    if (en) begin
      if (done_q) begin
        now_q <= place_q;
        for (int b = 0; b < Across; b++) x_shift_q[b] <= x_scale_d[DotDelay][b] - ShiftBits'(ScaleOffset);
      end
      place_s_q <= {place_s_q[Summed-1:1], now_q};
      end_q     <= {end_q[Summed-1:1], turn_end};
      last_q    <= place_summed.frame_end;
    end
  end

  logic signed [Across-1:0][Pe-1:0][DotBits-1:0] dots;
  logic [Across-1:0][Pe-1:0]                     carries;

  for (genvar b = 0; b < Across; b++) begin : g_block
    if (Pair) begin : g_pairs
      logic [Part-1:0][ALinear-1:0] linear;
      for (genvar i = 0; i < Part; i++) begin : g_linear
        logic [ABits-1:0] code;
        assign code = x_dot[b][i*ABits+:ABits];
        if (AExpBits == 0) begin : g_int
          assign linear[i] = code;
        end else begin : g_float
          logic [ALinear-1:0] magnitude;
          assign magnitude = ALinear'(mx_pkg::linear_magnitude(AExpBits, AManBits, int'(code[ABits-2:0])));
          assign linear[i] = code[ABits-1] ? -magnitude : magnitude;
        end
      end
      for (genvar p = 0; p < Pe; p += 2) begin : g_pair
        logic [Across-1:0][2*Part*WStored-1:0] pair;
        assign pair = {w_dot[p+1], w_dot[p]};
        mx_dot_pair #(.Simd(Part), .ABits(ALinear), .WBits(WLinear)) u_dot (
          .aclk, .en_i(en), .a_i(linear), .w_i(pair[b]), .sum_o(dots[b][p+:2]), .carry_o(carries[b][p+:2])
        );
      end
    end else if (Three) begin : g_threes
      for (genvar p = 0; p < Pe; p++) begin : g_row
        mx_dot_three #(.Simd(Part), .ABits(ABits), .WBits(WBits)) u_dot (
          .aclk, .en_i(en), .a_i(x_dot[b]), .w_i(w_dot[p][b*Part+:Part]), .sum_o(dots[b][p])
        );
        assign carries[b][p] = 1'b0;
      end
    end else begin : g_rows
      for (genvar p = 0; p < Pe; p++) begin : g_row
        mx_dot #(
          .AExpBits(AExpBits), .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits),
          .Simd(Part), .UseDsp(Dsp)
        ) u_dot (
          .aclk, .en_i(en), .a_i(x_dot[b]), .w_i(w_dot[p][b*Part+:Part]), .sum_o(dots[b][p]),
          .carry_o(carries[b][p])
        );
      end
    end
  end

  // Block sums, kept while their rows take turns.
  logic signed [Across-1:0][Groups*Turns-1:0][BlockSum-1:0] block_sums_q;

  for (genvar b = 0; b < Across; b++) begin : g_sums
    for (genvar p = 0; p < Groups * Turns; p++) begin : g_row
      if (p < Pe) begin : g_used
        logic signed [DotBits-1:0]  dot;
        logic signed [BlockSum:0]   sum;  // with the carry position below the point
        logic signed [BlockSum-1:0] sum_q;

        assign dot = dots[b][p];
        assign sum = $signed({first_q ? BlockSum'(0) : sum_q, 1'b1}) + $signed({BlockSum'(dot), carries[b][p]});

        always_ff @(posedge aclk) begin
          if (en && valid_d[DotDelay]) sum_q <= sum[BlockSum:1];
          if (en && done_q) block_sums_q[b][p] <= sum[BlockSum:1];
        end
      end else begin : g_surplus
        assign block_sums_q[b][p] = '0;
      end
    end
  end

  for (genvar g = 0; g < Groups; g++) begin : g_group
    logic [Across-1:0][AccWidth-1:0] terms_q;
    logic signed [AccWidth-1:0]      sum;
    logic [Turns-1:0][AccWidth-1:0]  acc_q;  // those of the turns, the last one in front

    for (genvar b = 0; b < Across; b++) begin : g_term
      logic signed [BlockSum-1:0] block_sum_q;
      logic [ShiftBits-1:0]       shift_q;

      always_ff @(posedge aclk) begin
        if (en) begin
          block_sum_q <= block_sums_q[b][g*Turns+int'(turn_q)];
          shift_q     <= w_scale_i[g][b] + x_shift_q[b];
          terms_q[b]  <= AccWidth'(block_sum_q) <<< shift_q;
        end
      end
    end

    mx_sum #(.Terms(Across), .Width(AccWidth)) u_sum (.aclk, .en_i(en), .terms_i(terms_q), .sum_o(sum));

    logic signed [AccWidth-1:0] next;

    mx_add_first #(.Width(AccWidth)) u_add (
      .first_i(place_summed.block_start), .start_i(bias_i[g]), .kept_i(acc_q[Turns-1]), .term_i(sum), .sum_o(next)
    );

    always_ff @(posedge aclk) begin
      if (en && valid_s_q[Summed]) begin
        acc_q[0] <= next;
        for (int t = 1; t < Turns; t++) acc_q[t] <= acc_q[t-1];
      end
    end

    for (genvar t = 0; t < Turns; t++) begin : g_out
      if (g * Turns + t < Pe) begin : g_used
        assign m_axis_tdata[(g*Turns+t)*AccWidth+:AccWidth] = acc_q[Turns-1-t];
      end
    end
  end

  assign m_axis_tvalid = out_q;
  assign m_axis_tlast  = last_q;

endmodule
