// Shared scale of every column of a block of tokens, found while the tokens pass word by word.
//
// Equation:  that of mx_block_scale for each of the Lanes columns of each of the Words words.
// Latency:   4 cycles from a word of the last token to valid_o; 7 with a RoundBias.
// Style:     the largest magnitude of a column so far (with RoundBias = 0 an or of all) lies in a memory of Words
//            words, read and written again with every word that comes.
// Handshake: none (valid only): the caller keeps room for the results. clamped_o counts columns of blocks whose own
//            scale code lay outside [CodeMin, CodeMax], up to 65,535.
module mx_column_scales #(
  parameter int Width     = 32,   // of magnitudes
  parameter int Words     = 1,
  parameter int Lanes     = 1,
  parameter int LsbExp    = 0,
  parameter int Emax      = 2,
  parameter int RoundBias = 0,
  parameter int CodeMin   = 0,
  parameter int CodeMax   = 254,
  parameter int ShiftBits = 6,
  parameter int ScaleBase = 0,
  localparam int WordBits = mx_pkg::index_bits(Words)
) (
  input  logic                            aclk,
  input  logic                            aresetn,

  input  logic                            valid_i,
  input  logic [WordBits-1:0]             word_i,
  input  logic                            first_i,      // of the first token of a block
  input  logic                            last_i,       // of the last
  input  logic [Lanes-1:0][Width-1:0]     magnitude_i,  // a cycle after valid_i

  output logic                            valid_o,
  output logic [Lanes-1:0][7:0]           scale_o,
  output logic [Lanes-1:0][ShiftBits-1:0] shift_o,
  output logic [31:0]                     clamped_o
);

  if (Width < 1 || Words < 1 || Lanes < 1) begin : g_check
    $error("mx_column_scales: Width = %0d, Words = %0d, Lanes = %0d; expected at least 1 each", Width, Words, Lanes);
  end

  // Block RAM is read a cycle before its word is there, and what is compared comes through a register: a word that was
  // written for one of the last two is not needed yet. One word alone is a register.
  localparam bit Single  = Words == 1;
  localparam bit Block   = Words > 64 && Words * Lanes * Width > 4096;
  localparam bit Late    = RoundBias != 0;
  localparam RamStyle    = Block ? "block" : "distributed";

  logic                        valid_q, first_q, last_q, valid, first, last;
  logic [WordBits-1:0]         word_q;
  logic [Lanes-1:0][Width-1:0] magnitude, kept, largest;

  always_ff @(posedge aclk) begin
    valid_q <= aresetn && valid_i;
    word_q  <= word_i;
    first_q <= first_i;
    last_q  <= last_i;
  end

  if (Late) begin : g_late
    logic                        valid2_q, first2_q, last2_q;
    logic [Lanes-1:0][Width-1:0] magnitude2_q;
    always_ff @(posedge aclk) begin
      valid2_q     <= aresetn && valid_q;
      first2_q     <= first_q;
      last2_q      <= last_q;
      magnitude2_q <= magnitude_i;
    end
    assign {valid, first, last} = {valid2_q, first2_q, last2_q};
    assign magnitude            = magnitude2_q;
  end else begin : g_soon
    assign {valid, first, last} = {valid_q, first_q, last_q};
    assign magnitude            = magnitude_i;
  end

  if (Single) begin : g_single
    logic [Lanes-1:0][Width-1:0] largest_q;
    logic                        unused;
    always_ff @(posedge aclk) if (valid) largest_q <= largest;
    assign kept   = largest_q;
    assign unused = ^word_q;
  end else begin : g_memory
    (* ram_style = RamStyle *) logic [Lanes*Width-1:0] mem [Words];
    logic [Lanes-1:0][Width-1:0] read;
    logic [WordBits-1:0]         word;

    if (Block) begin : g_block
      logic [Lanes-1:0][Width-1:0] read_q;
      always_ff @(posedge aclk) read_q <= mem[word_i];
      assign read = read_q;
    end else begin : g_distributed
      assign read = mem[word_q];
    end

    if (Late) begin : g_register
      logic [Lanes-1:0][Width-1:0] kept_q;
      logic [WordBits-1:0]         word2_q;
      always_ff @(posedge aclk) begin
        kept_q  <= read;
        word2_q <= word_q;
      end
      assign {kept, word} = {kept_q, word2_q};
    end else begin : g_wires
      assign {kept, word} = {read, word_q};
    end

    always_ff @(posedge aclk) if (valid) mem[word] <= largest;
  end

  logic [Lanes-1:0] found, clamped;

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic [Width-1:0] so_far;

    assign so_far = first ? '0 : kept[i];
    if (RoundBias == 0) begin : g_floor
      assign largest[i] = so_far | magnitude[i];
    end else begin : g_compare
      assign largest[i] = (magnitude[i] > so_far) ? magnitude[i] : so_far;
    end

    mx_block_scale #(
      .Width(Width), .Lanes(1), .LsbExp(LsbExp), .Emax(Emax), .RoundBias(RoundBias), .CodeMin(CodeMin),
      .CodeMax(CodeMax), .ShiftBits(ShiftBits), .ScaleBase(ScaleBase)
    ) u_scale (
      .aclk, .aresetn,
      .valid_i(valid && last), .last_i(1'b1), .magnitude_i(largest[i]),
      .valid_o(found[i]), .scale_o(scale_o[i]), .shift_o(shift_o[i]), .zero_o(), .clamped_o(clamped[i])
    );
  end

  assign valid_o = found[0];

  // Count.

  localparam int SumBits = $clog2(Lanes + 1);

  logic [SumBits-1:0] sum, sum_q;
  logic [16:0]        counted;
  logic [15:0]        clamped_q;

  always_comb begin
    sum = '0;
    for (int i = 0; i < Lanes; i++) sum += SumBits'(clamped[i]);
  end
  assign counted   = 17'(clamped_q) + 17'(sum_q);
  assign clamped_o = 32'(clamped_q);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      sum_q     <= '0;
      clamped_q <= '0;
    end else begin
      sum_q     <= valid_o ? sum : '0;
      clamped_q <= counted[16] ? '1 : counted[15:0];
    end
  end

  if (Lanes > 1) begin : g_unused
    logic unused;
    assign unused = ^found[Lanes-1:1];
  end

endmodule
