// Matrix-vector product of MX blocks, Pe rows by Simd elements per cycle (operator MXMatMul).
//
// Equation:  y[o] = bias[o] + sum over blocks b of
//                   dot(x[b], w[o][b]) << (x_scale[b] + w_scale[o][b] - ScaleOffset),
//            with dot the exact integer product of linear element values. Exact (AccWidth must hold
//            the result), so neither order nor folding matters. Equals
//            mxexport.numbers.fixedpoint.mx_matmul bit for bit.
// Frames:    Vectors vectors, each of ceil(K/Group) * (Group/Simd) beats {scale, Simd elements} in,
//            each with the scale of its block; or of ceil(K/Group) / (Simd/Group) beats of as many
//            whole blocks. ceil(Rows/Pe) beats of Pe accumulators out, surplus rows undefined.
// Latency:   mx_pkg::dot_latency + mx_pkg::sum_latency(blocks of a beat) + rows_in_turn + 6 cycles (4 if
//            ceil(Rows/Pe) = 1) from the last beat of a vector to the first output beat, if that beat
//            was waited for. A vector takes ceil(Rows/Pe) times its beats in cycles, back to back:
//            the next one is received meanwhile.
// Rounding:  none.
// Handshake: AXI4-Stream. error_o is sticky: an s_axis_tlast came where no frame ends, or was
//            missing where one does (frames are counted, TLAST is only checked). A stalled output
//            stalls the whole unit; s_axis_tready depends on registers only, or on m_axis_tready
//            too when ceil(Rows/Pe) = 1.
// Turns:     frames take the words of Layers layers in turn (mx_layer_words).
// Memories:  $readmemh files laid out by MatMul.memories in mxexport/fpga/units/matmul.py, layer after layer.
module mx_matmul #(
  parameter int K           = 32,  // elements of a row
  parameter int Vectors     = 1,   // vectors of a frame (pixels, tokens)
  parameter int Rows        = 4,
  parameter int Group       = 32,  // elements that share a scale, power of two
  parameter int Pe          = 1,
  parameter int Simd        = 8,   // divides Group, or is whole groups: a divisor of a row's
  parameter int AExpBits    = 2,   // activation element; 0: integer
  parameter int AManBits    = 1,
  parameter int WExpBits    = 2,   // weight element
  parameter int WManBits    = 1,
  parameter int AccWidth    = 32,
  parameter int ScaleOffset = 254,
  parameter int ShiftMax    = 0,   // largest x_scale + w_scale - ScaleOffset of a non-zero block
  parameter bit HasBias     = 0,
  parameter int UseDsp      = -1,  // 0: LUTs, 1: DSP blocks, 2: in threes, -1: DSP blocks if both are integers
  parameter bit Pair        = 0,   // rows go in pairs, two products of linear values per DSP block (mx_dot_pair)
  parameter int Layers      = 1,   // of which frames take weights, scales and biases in turn
  parameter string WeightFile = "",
  parameter string ScaleFile  = "",
  parameter string BiasFile   = "",
  parameter string RomStyle   = "auto",  // of the weights
  localparam int ABits  = mx_pkg::element_bits(AExpBits, AManBits),
  localparam int WBits  = mx_pkg::element_bits(WExpBits, WManBits),
  localparam int Across = (Simd > Group) ? Simd / Group : 1,  // blocks of a beat
  localparam int Part   = Simd / Across                       // elements of each
) (
  input  logic                    aclk,
  input  logic                    aresetn,

  input  logic                    s_axis_tvalid,
  output logic                    s_axis_tready,
  input  logic [Across-1:0][8+Part*ABits-1:0] s_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  input  logic                    s_axis_tlast,

  output logic                    m_axis_tvalid,
  input  logic                    m_axis_tready,
  output logic [Pe*AccWidth-1:0]  m_axis_tdata,
  output logic                    m_axis_tlast,

  output logic                    error_o
);

  if (K < 1 || Vectors < 1 || Rows < 1 || Pe < 1 || Simd < 1 || Group < 1 || (Group & (Group - 1)) != 0 ||
      Group % Part != 0 || Simd != Across * Part || mx_pkg::ceil_div(K, Group) % Across != 0) begin : g_check_shape
    $error("mx_matmul: K = %0d, Rows = %0d, Group = %0d, Pe = %0d, Simd = %0d; expected %s", K, Rows, Group, Pe, Simd,
           "K, Vectors, Rows, Pe >= 1, Group a power of two, Simd its divisor or whole groups that divide a row");
  end

  localparam int Blocks     = mx_pkg::ceil_div(K, Group);
  localparam int BlockBeats = Group / Part;
  localparam int Places     = Blocks / Across;             // of blocks one after the other, in a vector
  localparam int Beats      = Places * BlockBeats;         // of a vector
  localparam int Folds      = mx_pkg::ceil_div(Rows, Pe);

  localparam int BeatBits   = mx_pkg::index_bits(Beats);
  localparam int VectorBits = mx_pkg::index_bits(Vectors);
  localparam int WWords     = Layers * Folds * Beats;
  localparam int WAddrBits  = mx_pkg::index_bits(WWords);

  localparam int ShiftBits  = mx_pkg::index_bits(ShiftMax + 1);
  localparam int PartBeat   = ShiftBits + Part * ABits;
  localparam int XBits      = Across * PartBeat;
  localparam bit Dsp        = (UseDsp < 0) ? AExpBits == 0 && WExpBits == 0 : UseDsp != 0;

  localparam int WStored    = Pair ? mx_pkg::linear_bits(WExpBits, WManBits) : WBits;
  localparam int Turns      = mx_pkg::rows_in_turn(Pe, BlockBeats);
  localparam int Groups     = mx_pkg::ceil_div(Pe, Turns);  // of rows; missing rows are zero
  localparam int SAddrBits  = mx_pkg::index_bits(Layers * Folds * Places * Turns);
  localparam int BAddrBits  = mx_pkg::index_bits(Layers * Folds * Turns);

  // Weights chosen from pieces of block RAM pass a register before products in LUTs.
  localparam bit Late       = !Pair && !(Dsp && AExpBits == 0 && WExpBits == 0)
      && mx_pkg::rom_piece(WWords) < WWords
      && (RomStyle == "block" || RomStyle == "auto" && mx_pkg::rom_large(WWords, Pe * Simd * WStored, 128));

  logic en;

  // Input: check TLAST, keep the vector for all folds.

  logic [BeatBits-1:0]   in_beat_q;
  logic [VectorBits-1:0] in_vector_q;
  logic                  in_end, in_last;

  assign in_end  = in_beat_q == BeatBits'(Beats - 1);
  assign in_last = in_end && in_vector_q == VectorBits'(Vectors - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      in_beat_q   <= '0;
      in_vector_q <= '0;
      error_o     <= 1'b0;
    end else if (s_axis_tvalid && s_axis_tready) begin
      in_beat_q <= in_end ? '0 : in_beat_q + 1'b1;
      if (in_end) in_vector_q <= in_last ? '0 : in_vector_q + 1'b1;
      if (s_axis_tlast != in_last) error_o <= 1'b1;
    end
  end

  logic                            x_valid;
  logic [Across-1:0][PartBeat-1:0] x, x_in;

  for (genvar b = 0; b < Across; b++) begin : g_in
    assign x_in[b] = {ShiftBits'(s_axis_tdata[b][Part*ABits+:8]), s_axis_tdata[b][Part*ABits-1:0]};
  end

  mx_replay #(.Width(XBits), .Beats(Beats), .Times(Folds)) u_replay (
    .aclk, .aresetn,
    .s_axis_tvalid, .s_axis_tready,
    .s_axis_tdata(x_in),
    .m_axis_tvalid(x_valid), .m_axis_tready(en), .m_axis_tdata(x)
  );

  // Weights, scales and biases are read in the order in which they are wanted.

  logic [WAddrBits-1:0]                    w_addr;
  logic [SAddrBits-1:0]                    s_addr;
  logic [Pe-1:0][Simd-1:0][WStored-1:0]    w_q;
  logic [Groups-1:0][Across-1:0][7:0]      w_scale_q;
  logic [Groups-1:0][Across-1:0][ShiftBits-1:0] w_shift;
  logic [Groups-1:0][AccWidth-1:0]         bias_q;
  logic                                    scale_step, bias_step;

  mx_layer_words #(.Words(Folds * Beats), .Passes(Vectors), .Layers(Layers)) u_weight_words (
    .aclk, .aresetn, .step_i(en && x_valid), .addr_o(w_addr)
  );
  mx_layer_words #(.Words(Folds * Places * Turns), .Passes(Vectors), .Layers(Layers)) u_scale_words (
    .aclk, .aresetn, .step_i(en && scale_step), .addr_o(s_addr)
  );

  mx_rom #(
    .Width(Pe * Simd * WStored), .Depth(WWords), .BlockDepth(128), .File(WeightFile), .Style(RomStyle)
  ) u_weights (
    .aclk, .en_i(en), .addr_i(w_addr), .data_o(w_q)
  );

  mx_rom #(
    .Width(8 * Groups * Across), .Depth(Layers * Folds * Places * Turns), .BlockDepth(256), .File(ScaleFile)
  ) u_scales (
    .aclk, .en_i(en), .addr_i(s_addr), .data_o(w_scale_q)
  );

  for (genvar g = 0; g < Groups; g++) begin : g_scale
    for (genvar b = 0; b < Across; b++) begin : g_block
      assign w_shift[g][b] = w_scale_q[g][b][ShiftBits-1:0];
    end
  end

  if (HasBias) begin : g_bias
    logic [BAddrBits-1:0] b_addr;

    mx_layer_words #(.Words(Folds * Turns), .Passes(Vectors), .Layers(Layers)) u_bias_words (
      .aclk, .aresetn, .step_i(en && bias_step), .addr_o(b_addr)
    );

    mx_rom #(
      .Width(AccWidth * Groups), .Depth(Layers * Folds * Turns), .BlockDepth(256), .File(BiasFile)
    ) u_bias (
      .aclk, .en_i(en), .addr_i(b_addr), .data_o(bias_q)
    );
  end else begin : g_no_bias
    assign bias_q = '0;
    logic unused;
    assign unused = bias_step;
  end

  mx_products #(
    .Places(Places), .Folds(Folds), .Vectors(Vectors), .Group(Group), .Pe(Pe), .Simd(Simd), .AExpBits(AExpBits),
    .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits), .AccWidth(AccWidth), .ScaleOffset(ScaleOffset),
    .ShiftMax(ShiftMax), .UseDsp(UseDsp), .Pair(Pair), .Late(Late)
  ) u_products (
    .aclk, .aresetn,
    .en_o(en), .x_valid_i(x_valid), .x_i(x), .w_i(w_q),
    .scale_step_o(scale_step), .w_scale_i(w_shift), .bias_step_o(bias_step), .bias_i(bias_q),
    .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast
  );

endmodule
