// Product of two streams of MX blocks, Pe rows of b by Simd elements per cycle (operator MXProduct).
//
// Equation:  y[t][h][r] = sum over blocks of
//                         dot(a[t][h], b[r][h / (Heads/BHeads)]) << (a_scale + b_scale - ScaleOffset),
//            with dot the exact integer product of linear element values. Exact (AccWidth must hold
//            the result), so neither order nor folding matters.
// Frames:    of a Tokens * Heads vectors, of b Rows * BHeads, head after head of every token or row; each of
//            ceil(K/Group) * (Group/Simd) beats {scale, Simd elements}, each with the scale of its block; or of
//            ceil(K/Group) / (Simd/Group) beats of as many whole blocks. ceil(Rows/Pe) beats of Pe accumulators
//            out for every vector of a, surplus rows undefined.
// Latency:   that of mx_matmul from the last beat of a vector of a; from the last beat of a frame of b as many
//            cycles more as a vector has beats, and 2 (3 in pairs). A vector takes ceil(Rows/Pe) times its beats
//            in cycles, back to back.
// Rounding:  none.
// Handshake: AXI4-Stream. Vectors of a wait until the whole frame of b has come. Two frames of b are held, so that
//            one comes while the other is used; a third one waits. error_o is sticky: a TLAST of either input came
//            where no frame ends, or was missing where one does (frames are counted, TLAST is only checked).
//            s1_axis_tready depends on registers only; so does s0_axis_tready, or on m_axis_tready too when
//            ceil(Rows/Pe) = 1.
module mx_product #(
  parameter int K           = 32,  // elements of a vector
  parameter int Tokens      = 1,   // of a
  parameter int Heads       = 1,   // of a, a multiple of BHeads
  parameter int Rows        = 4,   // of b
  parameter int BHeads      = 1,
  parameter int Group       = 32,  // elements that share a scale, power of two
  parameter int Pe          = 1,
  parameter int Simd        = 8,   // divides Group, or is whole groups: a divisor of a vector's
  parameter int AExpBits    = 2,   // element of a; 0: integer
  parameter int AManBits    = 1,
  parameter int BExpBits    = 2,   // element of b
  parameter int BManBits    = 1,
  parameter int AccWidth    = 32,
  parameter int ScaleOffset = 254,
  parameter int ShiftMax    = 0,   // largest a_scale + b_scale - ScaleOffset of a non-zero block
  parameter int UseDsp      = -1,  // 0: LUTs, 1: DSP blocks, 2: in threes, -1: DSP blocks if both are integers
  parameter bit Pair        = 0,   // rows go in pairs, two products of linear values per DSP block (mx_dot_pair)
  localparam int ABits  = mx_pkg::element_bits(AExpBits, AManBits),
  localparam int BBits  = mx_pkg::element_bits(BExpBits, BManBits),
  localparam int Across = (Simd > Group) ? Simd / Group : 1,  // blocks of a beat
  localparam int Part   = Simd / Across                       // elements of each
) (
  input  logic                    aclk,
  input  logic                    aresetn,

  input  logic                    s0_axis_tvalid,
  output logic                    s0_axis_tready,
  input  logic [Across-1:0][8+Part*ABits-1:0] s0_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  input  logic                    s0_axis_tlast,

  input  logic                    s1_axis_tvalid,
  output logic                    s1_axis_tready,
  input  logic [Across-1:0][8+Part*BBits-1:0] s1_axis_tdata,
  input  logic                    s1_axis_tlast,

  output logic                    m_axis_tvalid,
  input  logic                    m_axis_tready,
  output logic [Pe*AccWidth-1:0]  m_axis_tdata,
  output logic                    m_axis_tlast,

  output logic                    error_o
);

  if (K < 1 || Rows < 1 || Pe < 1 || Simd < 1 || Group < 1 || (Group & (Group - 1)) != 0 ||
      Group % Part != 0 || Simd != Across * Part || mx_pkg::ceil_div(K, Group) % Across != 0) begin : g_check_shape
    $error("mx_product: K = %0d, Rows = %0d, Group = %0d, Pe = %0d, Simd = %0d; expected %s", K, Rows, Group, Pe, Simd,
           "K, Rows, Pe >= 1, Group a power of two, Simd its divisor or whole groups that divide a vector");
  end
  if (Tokens < 1 || BHeads < 1 || Heads < 1 || Heads % BHeads != 0) begin : g_check_heads
    $error("mx_product: Tokens = %0d, Heads = %0d, BHeads = %0d; expected at least 1 each, and Heads a multiple of %s",
           Tokens, Heads, BHeads, "BHeads");
  end

  localparam int Blocks     = mx_pkg::ceil_div(K, Group);
  localparam int BlockBeats = Group / Part;
  localparam int Places     = Blocks / Across;             // of blocks one after the other, in a vector
  localparam int Beats      = Places * BlockBeats;         // of a vector
  localparam int Folds      = mx_pkg::ceil_div(Rows, Pe);
  localparam int Vectors    = Tokens * Heads;
  localparam int Repeat     = Heads / BHeads;
  localparam int BeatBits   = mx_pkg::index_bits(Beats);

  localparam int ShiftBits  = mx_pkg::index_bits(ShiftMax + 1);
  localparam int PartBeat   = ShiftBits + Part * ABits;
  localparam int Stored     = Pair ? mx_pkg::linear_bits(BExpBits, BManBits) : BBits;
  localparam int Turns      = mx_pkg::rows_in_turn(Pe, BlockBeats);
  localparam int Groups     = mx_pkg::ceil_div(Pe, Turns);  // of rows
  localparam int CodeWords  = Folds * Beats;                // of a head
  localparam int ScaleWords = Folds * Places * Turns;
  localparam int CodeDepth  = 2 * BHeads * CodeWords;
  localparam int ScaleDepth = 2 * BHeads * ScaleWords;
  localparam int CodeBits   = mx_pkg::index_bits(CodeDepth);
  localparam int ScaleBits  = mx_pkg::index_bits(ScaleDepth);

  // Elements from block RAM pass a register before products in LUTs.
  localparam bit InDsp      = Pair || (AExpBits == 0 && BExpBits == 0 && UseDsp != 0);
  localparam bit Late       = !InDsp && mx_pkg::ram_large(CodeDepth, Simd * Stored);

  logic en, release_b, fresh, code_step, code_end, scale_step, scale_end;

  // Frames of b: taken while a bank is free, used once all of one has come.

  logic                                    b_put, b_end, b_written;
  logic [CodeBits-1:0]                     code_write_addr;
  logic [ScaleBits-1:0]                    scale_write_addr;
  logic [Pe-1:0]                           code_write;
  logic [Groups-1:0]                       scale_write;
  logic [Simd-1:0][Stored-1:0]             code_data;
  logic [Across-1:0][ShiftBits-1:0]        scale_data;
  logic                                    a_error, b_error;
  logic [1:0]                              taken_q, fresh_q;  // frames that fill a bank; that wait for their last beat

  assign b_put          = s1_axis_tvalid && s1_axis_tready;
  assign s1_axis_tready = !taken_q[1];
  assign fresh          = fresh_q != '0;
  assign release_b      = en && scale_step && scale_end;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      taken_q <= '0;
      fresh_q <= '0;
    end else begin
      taken_q <= taken_q + 2'(b_put && b_end) - 2'(release_b);
      fresh_q <= fresh_q + 2'(b_written) - 2'(code_step && code_end);
    end
  end

  mx_product_rows #(
    .Rows(Rows), .Heads(BHeads), .Beats(Beats), .BlockBeats(BlockBeats), .Pe(Pe), .Turns(Turns), .Across(Across),
    .Part(Part), .ExpBits(BExpBits), .ManBits(BManBits), .ShiftBits(ShiftBits), .Pair(Pair)
  ) u_rows (
    .aclk, .aresetn,
    .put_i(b_put), .data_i(s1_axis_tdata), .last_i(s1_axis_tlast), .end_o(b_end), .written_o(b_written),
    .code_write_o(code_write), .code_addr_o(code_write_addr), .codes_o(code_data),
    .scale_write_o(scale_write), .scale_addr_o(scale_write_addr), .scales_o(scale_data), .error_o(b_error)
  );

  // Vectors of a: check TLAST, keep each for all folds.

  logic                            a_valid, x_valid;
  logic [Across-1:0][PartBeat-1:0] x, a_in;
  logic [BeatBits-1:0]             a_beat;
  logic                            a_first, a_last;
  logic                            unused;

  mx_frame_walk #(.Pixels(Vectors), .Beats(Beats)) u_walk (
    .aclk, .aresetn, .step_i(s0_axis_tvalid && s0_axis_tready), .last_i(s0_axis_tlast),
    .beat_o(a_beat), .first_pixel_o(a_first), .last_pixel_o(a_last), .error_o(a_error)
  );

  for (genvar b = 0; b < Across; b++) begin : g_in
    assign a_in[b] = {ShiftBits'(s0_axis_tdata[b][Part*ABits+:8]), s0_axis_tdata[b][Part*ABits-1:0]};
  end

  mx_replay #(.Width(Across * PartBeat), .Beats(Beats), .Times(Folds)) u_replay (
    .aclk, .aresetn,
    .s_axis_tvalid(s0_axis_tvalid), .s_axis_tready(s0_axis_tready), .s_axis_tdata(a_in),
    .m_axis_tvalid(a_valid), .m_axis_tready(en && fresh), .m_axis_tdata(x)
  );

  assign x_valid   = a_valid && fresh;
  assign code_step = en && x_valid;
  assign error_o   = a_error || b_error;

  // Codes are read with the beats of a, scales behind the sums of blocks.

  logic [CodeBits-1:0]                          code_addr;
  logic [ScaleBits-1:0]                         scale_addr;
  logic [Pe-1:0][Simd-1:0][Stored-1:0]          codes_q, w;
  logic [Groups-1:0][Across-1:0][ShiftBits-1:0] scales_q;
  logic                                         bias_step;

  mx_bank_read #(.Words(CodeWords), .Repeat(Repeat), .Heads(BHeads), .Tokens(Tokens)) u_code_addr (
    .aclk, .aresetn, .step_i(code_step), .addr_o(code_addr), .frame_o(code_end)
  );

  mx_bank_read #(.Words(ScaleWords), .Repeat(Repeat), .Heads(BHeads), .Tokens(Tokens)) u_scale_addr (
    .aclk, .aresetn, .step_i(en && scale_step), .addr_o(scale_addr), .frame_o(scale_end)
  );

  for (genvar p = 0; p < Pe; p++) begin : g_codes
    mx_ram #(.Width(Simd * Stored), .Depth(CodeDepth)) u_ram (
      .aclk, .write_i(code_write[p]), .write_addr_i(code_write_addr), .data_i(code_data),
      .en_i(en), .addr_i(code_addr), .data_o(codes_q[p])
    );
  end

  for (genvar g = 0; g < Groups; g++) begin : g_scales
    mx_ram #(.Width(Across * ShiftBits), .Depth(ScaleDepth)) u_ram (
      .aclk, .write_i(scale_write[g]), .write_addr_i(scale_write_addr), .data_i(scale_data),
      .en_i(en), .addr_i(scale_addr), .data_o(scales_q[g])
    );
  end

  if (Pair) begin : g_pairs  // element by element of two rows
    for (genvar p = 0; p < Pe; p += 2) begin : g_pair
      logic [Simd-1:0][1:0][Stored-1:0] mixed;
      for (genvar i = 0; i < Simd; i++) begin : g_element
        assign mixed[i] = {codes_q[p+1][i], codes_q[p][i]};
      end
      assign {w[p+1], w[p]} = mixed;
    end
  end else begin : g_rows
    assign w = codes_q;
  end

  mx_products #(
    .Places(Places), .Folds(Folds), .Vectors(Vectors), .Group(Group), .Pe(Pe), .Simd(Simd), .AExpBits(AExpBits),
    .AManBits(AManBits), .WExpBits(BExpBits), .WManBits(BManBits), .AccWidth(AccWidth), .ScaleOffset(ScaleOffset),
    .ShiftMax(ShiftMax), .UseDsp(UseDsp), .Pair(Pair), .Late(Late)
  ) u_products (
    .aclk, .aresetn,
    .en_o(en), .x_valid_i(x_valid), .x_i(x), .w_i(w),
    .scale_step_o(scale_step), .w_scale_i(scales_q), .bias_step_o(bias_step), .bias_i('0),
    .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast
  );

  assign unused = ^{a_beat, a_first, a_last, bias_step};

endmodule
