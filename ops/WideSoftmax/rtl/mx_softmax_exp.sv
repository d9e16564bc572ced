// 2**ExpBits * exp(value - top) of one lane, in a table of chords of 2**-f.
//
// Equation:  d = min((top_i - value_i) >> Drop, 2**DistanceBits - 1), t = half up of d * Factor / 2**16; its whole part n
//            is at most ExpBits + 2, its Fraction bits below give y by chords; exp_o = half up of y / 2**n; 0 unless
//            kept_i.
// Latency:   mx_pkg::softmax_exp_latency cycles, from registers; nothing holds it back.
// Memories:  $readmemh files: values and slopes word i = segment i.
module mx_softmax_exp #(
  parameter int Width        = 16,
  parameter int Factor       = 23637,
  parameter int Drop         = 0,
  parameter int DistanceBits = 16,
  parameter int Fraction     = 10,
  parameter int SegmentBits  = 4,
  parameter int ExpBits      = 16,
  parameter int SlopeWidth   = 17,
  parameter string ValuesFile = "",
  parameter string SlopesFile = ""
) (
  input  logic                    aclk,
  input  logic signed [Width-1:0] value_i,
  input  logic signed [Width-1:0] top_i,
  input  logic                    kept_i,
  output logic [ExpBits:0]        exp_o
);

  if (Width < 2 || Factor < 1 || Drop < 0 || DistanceBits < 1 || Fraction <= SegmentBits || SegmentBits < 1 ||
      ExpBits < 8 || SlopeWidth < 2) begin : g_check
    $error("mx_softmax_exp: Width = %0d, DistanceBits = %0d, Fraction = %0d, SegmentBits = %0d, ExpBits = %0d; %s",
           Width, DistanceBits, Fraction, SegmentBits, ExpBits,
           "expected positive ones, and segments of two steps or more");
  end

  localparam int FactorBits = mx_pkg::factor_bits(Factor);
  localparam int Low        = Fraction - SegmentBits;
  localparam int Scaled     = DistanceBits + 1 + FactorBits;
  localparam int Times      = mx_pkg::wide_mul_latency(DistanceBits + 1, FactorBits);
  localparam int Chord      = mx_pkg::wide_mul_latency(SlopeWidth, Low + 1);
  localparam int Shifted    = mx_pkg::index_bits(ExpBits + 3);
  localparam int TBits      = (Scaled - 16 > Fraction + Shifted) ? Scaled - 16 : Fraction + Shifted;
  localparam int WholeBits  = TBits - Fraction;
  localparam int Stages     = mx_pkg::softmax_exp_latency(Factor, DistanceBits, Low, SlopeWidth);
  localparam int Looked     = Times + 4;  // a chord is there
  localparam int Summed     = Looked + Chord + 1;

  logic [Width-1:0]               distance_q;
  logic [DistanceBits-1:0]        capped_q;
  logic signed [Scaled-1:0]       scaled;
  logic [TBits-1:0]               t_q;
  logic [SegmentBits-1:0]         segment;
  logic [Low-1:0]                 within_q;
  logic [ExpBits:0]               value;
  logic [Chord:0][ExpBits:0]      value_d;
  logic signed [SlopeWidth-1:0]   slope;
  logic signed [SlopeWidth+Low:0] gained;
  logic [Summed:Looked][Shifted-1:0] whole_q;
  logic [Stages-1:1]              kept_q;
  logic [ExpBits:0]               found_q;
  logic [ExpBits+1:0]             moved_q;

  // --- t ----------------------------------------------------------------------------------------------------------------

  always_ff @(posedge aclk) begin
    distance_q <= top_i - value_i;
    t_q        <= TBits'((scaled + Scaled'(1 << 15)) >>> 16);
    kept_q     <= {kept_q[Stages-2:1], kept_i};
  end
  if (Width - Drop > DistanceBits) begin : g_cap
    always_ff @(posedge aclk) begin
      capped_q <= |distance_q[Width-1:Drop+DistanceBits] ? '1 : distance_q[Drop+:DistanceBits];
    end
  end else begin : g_fits
    always_ff @(posedge aclk) capped_q <= DistanceBits'(distance_q >> Drop);
  end

  mx_wide_mul #(.ABits(DistanceBits + 1), .BBits(FactorBits)) u_scaled (
    .aclk, .en_i(1'b1), .a_i({1'b0, capped_q}), .b_i(FactorBits'(Factor)), .product_o(scaled)
  );

  // --- the chord --------------------------------------------------------------------------------------------------------

  assign segment    = t_q[Low+:SegmentBits];
  assign value_d[0] = value;

  mx_rom #(.Width(ExpBits + 1), .Depth(1 << SegmentBits), .BlockDepth(256), .File(ValuesFile)) u_values (
    .aclk, .en_i(1'b1), .addr_i(segment), .data_o(value)
  );
  mx_rom #(.Width(SlopeWidth), .Depth(1 << SegmentBits), .BlockDepth(256), .File(SlopesFile)) u_slopes (
    .aclk, .en_i(1'b1), .addr_i(segment), .data_o(slope)
  );
  mx_wide_mul #(.ABits(SlopeWidth), .BBits(Low + 1)) u_gained (
    .aclk, .en_i(1'b1), .a_i(slope), .b_i({1'b0, within_q}), .product_o(gained)
  );

  always_ff @(posedge aclk) begin
    within_q <= t_q[Low-1:0];
    whole_q[Looked]  <= t_q[TBits-1:Fraction] > WholeBits'(ExpBits + 2) ? Shifted'(ExpBits + 2)
                                                                        : Shifted'(t_q[TBits-1:Fraction]);
    for (int k = 1; k <= Chord; k++) value_d[k] <= value_d[k-1];
    for (int k = Looked + 1; k <= Summed; k++) whole_q[k] <= whole_q[k-1];
    found_q <= (ExpBits + 1)'($signed({1'b0, value_d[Chord]}) + (ExpBits + 2)'(
               (gained + (SlopeWidth + Low + 1)'(1 << (Low - 1))) >>> Low));
  end

  // --- its size ---------------------------------------------------------------------------------------------------------

  // With one bit below the point, which decides the rounding.
  always_ff @(posedge aclk) begin
    moved_q <= {found_q, 1'b0} >> whole_q[Summed];
    exp_o   <= kept_q[Stages-1] ? (ExpBits + 1)'((moved_q + 1'b1) >> 1) : '0;
  end

endmodule
