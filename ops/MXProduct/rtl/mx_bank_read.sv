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

  localparam int WordBits   = mx_pkg::index_bits(Words);
  localparam int RepeatBits = mx_pkg::index_bits(Repeat);
  localparam int HeadBits   = mx_pkg::index_bits(Heads);
  localparam int TokenBits  = mx_pkg::index_bits(Tokens);

  logic [WordBits-1:0]   word_q;
  logic [RepeatBits-1:0] repeat_q;
  logic [HeadBits-1:0]   head_q;
  logic [TokenBits-1:0]  token_q;
  logic [AddrBits-1:0]   start_q, next;  // start_q: of the head
  logic                  bank_q, vector_end, head_end, token_end;
  logic                  word_last_q, repeat_last_q, head_last_q, token_last_q;  // the counter is at its end

  assign vector_end = word_last_q;
  assign head_end   = vector_end && repeat_last_q;
  assign token_end  = head_end && head_last_q;
  assign frame_o    = token_end && token_last_q;
  assign next       = addr_o + 1'b1;

  // Whether a counter that moves on comes to its end: it is one before, or has one place.
  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      word_last_q   <= Words == 1;
      repeat_last_q <= Repeat == 1;
      head_last_q   <= Heads == 1;
      token_last_q  <= Tokens == 1;
    end else if (step_i) begin
      word_last_q <= Words == 1 || word_q == WordBits'(Words - 2);
      if (vector_end) repeat_last_q <= Repeat == 1 || repeat_q == RepeatBits'(Repeat - 2);
      if (head_end) head_last_q <= Heads == 1 || head_q == HeadBits'(Heads - 2);
      if (token_end) token_last_q <= Tokens == 1 || token_q == TokenBits'(Tokens - 2);
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      word_q   <= '0;
      repeat_q <= '0;
      head_q   <= '0;
      token_q  <= '0;
      bank_q   <= 1'b0;
      addr_o   <= '0;
      start_q  <= '0;
    end else if (step_i) begin
      word_q <= vector_end ? '0 : word_q + 1'b1;
      if (vector_end) repeat_q <= head_end ? '0 : repeat_q + 1'b1;
      if (head_end) head_q <= token_end ? '0 : head_q + 1'b1;
      if (token_end) token_q <= frame_o ? '0 : token_q + 1'b1;
      bank_q <= bank_q ^ frame_o;
      if (token_end) begin
        addr_o  <= (bank_q ^ frame_o) ? AddrBits'(Depth / 2) : '0;
        start_q <= (bank_q ^ frame_o) ? AddrBits'(Depth / 2) : '0;
      end else if (head_end) begin
        addr_o  <= next;
        start_q <= next;
      end else begin
        addr_o  <= vector_end ? start_q : next;
      end
    end
  end

endmodule
