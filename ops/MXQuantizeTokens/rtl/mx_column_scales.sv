// Shared scale of every column of a block of tokens, found while the tokens pass word by word.
//
// Equation:  that of mx_block_scale for each of the Lanes columns of each of the Words words.
// Latency:   4 cycles from a word of the last token to valid_o; 6 with a RoundBias.
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

  // Block RAM is read a cycle before its word is there; what was written for the word before is not needed yet.
  localparam bit Block    = Words > 64 && Words * Lanes * Width > 4096;
  localparam RamStyle     = Block ? "block" : "distributed";

  (* ram_style = RamStyle *) logic [Lanes*Width-1:0] mem [Words];

  logic                        valid_q, first_q, last_q;
  logic [WordBits-1:0]         word_q;
  logic [Lanes-1:0][Width-1:0] kept, largest;

  always_ff @(posedge aclk) begin
    valid_q <= aresetn && valid_i;
    word_q  <= word_i;
    first_q <= first_i;
    last_q  <= last_i;
    if (valid_q) mem[word_q] <= largest;
  end

  if (Block) begin : g_block
    logic [Lanes-1:0][Width-1:0] kept_q;
    always_ff @(posedge aclk) kept_q <= mem[word_i];
    assign kept = kept_q;
  end else begin : g_distributed
    assign kept = mem[word_q];
  end

  logic [Lanes-1:0] valid, clamped;

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic [Width-1:0] so_far;

    assign so_far = first_q ? '0 : kept[i];
    if (RoundBias == 0) begin : g_floor
      assign largest[i] = so_far | magnitude_i[i];
    end else begin : g_compare
      assign largest[i] = (magnitude_i[i] > so_far) ? magnitude_i[i] : so_far;
    end

    mx_block_scale #(
      .Width(Width), .Lanes(1), .LsbExp(LsbExp), .Emax(Emax), .RoundBias(RoundBias), .CodeMin(CodeMin),
      .CodeMax(CodeMax), .ShiftBits(ShiftBits), .ScaleBase(ScaleBase)
    ) u_scale (
      .aclk, .aresetn,
      .valid_i(valid_q && last_q), .last_i(1'b1), .magnitude_i(largest[i]),
      .valid_o(valid[i]), .scale_o(scale_o[i]), .shift_o(shift_o[i]), .clamped_o(clamped[i])
    );
  end

  assign valid_o = valid[0];

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
    assign unused = ^valid[Lanes-1:1];
  end

endmodule
