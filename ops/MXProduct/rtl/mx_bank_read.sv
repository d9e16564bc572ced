// Read addresses of two banks that hold a matrix for every head, one frame each in turn.
//
// Equation:  for every frame in the other bank: Tokens times, head after head, its Words words Repeat times.
// Handshake: step_i moves on by one word; frame_o: the word at addr_o is the last one of the frame.
module mx_bank_read #(
  parameter int Words  = 1,  // of a head
  parameter int Repeat = 1,  // heads of the reader that share one
  parameter int Heads  = 1,
  parameter int Tokens = 1,
  localparam int Depth    = 2 * Heads * Words,
  localparam int AddrBits = mx_pkg::index_bits(Depth)
) (
  input  logic                aclk,
  input  logic                aresetn,

  input  logic                step_i,
  output logic [AddrBits-1:0] addr_o,
  output logic                frame_o
);

  if (Words < 1 || Repeat < 1 || Heads < 1 || Tokens < 1) begin : g_check
    $error("mx_bank_read: Words = %0d, Repeat = %0d, Heads = %0d, Tokens = %0d; expected at least 1 each",
           Words, Repeat, Heads, Tokens);
  end

  logic [AddrBits-1:0] start_q, next;  // start_q: of the head
  logic                bank_q, word_last, repeat_last, head_last, token_last, head_end, token_end;

  mx_count #(.Count(Words)) u_word (.aclk, .aresetn, .step_i, .last_o(word_last));
  mx_count #(.Count(Repeat)) u_repeat (.aclk, .aresetn, .step_i(step_i && word_last), .last_o(repeat_last));
  mx_count #(.Count(Heads)) u_head (.aclk, .aresetn, .step_i(step_i && head_end), .last_o(head_last));
  mx_count #(.Count(Tokens)) u_token (.aclk, .aresetn, .step_i(step_i && token_end), .last_o(token_last));

  assign head_end  = word_last && repeat_last;
  assign token_end = head_end && head_last;
  assign frame_o   = token_end && token_last;
  assign next      = addr_o + 1'b1;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      bank_q  <= 1'b0;
      addr_o  <= '0;
      start_q <= '0;
    end else if (step_i) begin
      bank_q <= bank_q ^ frame_o;
      if (token_end) begin
        addr_o  <= (bank_q ^ frame_o) ? AddrBits'(Depth / 2) : '0;
        start_q <= (bank_q ^ frame_o) ? AddrBits'(Depth / 2) : '0;
      end else if (head_end) begin
        addr_o  <= next;
        start_q <= next;
      end else begin
        addr_o  <= word_last ? start_q : next;
      end
    end
  end

endmodule
