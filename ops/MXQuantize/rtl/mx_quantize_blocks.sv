// Block quantizer with scales found at run time: wide signed integers -> MX blocks (mx_quantize, Static = 0).
//
// Equation:  that of mx_quantize: the scale of a block by mx_block_scale, its codes by mx_encode.
// Frames:    as mx_quantize.
// Latency:   9 cycles from the last beat of a block to its first output beat, two more where mx_encode_wide encodes,
//            one more with a RoundBias, one less without and up to four lanes. One beat per cycle sustained: a block is
//            read from the buffer while the next ones are written.
// Rounding:  nearest, ties to even.
// Handshake: as mx_quantize; s_axis_tready depends on registers only.
module mx_quantize_blocks #(
  parameter int Width     = 32,
  parameter int LsbExp    = 0,
  parameter int K         = 32,   // elements of a vector
  parameter int Vectors   = 1,    // vectors of a frame (pixels, tokens)
  parameter int Group     = 32,   // elements that share a scale, power of two
  parameter int Lanes     = 1,    // elements per beat, divides Group
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
  input  logic                     aclk,
  input  logic                     aresetn,

  input  logic                     s_axis_tvalid,
  output logic                     s_axis_tready,
  input  logic [Lanes*Width-1:0]   s_axis_tdata,
  input  logic                     s_axis_tlast,

  output logic                     m_axis_tvalid,
  input  logic                     m_axis_tready,
  output logic [8+Lanes*Bits-1:0]  m_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  output logic                     m_axis_tlast,

  output logic [31:0]              clamped_o,
  output logic                     error_o
);

  localparam int Emin    = (ExpBits == 0) ? 0 : 1 - Bias;
  localparam int Binades = (ExpBits == 0) ? 0 : Emax - Emin;

  if (Width < 2 || Width > 64 || K < 1 || Vectors < 1 || Lanes < 1 || Group % Lanes != 0 ||
      MaxCode >= (1 << (Bits - 1)) || Binades < 0 || CodeMin > CodeMax) begin : g_check
    $error("mx_quantize_blocks: Width = %0d, K = %0d, Lanes = %0d, MaxCode = %0d, codes %0d to %0d; expected %s", Width,
           K, Lanes, MaxCode, CodeMin, CodeMax, "what mx_quantize checks, and elements that hold MaxCode");
  end

  localparam int Bound      = Signed ? Width : Width - 1;           // bits of a magnitude
  localparam int BlockBeats = Group / Lanes;
  localparam int Blocks     = mx_pkg::ceil_div(K, Group);
  localparam int InBeats    = mx_pkg::ceil_div(K, Lanes);
  localparam int TailBeats  = InBeats - (Blocks - 1) * BlockBeats;  // of the last block, in
  localparam int TailLanes  = K - (InBeats - 1) * Lanes;            // of the last beat
  // The magnitude of the most negative value, the only one that needs its highest bit, is kept as all ones below it:
  // no more than half a step of any element away, it rounds to the same one. The scale is found from the true one; a
  // scale rule that rounds looks at more bits. Surplus lanes are cleared, and registers that are set as well cost LUTs.
  localparam bit Folded     = Signed && TailLanes == Lanes && RoundBias == 0 && Width >= ManBits + 3;
  localparam int Kept       = Bound - int'(Folded);                 // bits of a magnitude in the buffer
  localparam int BlockBits  = mx_pkg::index_bits(Blocks);
  localparam int VectorBits = mx_pkg::index_bits(Vectors);

  // The buffer holds a block that is being read, and what arrives during the cycles in which the
  // scale of the next block is not yet known.
  localparam int PtrBits   = $clog2(BlockBeats + ((RoundBias == 0) ? 6 : 7));
  localparam int Depth     = 1 << PtrBits;
  localparam int BeatMask  = BlockBeats - 1;

  localparam int ScaleLow  = mx_pkg::lowest_scale(LsbExp, Emax, CodeMin, CodeMax);
  localparam int ScaleHigh = mx_pkg::highest_scale(LsbExp, Emax, Bound, Signed, RoundBias, CodeMin, CodeMax);
  localparam int ShiftMax  = ScaleHigh - ScaleLow;
  localparam int ShiftBits = mx_pkg::index_bits(ShiftMax + 1);
  // Right shift at scale = ScaleLow that makes the smallest element step the unit.
  localparam int Shift0    = Emin - ManBits + ScaleLow - (LsbExp + 127);

  // Accept: magnitude and sign, surplus lanes cleared.

  logic [PtrBits:0]            write_q, level, in_beat;
  logic [BlockBits-1:0]        in_block_q;
  logic [VectorBits-1:0]       in_vector_q;
  logic                        take, in_tail, block_end, vector_end, frame_end;
  logic                        valid_q, last_q;
  logic [PtrBits-1:0]          addr_q;
  logic [Lanes-1:0][Bound-1:0] magnitude_q;  // as it came
  logic [Lanes-1:0][Kept-1:0]  magnitude;    // what is kept of it, as it is read
  logic [Lanes-1:0]            sign_q, sign;
  logic [PtrBits:0]            read_q;

  assign level         = write_q - read_q;
  assign s_axis_tready = !level[PtrBits];
  assign take          = s_axis_tvalid && s_axis_tready;
  assign in_tail       = in_block_q == BlockBits'(Blocks - 1);
  assign in_beat       = write_q & (PtrBits + 1)'(BeatMask);
  assign vector_end    = in_tail && in_beat == (PtrBits + 1)'(TailBeats - 1);
  assign frame_end     = vector_end && in_vector_q == VectorBits'(Vectors - 1);
  assign block_end     = vector_end || in_beat == (PtrBits + 1)'(BeatMask);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      write_q     <= '0;
      in_block_q  <= '0;
      in_vector_q <= '0;
      valid_q     <= 1'b0;
      error_o     <= 1'b0;
    end else begin
      valid_q <= take;
      if (take) begin
        // Blocks start at multiples of BlockBeats; a short block leaves the rest unwritten.
        write_q <= (block_end ? write_q | (PtrBits + 1)'(BeatMask) : write_q) + 1'b1;
        if (block_end) in_block_q <= in_tail ? '0 : in_block_q + 1'b1;
        if (vector_end) in_vector_q <= frame_end ? '0 : in_vector_q + 1'b1;
        if (s_axis_tlast != frame_end) error_o <= 1'b1;
      end
    end
  end

  always_ff @(posedge aclk) begin
    last_q <= block_end;
    addr_q <= write_q[PtrBits-1:0];
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_magnitude
    logic [Width-1:0] value;
    logic [Bound-1:0] found;
    logic             negative;
    assign value    = s_axis_tdata[i*Width+:Width];
    assign negative = Signed && value[Width-1];
    assign found    = (Bound'(value) ^ {Bound{negative}}) + Bound'(negative);  // one LUT per bit
    always_ff @(posedge aclk) begin
      if (i >= TailLanes && vector_end) begin
        magnitude_q[i] <= '0;
        sign_q[i]      <= 1'b0;
      end else begin
        magnitude_q[i] <= (Folded && found[Bound-1]) ? '1 : found;
        sign_q[i]      <= negative;
      end
    end
  end

  // Buffer of beats: signs, if there are any, beside magnitudes.

  localparam int Held = Kept + int'(Signed);

  (* ram_style = "distributed" *) logic [Lanes-1:0][Held-1:0] mem [Depth];
  logic [Lanes-1:0][Held-1:0] held_q, held;

  always_ff @(posedge aclk) begin
    if (valid_q) mem[addr_q] <= held_q;
  end
  assign held = mem[read_q[PtrBits-1:0]];

  for (genvar i = 0; i < Lanes; i++) begin : g_held
    assign held_q[i]    = Held'({sign_q[i], magnitude_q[i][Kept-1:0]});
    assign magnitude[i] = held[i][Kept-1:0];
    assign sign[i]      = Signed && held[i][Held-1];
  end

  // Scale of every block, queued until the block is read: as its shift, from which the code follows; that of an
  // all-zero block is CodeMin, which may lie below all others.
  // Never full: the buffer holds at most Depth / BlockBeats whole blocks and two cut ones.
  localparam int QueueBits = $clog2(Depth / BlockBeats + 2);
  localparam bit ZeroBelow = CodeMin != ScaleLow;

  logic                 new_valid, new_zero, new_clamped, scale_valid, scale_take, zero;
  logic [ShiftBits-1:0] new_shift, shift;
  logic [QueueBits:0]   new_q, taken_q;

  (* ram_style = "distributed" *) logic [ShiftBits:0] queue [1 << QueueBits];

  mx_block_scale #(
    .Width(Bound), .Lanes(Lanes), .LsbExp(LsbExp), .Emax(Emax), .RoundBias(RoundBias),
    .CodeMin(CodeMin), .CodeMax(CodeMax), .ShiftBits(ShiftBits), .ScaleBase(ScaleLow)
  ) u_scale (
    .aclk, .aresetn,
    .valid_i(valid_q), .last_i(last_q), .magnitude_i(magnitude_q),
    .valid_o(new_valid), .scale_o(), .shift_o(new_shift), .zero_o(new_zero), .clamped_o(new_clamped)
  );

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      new_q   <= '0;
      taken_q <= '0;
    end else begin
      if (new_valid) new_q <= new_q + 1'b1;
      if (scale_take) taken_q <= taken_q + 1'b1;
    end
  end

  always_ff @(posedge aclk) begin
    if (new_valid) queue[new_q[QueueBits-1:0]] <= {new_zero && ZeroBelow, new_shift};
  end
  assign scale_valid   = new_q != taken_q;
  assign {zero, shift} = queue[taken_q[QueueBits-1:0]];

  logic [15:0] clamped_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) clamped_q <= '0;
    else if (new_valid && new_clamped && clamped_q != '1) clamped_q <= clamped_q + 1'b1;
  end
  assign clamped_o = 32'(clamped_q);

  // Read: one beat per cycle while the scale of its block is known and the output moves.

  logic                 en, get, out_tail, out_end, pad;
  logic [BlockBits-1:0] out_block_q;
  logic [VectorBits-1:0] out_vector_q;
  logic                 out_last;
  logic [PtrBits:0]     out_beat;

  assign en         = !m_axis_tvalid || m_axis_tready;
  assign get        = en && scale_valid;
  assign out_beat   = read_q & (PtrBits + 1)'(BeatMask);
  assign out_end    = out_beat == (PtrBits + 1)'(BeatMask);
  assign out_tail   = out_block_q == BlockBits'(Blocks - 1);
  assign pad        = out_tail && out_beat >= (PtrBits + 1)'(TailBeats);
  assign out_last   = out_tail && out_end && out_vector_q == VectorBits'(Vectors - 1);
  assign scale_take = get && out_end;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      read_q       <= '0;
      out_block_q  <= '0;
      out_vector_q <= '0;
    end else if (get) begin
      read_q <= read_q + 1'b1;
      if (out_end) out_block_q <= out_tail ? '0 : out_block_q + 1'b1;
      if (out_end && out_tail) out_vector_q <= out_last ? '0 : out_vector_q + 1'b1;
    end
  end

  // Stages: those of mx_encode_lane, whose last is the output register.
  localparam int Stages = mx_pkg::encode_latency(Binades);

  logic [Stages-1:1][ShiftBits:0] word_q;
  logic [7:0]                     scale_q;
  logic [Stages:1]                valid_s_q, last_s_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_s_q <= '0;
    else if (en) valid_s_q <= {valid_s_q[Stages-1:1], get};
  end

  always_ff @(posedge aclk) begin
    if (en) begin
      word_q   <= $bits(word_q)'({word_q, zero, shift});
      scale_q  <= word_q[Stages-1][ShiftBits] ? 8'(CodeMin) : 8'(ScaleLow) + 8'(word_q[Stages-1][ShiftBits-1:0]);
      last_s_q <= {last_s_q[Stages-1:1], out_last};
    end
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    mx_encode_lane #(
      .Width(Kept), .ExpBits(ExpBits), .ManBits(ManBits), .MaxCode(MaxCode), .Binades(Binades), .Shift0(Shift0),
      .ShiftBits(ShiftBits), .ShiftMax(ShiftMax)
    ) u_encode (
      .aclk, .en_i(en), .magnitude_i(pad ? '0 : magnitude[i]), .sign_i(!pad && sign[i]), .shift_i(shift),
      .code_o(m_axis_tdata[i*Bits+:Bits])
    );
  end

  assign m_axis_tdata[Lanes*Bits+:8] = scale_q;
  assign m_axis_tvalid               = valid_s_q[Stages];
  assign m_axis_tlast                = last_s_q[Stages];

endmodule
