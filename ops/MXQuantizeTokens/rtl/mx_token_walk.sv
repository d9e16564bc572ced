// Places in frames of tokens, cut into blocks: which word of a token comes, and which token of its block.
//
// Equation:  words are counted, Words to a token, Group tokens to a block and Tokens to a frame; the last block of a
//            frame may have fewer.
// Handshake: step_i moves on by one word.
module mx_token_walk #(
  parameter int Tokens = 4,
  parameter int Words  = 1,
  parameter int Group  = 4,
  localparam int WordBits  = mx_pkg::index_bits(Words),
  localparam int TokenBits = mx_pkg::index_bits(Group)
) (
  input  logic                 aclk,
  input  logic                 aresetn,

  input  logic                 step_i,
  output logic [WordBits-1:0]  word_o,
  output logic [TokenBits-1:0] token_o,       // of its block
  output logic                 word_end_o,    // the last word of a token
  output logic                 first_token_o, // of a block
  output logic                 last_token_o,
  output logic                 last_block_o   // of a frame
);

  if (Tokens < 1 || Words < 1 || Group < 1) begin : g_check
    $error("mx_token_walk: Tokens = %0d, Words = %0d, Group = %0d; expected at least 1 each", Tokens, Words, Group);
  end

  localparam int Blocks    = mx_pkg::ceil_div(Tokens, Group);
  localparam int Tail      = Tokens - (Blocks - 1) * Group;  // tokens of the last block
  localparam int BlockBits = mx_pkg::index_bits(Blocks);

  logic [BlockBits-1:0] block_q;

  assign word_end_o    = word_o == WordBits'(Words - 1);
  assign first_token_o = token_o == '0;
  assign last_block_o  = block_q == BlockBits'(Blocks - 1);
  assign last_token_o  = token_o == TokenBits'(last_block_o ? Tail - 1 : Group - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      word_o  <= '0;
      token_o <= '0;
      block_q <= '0;
    end else if (step_i) begin
      word_o <= word_end_o ? '0 : word_o + 1'b1;
      if (word_end_o) token_o <= last_token_o ? '0 : token_o + 1'b1;
      if (word_end_o && last_token_o) block_q <= last_block_o ? '0 : block_q + 1'b1;
    end
  end

endmodule
