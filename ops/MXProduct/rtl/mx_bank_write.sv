// Write addresses of two banks that hold the rows of a matrix, one frame each in turn: a row of every head, then
// the next one. Rows that different processing elements hold lie at the same address.
//
// Equation:  addr_o = bank + ((head * Folds + fold) * Words + word) * Step of the word that comes.
// Handshake: step_i moves on by one word; with it head_i says that it is the last one of a row, row_i that the row
//            is the last head's, fold_i that it is the last row of a fold, frame_i that it ends the frame. Each of
//            them counts with the one before it.
module mx_bank_write #(
  parameter int Words = 1,  // of a row
  parameter int Step  = 1,
  parameter int Heads = 1,
  parameter int Folds = 1,
  localparam int Depth    = 2 * Heads * Folds * Words * Step,
  localparam int AddrBits = mx_pkg::index_bits(Depth)
) (
  input  logic                aclk,
  input  logic                aresetn,

  input  logic                step_i,
  input  logic                head_i,
  input  logic                row_i,
  input  logic                fold_i,
  input  logic                frame_i,
  output logic [AddrBits-1:0] addr_o
);

  if (Words < 1 || Step < 1 || Heads < 1 || Folds < 1) begin : g_check
    $error("mx_bank_write: Words = %0d, Step = %0d, Heads = %0d, Folds = %0d; expected at least 1 each",
           Words, Step, Heads, Folds);
  end

  localparam int Row  = Words * Step;
  localparam int Jump = (Folds - 1) * Row + Step;  // from the last word of a row to the first one of the next head

  logic [AddrBits-1:0] start_q;  // of the fold
  logic                bank_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      addr_o  <= '0;
      start_q <= '0;
      bank_q  <= 1'b0;
    end else if (step_i) begin
      if (!head_i) addr_o <= addr_o + AddrBits'(Step);
      else if (!row_i) addr_o <= addr_o + AddrBits'(Jump);
      else if (frame_i) addr_o <= bank_q ? '0 : AddrBits'(Depth / 2);
      else if (fold_i) addr_o <= start_q + AddrBits'(Row);
      else addr_o <= start_q;
      if (head_i && row_i && frame_i) begin
        start_q <= bank_q ? '0 : AddrBits'(Depth / 2);
        bank_q  <= !bank_q;
      end else if (head_i && row_i && fold_i) begin
        start_q <= start_q + AddrBits'(Row);
      end
    end
  end

endmodule
