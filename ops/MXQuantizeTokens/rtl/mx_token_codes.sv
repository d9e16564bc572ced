// Codes of tokens turned into blocks along the tokens: two banks, one read while the other is written.
//
// Equation:  the codes of token t come word by word, InLanes columns each, K columns of each of Heads heads; they go
//            out as one vector of Tokens codes for every column of every head, columns first, behind it its scales.
// Frames:    Tokens * Heads * ceil(K/InLanes) words in; K * Heads vectors of ceil(Tokens/Group) * (Group/OutLanes)
//            beats out, the last block padded with zero codes. Scales come block by block, a word for a word, before
//            the block's last codes.
// Latency:   4 cycles from the last word to the first beat out. Steady: the last token of a frame comes without a
//            pause, so the first vectors are read while its last words are written.
// Handshake: none for what comes: the caller counts two frames, one of which is free again with freed_o.
module mx_token_codes #(
  parameter int Bits     = 8,
  parameter int Tokens   = 4,
  parameter int Heads    = 1,
  parameter int K        = 4,
  parameter int Group    = 4,
  parameter int InLanes  = 1,
  parameter int OutLanes = 1,
  parameter bit Steady   = 0
) (
  input  logic                          aclk,
  input  logic                          aresetn,

  input  logic                          code_valid_i,
  input  logic [InLanes-1:0][Bits-1:0]  code_i,
  input  logic                          scale_valid_i,
  input  logic [InLanes-1:0][7:0]       scale_i,
  output logic                          freed_o,

  output logic                          m_axis_tvalid,
  input  logic                          m_axis_tready,
  output logic [8+OutLanes*Bits-1:0]    m_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  output logic                          m_axis_tlast
);

  if (Bits < 1 || Tokens < 1 || Heads < 1 || K < 1 || InLanes < 1 || OutLanes < 1 ||
      Group % OutLanes != 0) begin : g_check
    $error("mx_token_codes: Tokens = %0d, Heads = %0d, K = %0d, Group = %0d, OutLanes = %0d; expected %s", Tokens,
           Heads, K, Group, OutLanes, "at least 1 each, OutLanes a divisor of Group");
  end

  localparam int HeadWords = mx_pkg::ceil_div(K, InLanes);
  localparam int Words     = Heads * HeadWords;                   // of a token
  localparam int Rows      = mx_pkg::ceil_div(Tokens, OutLanes);  // tokens that are read together
  localparam int Blocks    = mx_pkg::ceil_div(Tokens, Group);
  localparam int Parts     = Group / OutLanes;                    // beats of a block
  localparam int Frame     = Rows * Words;                        // words of a frame in the memory of each lane
  localparam int Scales    = Blocks * Words;
  localparam int AddrBits  = mx_pkg::index_bits(2 * Frame);
  localparam int ScaleBits = mx_pkg::index_bits(2 * Scales);
  localparam int WordBits  = mx_pkg::index_bits(Words);
  localparam int LaneBits  = mx_pkg::index_bits(InLanes);
  localparam int HeadBits  = mx_pkg::index_bits(Heads);
  localparam int KBits     = mx_pkg::index_bits(K);
  localparam int BlockBits = mx_pkg::index_bits(Blocks);
  localparam int PartBits  = mx_pkg::index_bits(Parts);
  localparam RamStyle      = (2 * Frame > 64 && 2 * Frame * InLanes * Bits > 4096) ? "block" : "distributed";
  localparam ScaleStyle    = (2 * Scales > 64 && 2 * Scales * InLanes * 8 > 4096) ? "block" : "distributed";
  // The word of the last token with which reading may begin: column 0 of the last head.
  localparam int Enough    = Steady ? Words - HeadWords : Words - 1;

  typedef logic [AddrBits-1:0]  addr_t;
  typedef logic [ScaleBits-1:0] scale_addr_t;

  // Write: a token into its lane, tokens of other lanes at the same addresses.

  localparam int OutBits = mx_pkg::index_bits(OutLanes);

  logic [WordBits-1:0] word;
  logic [OutBits-1:0]  lane;
  logic                word_end, first_lane, last_lane, last_row, enough;
  addr_t               write_q, write_row_q, next;  // write_row_q: of the first word of these tokens
  scale_addr_t         scale_write_q;

  mx_token_walk #(.Tokens(Tokens), .Words(Words), .Group(OutLanes)) u_walk (
    .aclk, .aresetn, .step_i(code_valid_i), .word_o(word), .token_o(lane), .word_end_o(word_end),
    .first_token_o(first_lane), .last_token_o(last_lane), .last_block_o(last_row)
  );

  assign next   = (write_q == addr_t'(2 * Frame - 1)) ? '0 : write_q + 1'b1;
  assign enough = code_valid_i && last_row && last_lane && word == WordBits'(Enough);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      write_q       <= '0;
      write_row_q   <= '0;
      scale_write_q <= '0;
    end else begin
      if (code_valid_i) begin
        write_q <= (word_end && !last_lane) ? write_row_q : next;
        if (word_end && last_lane) write_row_q <= next;
      end
      if (scale_valid_i) begin
        scale_write_q <= (scale_write_q == scale_addr_t'(2 * Scales - 1)) ? '0 : scale_write_q + 1'b1;
      end
    end
  end

  // Read: block by block of a column, column 0 of every head, then column 1, …

  logic                 en, get, part_end, block_end, vector_end, head_end, lane_end, get_end, half_q;
  logic [1:0]           whole_q;  // frames that may be read
  logic [3:1]           valid_q, last_q;
  logic [PartBits-1:0]  part_q;
  logic [BlockBits-1:0] block_q;
  logic [HeadBits-1:0]  head_q;
  logic [LaneBits-1:0]  lane_q;
  logic [KBits-1:0]     column_q;
  logic [WordBits-1:0]  first_word_q, word_q;  // of the column in head 0, and in this head
  addr_t                row_q;
  scale_addr_t          scale_row_q;

  assign en            = !valid_q[3] || m_axis_tready;
  assign m_axis_tvalid = valid_q[3];
  assign m_axis_tlast  = last_q[3];
  assign get           = en && whole_q != '0;
  assign part_end      = part_q == PartBits'(Parts - 1);
  assign block_end     = block_q == BlockBits'(Blocks - 1);
  assign vector_end    = part_end && block_end;
  assign head_end      = head_q == HeadBits'(Heads - 1);
  assign lane_end      = lane_q == LaneBits'(InLanes - 1);
  assign get_end       = vector_end && head_end && column_q == KBits'(K - 1);
  // An address that waits is read later: until then nothing may be written over it.
  assign freed_o       = en && valid_q[1] && last_q[1];

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      whole_q      <= '0;
      half_q       <= 1'b0;
      part_q       <= '0;
      block_q      <= '0;
      head_q       <= '0;
      lane_q       <= '0;
      column_q     <= '0;
      first_word_q <= '0;
      word_q       <= '0;
      row_q        <= '0;
      scale_row_q  <= '0;
    end else begin
      whole_q <= whole_q + 2'(enough) - 2'(get && get_end);
      if (get) begin
        part_q <= part_end ? '0 : part_q + 1'b1;
        if (part_end) block_q <= block_end ? '0 : block_q + 1'b1;
        if (get_end) begin
          half_q      <= !half_q;
          row_q       <= half_q ? '0 : addr_t'(Frame);
          scale_row_q <= half_q ? '0 : scale_addr_t'(Scales);
        end else if (vector_end) begin
          row_q       <= half_q ? addr_t'(Frame) : '0;
          scale_row_q <= half_q ? scale_addr_t'(Scales) : '0;
        end else begin
          row_q <= row_q + addr_t'(Words);  // padding behind the last row is read from anywhere
          if (part_end) scale_row_q <= scale_row_q + scale_addr_t'(Words);
        end
        if (vector_end) begin
          head_q <= head_end ? '0 : head_q + 1'b1;
          if (!head_end) begin
            word_q <= word_q + WordBits'(HeadWords);
          end else if (get_end) begin
            {lane_q, column_q, first_word_q, word_q} <= '0;
          end else begin
            lane_q       <= lane_end ? '0 : lane_q + 1'b1;
            column_q     <= column_q + 1'b1;
            first_word_q <= first_word_q + WordBits'(lane_end);
            word_q       <= first_word_q + WordBits'(lane_end);
          end
        end
      end
    end
  end

  // Stages: 1 addresses, 2 memory output, 3 the column of every word.

  localparam int Tail      = Tokens - (Blocks - 1) * Group;       // tokens of the last block
  localparam int TailParts = mx_pkg::ceil_div(Tail, OutLanes);
  localparam int TailLanes = Tail - (TailParts - 1) * OutLanes;

  (* ram_style = ScaleStyle *) logic [InLanes*8-1:0] scale_mem [2*Scales];

  addr_t                     addr1_q;
  scale_addr_t               scale_addr1_q;
  logic [2:1][LaneBits-1:0]  lanes_q;
  logic [2:1]                none_q, short_q;  // padding of all lanes, of those behind the last token
  logic [InLanes-1:0][7:0]   scales2_q;
  logic [7:0]                scale3_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[2:1], get};
    if (scale_valid_i) scale_mem[scale_write_q] <= scale_i;
    if (en) begin
      last_q        <= {last_q[2:1], get_end};
      addr1_q       <= row_q + addr_t'(word_q);
      scale_addr1_q <= scale_row_q + scale_addr_t'(word_q);
      lanes_q       <= {lanes_q[1], lane_q};
      none_q        <= {none_q[1], block_end && int'(part_q) >= TailParts};
      short_q       <= {short_q[1], block_end && int'(part_q) >= TailParts - 1};
      scales2_q     <= scale_mem[scale_addr1_q];
      scale3_q      <= scales2_q[lanes_q[2]];
    end
  end

  for (genvar l = 0; l < OutLanes; l++) begin : g_lane
    (* ram_style = RamStyle *) logic [InLanes*Bits-1:0] mem [2*Frame];
    logic [InLanes-1:0][Bits-1:0] codes2_q;
    logic [Bits-1:0]              code3_q;

    always_ff @(posedge aclk) begin
      if (code_valid_i && lane == OutBits'(l)) mem[write_q] <= code_i;
      if (en) begin
        codes2_q <= mem[addr1_q];
        code3_q  <= (none_q[2] || (short_q[2] && l >= TailLanes)) ? '0 : codes2_q[lanes_q[2]];
      end
    end
    assign m_axis_tdata[l*Bits+:Bits] = code3_q;
  end
  assign m_axis_tdata[OutLanes*Bits+:8] = scale3_q;

  logic unused;
  assign unused = first_lane;

endmodule
