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
  parameter int ShiftMax  = 40,
  parameter bit Saturate  = 1,  // magnitudes above the largest binade can occur
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
  localparam int Full   = mx_pkg::clip(Width + Left - Right, Window + 1, Width + Left + Window);

  logic [Width+Left+Window-1:0] start;
  logic [Full-1:0]              aligned;
  logic                         sticky, overflow;

  assign start = (Width + Left + Window)'(magnitude_i) << Left;

  always_comb begin
    aligned = Full'(start >> Right);
    sticky  = 1'b0;
    if (Right > 0) sticky = (start & ~({(Width + Left + Window){1'b1}} << Right)) != '0;
    // Large steps first: each leaves fewer bits for the next.
    for (int step = ShiftBits - 1; step >= 0; step--) begin
      if (shift_i[step] && (1 << step) <= ShiftMax) begin
        sticky  = sticky || (aligned & ~({Full{1'b1}} << (1 << step))) != '0;
        aligned = aligned >> (1 << step);
      end
    end
  end

  if (Saturate && Full > Window + 1) begin : g_overflow
    assign overflow = aligned[Full-1:Window+1] != '0;
  end else begin : g_no_overflow
    assign overflow = 1'b0;
  end

  logic [Window:0] aligned_q;
  logic            sticky_q, overflow_q, sign_q;

  always_ff @(posedge aclk) begin
    if (en_i) begin
      aligned_q  <= aligned[Window:0];
      sticky_q   <= sticky;
      overflow_q <= overflow;
      sign_q     <= sign_i;
    end
  end

  // Move the leading one to the top, but no further than the lowest normal binade goes: what
  // follows is rounded away. `kept` holds the hidden bit too, so adding it to binade << ManBits
  // makes the exponent field.
  localparam int SumBits  = ((ExpBits == 0) ? ManBits + 1 : ExpBits + ManBits) + 1;
  localparam int LeadBits = mx_pkg::index_bits(Binades + 1);

  logic [LeadBits-1:0] zeros;  // above the leading one
  logic [Window:0]     normal;
  logic [ManBits:0]    kept;
  logic                guard, rest, up, huge;
  logic [SumBits-1:0]  binade, sum;
  logic [SumBits-2:0]  code;

  always_comb begin
    zeros = LeadBits'(Binades);
    for (int j = 1; j <= Binades; j++) begin
      if (aligned_q[ManBits+1+j]) zeros = LeadBits'(Binades - j);
    end
    binade = SumBits'(LeadBits'(Binades) - zeros) << ManBits;
    normal = aligned_q << zeros;
    kept   = normal[Window-:ManBits+1];
    guard  = normal[Binades];
    rest   = sticky_q || (normal & ~({(Window + 1) {1'b1}} << Binades)) != '0;
    up     = guard && (rest || kept[0]);
    sum    = binade + SumBits'(kept) + SumBits'(up);
    huge   = overflow_q || sum > SumBits'(MaxCode);
    code   = huge ? (SumBits - 1)'(MaxCode) : sum[SumBits-2:0];
  end

  always_ff @(posedge aclk) begin
    if (en_i) begin
      if (ExpBits == 0) code_o <= sign_q ? -{1'b0, code} : {1'b0, code};
      else code_o <= {sign_q, code};
    end
  end

endmodule
