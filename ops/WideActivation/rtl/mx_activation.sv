// Smooth functions on a stream of wide integers (operator WideActivation): GELU, SiLU, ELU, sigmoid, tanh and more.
//
// Equation:  v = |x| * 2**Up (rounded to nearest, ties up, where Up < 0), c = a curve of v in straight segments, Limit
//            behind the last one (LowLimit of negative x); y = relu(x) - c with Gate = 1, relu(x) + c with Gate = 2,
//            else Offset + c, of negative x Offset - c, in every lane (OutWidth must hold y). The segment is found as
//            the code of a minifloat: its octave and SegmentBits bits of mantissa name the segment, what stands below
//            is the place inside. With Sides = 2 the segments of negative x stand behind the others.
// Latency:   7 cycles; one beat per cycle sustained.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
// Memories:  $readmemh files of Sides * (Octaves + 1) * 2**SegmentBits words: c where a segment starts (unsigned), and
//            by how much it is more where the segment ends (signed).
module mx_activation #(
  parameter int Width        = 24,
  parameter int OutWidth     = 24,
  parameter int Up           = 0,
  parameter int SegmentBits  = 4,
  parameter int PositionBits = 10,
  parameter int Octaves      = 7,
  parameter int Sides        = 1,
  parameter int Gate         = 1,
  parameter int Offset       = 0,
  parameter int Limit        = 0,
  parameter int LowLimit     = Limit,
  parameter int BaseWidth    = 18,
  parameter int SlopeWidth   = 16,
  parameter int Lanes        = 1,
  parameter string BaseFile  = "",
  parameter string SlopeFile = ""
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s_axis_tvalid,
  output logic                      s_axis_tready,
  input  logic [Lanes*Width-1:0]    s_axis_tdata,
  input  logic                      s_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast
);

  localparam int First  = SegmentBits + PositionBits;  // bits of v below the first octave, as of the octave itself
  localparam int Places = PositionBits + Octaves - 1;  // bits of a place inside the longest segments
  localparam int Range  = First + Octaves;             // bits of v before the last segment ends

  if (Width < 2 || OutWidth < 2 || Lanes < 1 || Width + Up < 2 || SegmentBits < 1 || PositionBits < 1 || Octaves < 2 ||
      Places > 17 || BaseWidth < 2 || SlopeWidth < 2 || SlopeWidth > 27 || Limit < 0 || Offset < 0 ||
      LowLimit < 0 || Sides < 1 || Sides > 2 || Gate < 0 || Gate > 2) begin : g_check
    $error("mx_activation: Width = %0d, Up = %0d, Places = %0d, SlopeWidth = %0d, Lanes = %0d, Sides = %0d; %s", Width,
           Up, Places, SlopeWidth, Lanes, Sides,
           "expected Width + Up >= 2, at most 17 bits of a place, at most 27 of a slope, 1 or 2 sides");
  end

  localparam int Down      = (Up < 0) ? -Up : 0;
  localparam int Raise     = (Up > 0) ? Up : 0;
  localparam int Bits      = (Width + Up > Range) ? Width + Up : Range + 1;  // of v
  localparam int Rows      = Sides * (Octaves + 1);  // of 2**SegmentBits words each
  localparam int OctBits   = mx_pkg::index_bits(Rows);
  localparam int AddrBits  = OctBits + SegmentBits;
  localparam int CurveBits = ((BaseWidth > SlopeWidth) ? BaseWidth : SlopeWidth) + 2;
  localparam int Product   = SlopeWidth + Places + 1;
  localparam int Sum       = CurveBits + Places;
  localparam int Stages    = 7;
  localparam logic [Width-1:0]     Half   = (Down > 0) ? Width'(1) << (Down - 1) : '0;
  localparam logic [Places-1:0]    Middle = Places'(1) << (Places - 1);
  localparam logic [BaseWidth-1:0] Behind = BaseWidth'(Limit), LowBehind = BaseWidth'(LowLimit);

  logic            en;
  logic [Stages:1] valid_q, last_q;

  assign en            = !valid_q[Stages] || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = valid_q[Stages];
  assign m_axis_tlast  = last_q[Stages];

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[Stages-1:1], s_axis_tvalid};
    if (en) last_q <= {last_q[Stages-1:1], s_axis_tlast};
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic [Width-1:0]             x, rounded;
    logic                         minus;
    logic [6:1]                   minus_q;
    logic [Bits-1:0]              value1_q;
    logic [OctBits-1:0]           octave, octave2_q, octave3_q;
    logic [Range-1:0]             value2_q;
    logic [SegmentBits+Places-1:0] near, near3_q;
    logic [4:2]                   behind_q;
    logic [Places-1:0]            place4_q;
    logic [BaseWidth-1:0]         base, base5_q;
    logic signed [SlopeWidth-1:0] slope;
    logic signed [Product-1:0]    product;
    logic signed [Sum-1:0]        sum;
    logic signed [CurveBits-1:0]  curve6_q;
    logic [OutWidth-1:0]          main, taken, result_q;
    logic                         less;

    // |x| and its rounding in one sum: -x = ~x + 1.
    assign x       = s_axis_tdata[i*Width+:Width];
    assign minus   = x[Width-1];
    assign rounded = (x ^ {Width{minus}}) + Half + Width'(minus);

    always_comb begin
      octave = '0;
      for (int k = 0; k < Octaves; k++) if (value1_q[First+k]) octave = OctBits'(k + 1);
    end

    // The leading one of octave k > 0 goes to bit SegmentBits + Places, above what is kept.
    always_comb begin
      near = (SegmentBits + Places)'(value2_q) << (Octaves - 1);
      for (int k = 2; k <= Octaves; k++) begin
        if (octave2_q == OctBits'(k)) near = (SegmentBits + Places)'(value2_q << (Octaves - k));
      end
    end

    mx_rom #(.Width(BaseWidth), .Depth(Rows << SegmentBits), .BlockDepth(512), .File(BaseFile)) u_base (
      .aclk, .en_i(en), .addr_i(AddrBits'({octave3_q, near3_q[Places+:SegmentBits]})), .data_o(base)
    );
    mx_rom #(.Width(SlopeWidth), .Depth(Rows << SegmentBits), .BlockDepth(512), .File(SlopeFile)) u_slope (
      .aclk, .en_i(en), .addr_i(AddrBits'({octave3_q, near3_q[Places+:SegmentBits]})), .data_o(slope)
    );
    mx_wide_mul #(.ABits(Places + 1), .BBits(SlopeWidth)) u_mul (
      .aclk, .en_i(en), .a_i({1'b0, place4_q}), .b_i(slope), .product_o(product)
    );
    assign sum = Sum'($signed({1'b0, base5_q, Middle})) + Sum'(product);

    always_ff @(posedge aclk) begin
      if (en) begin
        minus_q     <= {minus_q[5:1], minus};
        value1_q    <= Bits'(rounded >> Down) << Raise;
        value2_q    <= value1_q[Range-1:0];
        octave2_q   <= octave;
        octave3_q   <= (Sides > 1 && minus_q[2]) ? octave2_q + OctBits'(Octaves + 1) : octave2_q;
        near3_q     <= near;
        behind_q[2] <= |(value1_q >> Range);
        behind_q[3] <= behind_q[2];
        behind_q[4] <= behind_q[3];
        place4_q    <= behind_q[3] ? '0 : near3_q[Places-1:0];
        base5_q     <= behind_q[4] ? (minus_q[4] ? LowBehind : Behind) : base;
        curve6_q    <= CurveBits'(sum >>> Places);
        result_q    <= main + (taken ^ {OutWidth{less}}) + OutWidth'(less);
      end
    end
    assign taken = OutWidth'(curve6_q);

    if (Gate != 0) begin : g_gate
      logic [6:2][OutWidth-1:0] relu_q;
      always_ff @(posedge aclk) begin
        if (en) begin
          relu_q[2] <= minus_q[1] ? '0 : OutWidth'(value1_q);
          for (int k = 3; k <= 6; k++) relu_q[k] <= relu_q[k-1];
        end
      end
      assign main = relu_q[6];
      assign less = Gate == 1;
    end else begin : g_plain
      assign main = OutWidth'(Offset);
      assign less = minus_q[6];
    end

    assign m_axis_tdata[i*OutWidth+:OutWidth] = result_q;
  end

endmodule
