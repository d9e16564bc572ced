// One lane of the block quantizer for minifloats of many binades: magnitude and sign -> element code.
//
// Equation:  that of mx_encode, with floor_i = Shift0 + ManBits + shift, the position in the magnitude of the
//            lowest normal binade. One shift, by the position of the leading one or floor_i if that is higher; a
//            window of all binades and a second shift (mx_encode) would be wider.
// Latency:   4 cycles while en_i is high: leading one, position, shift, rounding.
// Rounding:  nearest even; subnormals kept; the sign of what rounds to zero is kept.
module mx_encode_wide #(
  parameter int Width     = 32,
  parameter int ExpBits   = 4,
  parameter int ManBits   = 3,
  parameter int MaxCode   = 126,
  parameter int Binades   = 14,  // above the lowest normal one
  parameter int FloorBits = 7,   // signed
  parameter int FloorMax  = 40,  // of blocks whose scale is clamped from above
  localparam int Bits = mx_pkg::element_bits(ExpBits, ManBits)
) (
  input  logic                        aclk,
  input  logic                        en_i,
  input  logic [Width-1:0]            magnitude_i,
  input  logic                        sign_i,
  input  logic signed [FloorBits-1:0] floor_i,
  output logic [Bits-1:0]             code_o
);

  if (Width < 1 || ExpBits < 1 || ManBits < 1 || Bits > 8 || Binades < 1 || FloorBits < 2 ||
      MaxCode >= (1 << (Bits - 1))) begin : g_check
    $error("mx_encode_wide: Width = %0d, %0d exponent and %0d mantissa bits, MaxCode = %0d; expected %s", Width,
           ExpBits, ManBits, MaxCode, "minifloats of at most 8 bits that hold MaxCode");
  end

  localparam int TopBits  = mx_pkg::index_bits(Width);
  localparam int Highest  = mx_pkg::clip(FloorMax, Width - 1, 254);
  localparam int MoveBits = mx_pkg::index_bits(Highest + 1);
  localparam int LeadBits = mx_pkg::index_bits(Binades + 1);
  localparam int SumBits  = ExpBits + ManBits + 1;
  // Magnitudes from here on are beyond the largest binade at every shift: smaller ones set the scale by themselves.
  localparam int Beyond   = mx_pkg::clip(Binades + 1 + FloorMax, 0, Width);

  // 1: the leading one.
  logic [TopBits-1:0]          top, top_q;
  logic                        zero, zero_q, overflow, overflow0_q, sign0_q;
  logic signed [FloorBits-1:0] floor_q;
  logic [Width-1:0]            magnitude0_q;

  mx_leading_one #(.Width(Width)) u_top (.data_i(magnitude_i), .top_o(top), .zero_o(zero));

  if (Beyond < Width) begin : g_overflow
    assign overflow = magnitude_i[Width-1:Beyond] != '0;
  end else begin : g_no_overflow
    assign overflow = 1'b0;
  end

  always_ff @(posedge aclk) begin
    if (en_i) begin
      top_q        <= top;
      zero_q       <= zero;
      floor_q      <= floor_i;
      overflow0_q  <= overflow;
      sign0_q      <= sign_i;
      magnitude0_q <= magnitude_i;
    end
  end

  // 2: the position of what becomes the mantissa's highest bit, and the binade it belongs to.
  logic                above, overflow1_q, overflow2_q, sign1_q, sign2_q;
  logic [MoveBits-1:0] move_q;
  logic [LeadBits-1:0] binade1_q, binade2_q;
  logic [Width-1:0]    magnitude_q;

  assign above = int'(floor_q) > int'(top_q);

  always_ff @(posedge aclk) begin
    if (en_i) begin
      magnitude_q <= magnitude0_q;
      move_q      <= above ? MoveBits'(floor_q) : MoveBits'(top_q);
      binade1_q   <= (above || zero_q) ? '0 : LeadBits'(top_q) - LeadBits'(floor_q);
      sign1_q     <= sign0_q;
      overflow1_q <= overflow0_q;
    end
  end

  // 3: the mantissa with its hidden bit and the bit below.
  logic [ManBits:0] kept, kept_q;
  logic             guard, guard_q, lost, rest_q;

  mx_shift_right #(.Width(Width + ManBits + 1), .Kept(ManBits + 2), .ShiftBits(MoveBits)) u_shift (
    .data_i({magnitude_q, {(ManBits + 1) {1'b0}}}), .shift_i(move_q), .data_o({kept, guard}), .sticky_o(lost)
  );

  always_ff @(posedge aclk) begin
    if (en_i) begin
      kept_q      <= kept;
      guard_q     <= guard;
      rest_q      <= lost;
      binade2_q   <= binade1_q;
      sign2_q     <= sign1_q;
      overflow2_q <= overflow1_q;
    end
  end

  // 4: adding the hidden bit to the binade makes the exponent field.
  logic [SumBits-1:0] sum;

  assign sum = SumBits'({binade2_q, {ManBits{1'b0}}}) + SumBits'(kept_q) + SumBits'(guard_q && (rest_q || kept_q[0]));

  always_ff @(posedge aclk) begin
    if (en_i) begin
      code_o <= {sign2_q, (overflow2_q || sum > SumBits'(MaxCode)) ? (SumBits - 1)'(MaxCode) : sum[SumBits-2:0]};
    end
  end

endmodule
