// Block quantizer along tokens: tokens of wide signed integers -> MX blocks of columns (operator MXQuantizeTokens).
//
// Equation:  that of mx_quantize for every column, whose blocks are Group tokens.
//            Equals mxexport.numbers.fixedpoint.mx_quantize of the transposed frame bit for bit.
// Frames:    Tokens tokens of Heads heads of K channels come, ceil(K/InLanes) beats each; K * Heads vectors of Tokens
//            elements go out (channel 0 of every head, then channel 1, ...), ceil(Tokens/Group) * (Group/OutLanes)
//            beats each: surplus lanes of a head's last input beat are ignored, and the last short block of a vector
//            is padded with zero codes.
// Buffers:   the values of a block but its last token, whose place the next block takes; the largest magnitude of
//            every column; codes and scales of two frames, one written and one read.
// Latency:   a token less than a block is waited for at least. One beat per cycle sustained on the side that has more.
// Rounding:  nearest, ties to even.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. error_o is sticky: an s_axis_tlast came where no
//            frame ends, or was missing where one does (frames are counted, TLAST is only checked). clamped_o counts
//            blocks whose own scale code lay outside [CodeMin, CodeMax], up to 65,535.
module mx_quantize_tokens #(
  parameter int Width     = 32,
  parameter int LsbExp    = 0,
  parameter int Tokens    = 4,    // of a frame
  parameter int Heads     = 1,
  parameter int K         = 4,    // channels of a head
  parameter int Group     = 32,   // tokens that share a scale, power of two
  parameter int InLanes   = 1,    // channels per beat
  parameter int OutLanes  = 1,    // tokens per beat, divides Group
  parameter int ExpBits   = 2,    // 0: integer element
  parameter int ManBits   = 1,    // fraction bits of an integer element
  parameter int Bias      = 1,
  parameter int MaxCode   = 7,    // magnitude code of the largest finite element
  parameter int Emax      = 2,    // exponent of the largest binade
  parameter int RoundBias = 0,    // rounding rule of the scale (R in mxexport.numbers.formats.round_bias)
  parameter int CodeMin   = 0,
  parameter int CodeMax   = 254,
  parameter bit Signed    = 1,    // 0: no input is negative
  localparam int Bits = mx_pkg::element_bits(ExpBits, ManBits)
) (
  input  logic                        aclk,
  input  logic                        aresetn,

  input  logic                        s_axis_tvalid,
  output logic                        s_axis_tready,
  input  logic [InLanes*Width-1:0]    s_axis_tdata,
  input  logic                        s_axis_tlast,

  output logic                        m_axis_tvalid,
  input  logic                        m_axis_tready,
  output logic [8+OutLanes*Bits-1:0]  m_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  output logic                        m_axis_tlast,

  output logic [31:0]                 clamped_o,
  output logic                        error_o
);

  localparam int Emin    = (ExpBits == 0) ? 0 : 1 - Bias;
  localparam int Binades = (ExpBits == 0) ? 0 : Emax - Emin;

  if (Width < 2 || Width > 64 || Tokens < 1 || Heads < 1 || K < 1 || InLanes < 1 || OutLanes < 1 || Group < 1 ||
      (Group & (Group - 1)) != 0 || Group % OutLanes != 0) begin : g_check_shape
    $error("mx_quantize_tokens: Width = %0d, %0d tokens of %0d heads of %0d, Group = %0d, OutLanes = %0d; expected %s",
           Width, Tokens, Heads, K, Group, OutLanes,
           "Width in 2..64, at least 1 each, Group a power of two, OutLanes its divisor");
  end
  if (Bits < 2 || Bits > 8 || MaxCode < 1 || MaxCode >= (1 << (Bits - 1)) || Binades < 0 ||
      (ExpBits == 0 && Emax != 0) ||
      (ExpBits != 0 && (MaxCode >> ManBits) - Bias != Emax)) begin : g_check_element
    $error("mx_quantize_tokens: ExpBits = %0d, ManBits = %0d, Bias = %0d, MaxCode = %0d, Emax = %0d; %s",
           ExpBits, ManBits, Bias, MaxCode, Emax,
           "expected 2..8 bits, MaxCode within them and Emax the exponent of MaxCode");
  end
  if (CodeMin < 0 || CodeMax > 254 || CodeMin > CodeMax || RoundBias < 0 || RoundBias > 'h7F_FFFF) begin : g_check_scale
    $error("mx_quantize_tokens: CodeMin = %0d, CodeMax = %0d, RoundBias = %0d; expected %s", CodeMin,
           CodeMax, RoundBias, "0 <= CodeMin <= CodeMax <= 254, RoundBias in 0..0x7FFFFF");
  end

  localparam int Bound     = Signed ? Width : Width - 1;         // bits of a magnitude
  localparam int HeadWords = mx_pkg::ceil_div(K, InLanes);
  localparam int Words     = Heads * HeadWords;                  // of a token
  localparam int TailLanes = K - (HeadWords - 1) * InLanes;      // of a head's last word
  localparam int Most      = (Tokens < Group) ? Tokens : Group;  // tokens of a block
  localparam int Tail      = (Tokens - 1) % Group + 1;           // of the last one

  localparam int ScaleLow  = mx_pkg::lowest_scale(LsbExp, Emax, CodeMin, CodeMax);
  localparam int ScaleHigh = mx_pkg::highest_scale(LsbExp, Emax, Bound, Signed, RoundBias, CodeMin, CodeMax);
  localparam int ShiftMax  = ScaleHigh - ScaleLow;
  localparam int ShiftBits = mx_pkg::index_bits(ShiftMax + 1);
  // Right shift at scale = ScaleLow that makes the smallest element step the unit.
  localparam int Shift0    = Emin - ManBits + ScaleLow - (LsbExp + 127);

  // A block is read from its first token on as soon as its last one comes: what is held are the others, and what
  // comes while the scale of a column is found.
  localparam int Slack     = (RoundBias == 0) ? 7 : 10;
  localparam int Depth     = (Most - 1) * Words + Slack;
  localparam int AddrBits  = $clog2(Depth);
  localparam int CountBits = $clog2(Depth + 1);
  localparam RamStyle      = (Depth > 64 && Depth * InLanes * Width > 4096) ? "block" : "distributed";
  // Scales are kept until the last token of their block is read. One block of few tokens may follow a whole one.
  localparam int ScaleAddr  = $clog2((Tail == Most ? 1 : 2) * Words + Slack);
  localparam int Scales     = 1 << ScaleAddr;
  localparam int ScaleBits  = InLanes * (8 + ShiftBits);
  localparam ScaleStyle     = (Scales > 64 && Scales * ScaleBits > 4096) ? "block" : "distributed";
  localparam int WordBits   = mx_pkg::index_bits(Words);
  localparam int TokenBits  = mx_pkg::index_bits(Group);

  typedef logic [InLanes-1:0][Width-1:0] values_t;
  typedef logic [InLanes-1:0][Bound-1:0] magnitudes_t;
  typedef logic [ScaleAddr:0]            scale_ptr_t;  // one bit more than an address, so that full and empty differ

  function automatic magnitudes_t magnitudes(values_t values, logic [InLanes-1:0] negative);
    magnitudes_t found;
    for (int i = 0; i < InLanes; i++) begin
      found[i] = (Bound'(values[i]) ^ {Bound{negative[i]}}) + Bound'(negative[i]);  // one LUT per bit
    end
    return found;
  endfunction

  function automatic logic [InLanes-1:0] signs(values_t values);
    logic [InLanes-1:0] found;
    for (int i = 0; i < InLanes; i++) found[i] = Signed && values[i][Width-1];
    return found;
  endfunction

  // Accept: values into the buffer, their magnitudes to the scales.

  logic                 put, get, in_end, in_first, in_last, in_last_block, out_last, head_end, ready_q;
  logic [WordBits-1:0]  in_word;
  logic [TokenBits-1:0] in_token;
  logic [CountBits-1:0] free_q;  // places of the buffer
  logic [AddrBits-1:0]  write_q, read_q;
  scale_ptr_t           room_q;  // for scales of words of last tokens that come
  magnitudes_t          magnitude_q;

  assign s_axis_tready = ready_q;
  assign put           = s_axis_tvalid && s_axis_tready;

  mx_token_walk #(.Tokens(Tokens), .Words(Words), .Group(Group)) u_in (
    .aclk, .aresetn, .step_i(put), .word_o(in_word), .token_o(in_token), .word_end_o(in_end),
    .first_token_o(in_first), .last_token_o(in_last), .last_block_o(in_last_block)
  );

  if (TailLanes == InLanes) begin : g_full
    assign head_end = 1'b0;
  end else if (Heads == 1) begin : g_one_head
    assign head_end = in_end;
  end else begin : g_heads
    localparam int HeadBits = mx_pkg::index_bits(HeadWords);
    logic [HeadBits-1:0] head_word_q;
    assign head_end = head_word_q == HeadBits'(HeadWords - 1);
    always_ff @(posedge aclk) begin
      if (!aresetn) head_word_q <= '0;
      else if (put) head_word_q <= head_end ? '0 : head_word_q + 1'b1;
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      write_q <= '0;
      free_q  <= CountBits'(Depth);
      room_q  <= scale_ptr_t'(Scales);
      ready_q <= 1'b0;
      error_o <= 1'b0;
    end else begin
      ready_q <= free_q > CountBits'(1) && room_q > scale_ptr_t'(1);  // one may be taken in this very cycle
      free_q  <= free_q - CountBits'(put) + CountBits'(get);
      room_q  <= room_q - scale_ptr_t'(put && in_last) + scale_ptr_t'(get && out_last);
      if (put) begin
        write_q <= (write_q == AddrBits'(Depth - 1)) ? '0 : write_q + 1'b1;
        if (s_axis_tlast != (in_end && in_last && in_last_block)) error_o <= 1'b1;
      end
    end
  end

  for (genvar i = 0; i < InLanes; i++) begin : g_magnitude
    always_ff @(posedge aclk) begin
      if (i >= TailLanes && head_end) magnitude_q[i] <= '0;
      else magnitude_q[i] <= magnitudes(s_axis_tdata, signs(s_axis_tdata))[i];
    end
  end

  // Scale of every column, queued until its block is read.

  logic                              new_valid;
  logic [InLanes-1:0][7:0]           new_scale, scale1_q;
  logic [InLanes-1:0][ShiftBits-1:0] new_shift, shift1_q;
  scale_ptr_t                        found_q;           // scales that were found
  scale_ptr_t                        scale_q, block_q;  // the one to be read next, and the first of its block

  mx_column_scales #(
    .Width(Bound), .Words(Words), .Lanes(InLanes), .LsbExp(LsbExp), .Emax(Emax), .RoundBias(RoundBias),
    .CodeMin(CodeMin), .CodeMax(CodeMax), .ShiftBits(ShiftBits), .ScaleBase(ScaleLow)
  ) u_scales (
    .aclk, .aresetn,
    .valid_i(put), .word_i(in_word), .first_i(in_first), .last_i(in_last), .magnitude_i(magnitude_q),
    .valid_o(new_valid), .scale_o(new_scale), .shift_o(new_shift), .clamped_o
  );

  (* ram_style = ScaleStyle *) logic [ScaleBits-1:0] scale_mem [Scales];

  // Read: token by token, a word as soon as the scale of its columns is known. A frame begins when one of the two
  // banks of codes is free.

  logic                 out_end, out_first, out_last_block, frame_end, freed;
  logic [WordBits-1:0]  out_word;
  logic [TokenBits-1:0] out_token;
  logic                 inside_q;  // of a frame
  logic [1:0]           banks_q;   // that are free

  assign get       = found_q != scale_q && (inside_q || banks_q != '0);
  assign frame_end = out_end && out_last && out_last_block;

  mx_token_walk #(.Tokens(Tokens), .Words(Words), .Group(Group)) u_out (
    .aclk, .aresetn, .step_i(get), .word_o(out_word), .token_o(out_token), .word_end_o(out_end),
    .first_token_o(out_first), .last_token_o(out_last), .last_block_o(out_last_block)
  );

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      found_q  <= '0;
      scale_q  <= '0;
      block_q  <= '0;
      read_q   <= '0;
      inside_q <= 1'b0;
      banks_q  <= 2'd2;
    end else begin
      if (new_valid) found_q <= found_q + 1'b1;
      banks_q <= banks_q + 2'(freed) - 2'(get && !inside_q);
      if (get) begin
        read_q   <= (read_q == AddrBits'(Depth - 1)) ? '0 : read_q + 1'b1;
        inside_q <= !frame_end;
        scale_q  <= (out_end && !out_last) ? block_q : scale_q + 1'b1;
        if (out_end && out_last) block_q <= scale_q + 1'b1;
      end
    end
  end

  // Stages: 1 memory output, then those of mx_encode_lane.
  localparam int Stages = 1 + mx_pkg::encode_latency(Binades);

  (* ram_style = RamStyle *) logic [InLanes*Width-1:0] mem [Depth];

  logic [Stages:1]              valid_q;
  logic                         first1_q;
  values_t                      value1_q;
  magnitudes_t                  magnitude1;
  logic [InLanes-1:0]           sign1;
  logic [InLanes-1:0][Bits-1:0] code;

  always_ff @(posedge aclk) begin
    if (put) mem[write_q] <= s_axis_tdata;
    if (new_valid) scale_mem[found_q[ScaleAddr-1:0]] <= {new_scale, new_shift};
    value1_q             <= mem[read_q];
    {scale1_q, shift1_q} <= scale_mem[scale_q[ScaleAddr-1:0]];
    first1_q             <= out_first;
    valid_q              <= aresetn ? {valid_q[Stages-1:1], get} : '0;
  end

  assign sign1      = signs(value1_q);
  assign magnitude1 = magnitudes(value1_q, sign1);

  for (genvar i = 0; i < InLanes; i++) begin : g_lane
    mx_encode_lane #(
      .Width(Bound), .ExpBits(ExpBits), .ManBits(ManBits), .MaxCode(MaxCode), .Binades(Binades), .Shift0(Shift0),
      .ShiftBits(ShiftBits), .ShiftMax(ShiftMax)
    ) u_encode (
      .aclk, .en_i(1'b1), .magnitude_i(magnitude1[i]), .sign_i(sign1[i]), .shift_i(shift1_q[i]), .code_o(code[i])
    );
  end

  // A last token that is the only one of its block comes as its scales are found, not at once.
  mx_token_codes #(
    .Bits(Bits), .Tokens(Tokens), .Heads(Heads), .K(K), .Group(Group), .InLanes(InLanes), .OutLanes(OutLanes),
    .Steady(Tail > 1)
  ) u_codes (
    .aclk, .aresetn,
    .code_valid_i(valid_q[Stages]), .code_i(code), .scale_valid_i(valid_q[1] && first1_q), .scale_i(scale1_q),
    .freed_o(freed), .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast
  );

  logic unused;
  assign unused = ^{in_token, out_word, out_token};

endmodule
