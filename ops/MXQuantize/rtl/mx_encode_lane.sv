// One lane of a block quantizer with its registers: magnitude, sign and the shift of its block -> element code.
//
// Equation:  that of mx_encode, or of mx_encode_wide for elements of many binades.
// Latency:   mx_pkg::encode_latency(Binades) cycles while en_i is high: one of registers, then those of the encoder.
// Rounding:  nearest even.
module mx_encode_lane #(
  parameter int Width     = 32,
  parameter int ExpBits   = 2,
  parameter int ManBits   = 1,
  parameter int MaxCode   = 7,
  parameter int Binades   = 2,   // above the lowest normal one (0 for integers)
  parameter int Shift0    = 0,   // may be negative
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

  if (Width < 1 || ShiftBits < 1 || Binades < 0) begin : g_check
    $error("mx_encode_lane: Width = %0d, ShiftBits = %0d, Binades = %0d; expected %s", Width, ShiftBits, Binades,
           "positive widths and what mx_encode checks");
  end

  logic [Width-1:0] magnitude_q;
  logic             sign_q;

  always_ff @(posedge aclk) begin
    if (en_i) begin
      magnitude_q <= magnitude_i;
      sign_q      <= sign_i;
    end
  end

  if (mx_pkg::encodes_wide(Binades)) begin : g_wide
    localparam int FloorMin  = Shift0 + ManBits;
    localparam int FloorMax  = FloorMin + ShiftMax;
    localparam int FloorBits = 1 + mx_pkg::index_bits(1 + ((-FloorMin > FloorMax) ? -FloorMin : FloorMax));
    logic signed [FloorBits-1:0] floor_q;

    always_ff @(posedge aclk) if (en_i) floor_q <= FloorBits'(FloorMin) + FloorBits'(shift_i);

    mx_encode_wide #(
      .Width(Width), .ExpBits(ExpBits), .ManBits(ManBits), .MaxCode(MaxCode), .Binades(Binades), .FloorBits(FloorBits),
      .FloorMax(FloorMax)
    ) u_encode (.aclk, .en_i, .magnitude_i(magnitude_q), .sign_i(sign_q), .floor_i(floor_q), .code_o);
  end else begin : g_narrow
    logic [ShiftBits-1:0] shift_q;

    always_ff @(posedge aclk) if (en_i) shift_q <= shift_i;

    mx_encode #(
      .Width(Width), .ExpBits(ExpBits), .ManBits(ManBits), .MaxCode(MaxCode), .Binades(Binades), .Shift0(Shift0),
      .ShiftBits(ShiftBits), .ShiftMax(ShiftMax)
    ) u_encode (.aclk, .en_i, .magnitude_i(magnitude_q), .sign_i(sign_q), .shift_i(shift_q), .code_o);
  end

endmodule
