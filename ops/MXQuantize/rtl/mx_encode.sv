// One lane of the block quantizer: magnitude and sign -> element code.
//
// Equation:  y = magnitude * 2**-(Shift0 + shift_i), in units of the smallest element step;
//            code = y rounded to the nearest element, ties to even, saturated at MaxCode, with sign
//            (sign-magnitude for minifloats, two's complement for integers).
// Latency:   2 cycles while en_i is high.
// Rounding:  nearest even; subnormals kept; a minifloat keeps the sign of what rounds to zero.
module mx_encode #(
  parameter int Width     = 32,
  parameter int ExpBits   = 2,
  parameter int ManBits   = 1,
  parameter int MaxCode   = 7,
  parameter int Binades   = 2,  // binades above the lowest normal one (0 for integers)
  parameter int Shift0    = 0,  // may be negative
  parameter int ShiftBits = 6,
  parameter int ShiftMax  = 40,  // the shift of blocks whose scale is clamped from above
  localparam int Bits = mx_pkg::element_bits(ExpBits, ManBits)
) (
  input  logic                 aclk,
  input  logic                 en_i,
  input  logic [Width-1:0]     magnitude_i,
  input  logic                 sign_i,
  input  logic [ShiftBits-1:0] shift_i,
  output logic [Bits-1:0]      code_o
);

  if (Width < 1 || Bits < 2 || Bits > 8 || Binades < 0 || ShiftBits < 1 || ShiftMax < 0 ||
      MaxCode >= (1 << (Bits - 1))) begin : g_check
    $error("mx_encode: Width = %0d, %0d exponent and %0d mantissa bits, MaxCode = %0d; expected %s", Width, ExpBits,
           ManBits, MaxCode, "elements of 2 to 8 bits that hold MaxCode");
  end

  // Aligned value: Window integer bits and one bit below the point, the rest in `sticky`.
  localparam int Window = ManBits + 1 + Binades;
  localparam int Left   = (Shift0 < 1) ? 1 - Shift0 : 0;   // constant part of the shift
  localparam int Right  = (Shift0 > 1) ? Shift0 - 1 : 0;
  localparam int Full   = Width + Left + Window;
  localparam int Moved  = mx_pkg::clip(Width + Left - Right, Window + 1, Full);
  // Magnitudes from here on are beyond the window at every shift: smaller ones set the scale by themselves.
  localparam int Beyond = mx_pkg::clip(Window + Shift0 + ShiftMax, 0, Width);

  // Integers leave the last bit of the shift to the LUTs of the adder, which have inputs free.
  localparam bit Twos  = ExpBits == 0 && MaxCode == (1 << (ManBits + 1)) - 1;
  localparam bit Later = Twos && ShiftBits > 1;
  localparam int Bound = Window + int'(Later);  // the highest bit of what is aligned

  logic [Full-1:0] start;
  logic [Bound:0]  aligned;
  logic            moved_sticky, sticky, overflow;

  assign start = Full'(magnitude_i) << Left;

  mx_shift_right #(
    .Width(Moved), .Kept(Bound + 1), .ShiftBits(ShiftBits - int'(Later)), .Unit(1 + int'(Later))
  ) u_align (
    .data_i(Moved'(start >> Right)), .shift_i(shift_i[ShiftBits-1:int'(Later)]), .data_o(aligned),
    .sticky_o(moved_sticky)
  );

  if (Right > 0) begin : g_right
    assign sticky = moved_sticky || (start & ~({Full{1'b1}} << Right)) != '0;
  end else begin : g_left
    assign sticky = moved_sticky;
  end
  if (Beyond < Width) begin : g_overflow
    assign overflow = magnitude_i[Width-1:Beyond] != '0;
  end else begin : g_no_overflow
    assign overflow = 1'b0;
  end

  // What lies beyond the window becomes all ones: it rounds up and saturates.
  logic [Bound:0] aligned_q;
  logic           sticky_q, sign_q, later_q;

  always_ff @(posedge aclk) begin
    if (en_i) begin
      aligned_q <= overflow ? '1 : aligned;
      sticky_q  <= overflow || sticky;
      sign_q    <= sign_i;
      later_q   <= Later && shift_i[0];
    end
  end

  // Down to the mantissa's bits and one below: by the binade of the leading one, 0 for the lowest normal one and
  // subnormals. `kept` holds the hidden bit too, so adding it to binade << ManBits makes the exponent field.
  localparam int SumBits  = ((ExpBits == 0) ? ManBits + 1 : ExpBits + ManBits) + 1;
  localparam int LeadBits = mx_pkg::index_bits(Binades + 1);

  logic [LeadBits-1:0] binade;
  logic [ManBits:0]    kept;
  logic                guard, lost, up;

  if (Binades == 0) begin : g_integer
    assign binade        = '0;
    assign {kept, guard} = (Window + 1)'(later_q ? aligned_q[Bound:int'(Later)] : aligned_q);
    assign lost          = later_q && aligned_q[0];
  end else begin : g_minifloat
    mx_leading_one #(.Width(Binades + 1)) u_lead (
      .data_i({aligned_q[Window:ManBits+2], 1'b1}), .top_o(binade), .zero_o()
    );
    mx_shift_right #(.Width(Window + 1), .Kept(ManBits + 2), .ShiftBits(LeadBits)) u_normal (
      .data_i(aligned_q), .shift_i(binade), .data_o({kept, guard}), .sticky_o(lost)
    );
  end

  assign up = guard && (sticky_q || lost || kept[0]);

  // Of {-, -, sign, later, upper, lower}: the bit that the last bit of the shift chooses, inverted where negative.
  function automatic logic [63:0] chosen();
    logic [63:0] entries;
    for (int i = 0; i < 64; i++) entries[i] = (i[2] ? i[1] : i[0]) ^ i[3];
    return entries;
  endfunction

  if (Twos) begin : g_twos_complement
    // -(kept + up) = ~kept + !up: one adder, whose LUTs choose by the last bit of the shift. The largest code does not
    // round up.
    logic [Bits-1:0]    code, select;
    logic [ManBits+2:1] whole;
    logic               full, unused;

    assign whole = (ManBits + 2)'(aligned_q >> 1);
    assign full  = (later_q ? whole[ManBits+2] : whole[1]) && (&{1'b1, whole[ManBits+1:2]});
    for (genvar i = 0; i <= ManBits; i++) begin : g_bit
      logic unused_five;
      mx_lut #(.Init(chosen())) u_lut (
        .bits_i({2'b00, sign_q, later_q, whole[i+2], whole[i+1]}), .six_o(select[i]), .five_o(unused_five)
      );
    end
    assign select[Bits-1] = sign_q;

    mx_carry #(.Width(Bits)) u_code (
      .select_i(select), .data_i('0), .carry_i((up && !full) ^ sign_q), .sum_o(code), .carry_o(unused)
    );
    always_ff @(posedge aclk) if (en_i) code_o <= code;
  end else begin : g_sum
    logic [SumBits-1:0] sum;
    logic [SumBits-2:0] code;

    assign sum  = (SumBits'(binade) << ManBits) + SumBits'(kept) + SumBits'(up);
    assign code = (sum > SumBits'(MaxCode)) ? (SumBits - 1)'(MaxCode) : sum[SumBits-2:0];
    always_ff @(posedge aclk) begin
      if (en_i) begin
        if (ExpBits == 0) code_o <= sign_q ? -{1'b0, code} : {1'b0, code};
        else code_o <= {sign_q, code};
      end
    end
  end

endmodule
