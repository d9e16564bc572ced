// Shared scale of one block from the magnitudes of its beats.
//
// Equation:  amax = largest magnitude of the block, top = floor(log2(amax)),
//            F    = the 23 bits of amax below its leading one, all below or-ed into the last,
//            own  = top + carry + LsbExp + 127 - Emax,  carry = (F + RoundBias) >> 23,
//            scale = clip(own, CodeMin, CodeMax); an all-zero block has scale = CodeMin.
//            shift = scale - ScaleBase, the steps by which mx_encode moves the block to the right.
// Latency:   4 cycles from the last beat (valid_i && last_i) to valid_o; 3 with RoundBias = 0 and up to four lanes,
//            5 with another RoundBias.
// Rounding:  with RoundBias = 0 only the position of the leading one matters, so the magnitudes are
//            or-ed instead of compared and F is not built at all.
// Handshake: none (valid only): the caller keeps room for the result.
module mx_block_scale #(
  parameter int Width     = 32,
  parameter int Lanes     = 1,
  parameter int LsbExp    = 0,
  parameter int Emax      = 2,
  parameter int RoundBias = 0,
  parameter int CodeMin   = 0,
  parameter int CodeMax   = 254,
  parameter int ShiftBits = 6,
  parameter int ScaleBase = 0    // scale code at shift 0: the lowest that this unit can produce
) (
  input  logic                        aclk,
  input  logic                        aresetn,

  input  logic                        valid_i,
  input  logic                        last_i,
  input  logic [Lanes-1:0][Width-1:0] magnitude_i,

  output logic                        valid_o,
  output logic [7:0]                  scale_o,
  output logic [ShiftBits-1:0]        shift_o,
  output logic                        zero_o,  // the block is all zero
  output logic                        clamped_o
);

  if (Width < 1 || Lanes < 1 || ShiftBits < 1 || CodeMin < 0 || CodeMax > 254 || CodeMin > CodeMax ||
      RoundBias < 0) begin : g_check
    $error("mx_block_scale: Width = %0d, Lanes = %0d, codes %0d to %0d, RoundBias = %0d; expected %s", Width, Lanes,
           CodeMin, CodeMax, RoundBias, "positive widths and codes in 0..254");
  end

  localparam int TopBits = mx_pkg::index_bits(Width);
  localparam int Base    = LsbExp + 127 - Emax;  // own code of a block whose amax is 1

  // 1: largest magnitude of the beat (or a word with the same leading one). Words of four lanes are or-ed together
  // with the largest so far, one LUT per bit, and need no cycle of their own.
  localparam bit Direct = RoundBias == 0 && Lanes <= 4;

  logic [Width-1:0] beat, beat_q;
  logic             valid1_q, last1_q;

  always_comb begin
    beat = magnitude_i[0];
    for (int i = 1; i < Lanes; i++) begin
      if (RoundBias == 0) beat = beat | magnitude_i[i];
      else if (magnitude_i[i] > beat) beat = magnitude_i[i];
    end
  end

  if (Direct) begin : g_direct
    assign beat_q   = beat;
    assign last1_q  = last_i;
    assign valid1_q = valid_i;
  end else begin : g_beat
    always_ff @(posedge aclk) begin
      beat_q   <= beat;
      last1_q  <= last_i;
      valid1_q <= aresetn && valid_i;
    end
  end

  // 2: largest magnitude so far.
  logic [Width-1:0] amax_q, so_far;
  logic             fresh_q, valid2_q;

  assign so_far = fresh_q ? '0 : amax_q;

  always_ff @(posedge aclk) begin
    if (valid1_q) begin
      if (RoundBias == 0) amax_q <= so_far | beat_q;
      else amax_q <= (beat_q > so_far) ? beat_q : so_far;
    end
    if (!aresetn) fresh_q <= 1'b1;
    else if (valid1_q) fresh_q <= last1_q;
    valid2_q <= aresetn && valid1_q && last1_q;
  end

  // 3: position of the leading one, and the carry of the rounding rule into it, a cycle later.
  logic [TopBits-1:0] top, top_q;
  logic               zero, zero_q, valid3_q, carry_q;

  mx_leading_one #(.Width(Width)) u_top (.data_i(amax_q), .top_o(top), .zero_o(zero));

  if (RoundBias == 0) begin : g_floor
    assign carry_q = 1'b0;

    always_ff @(posedge aclk) begin
      top_q    <= top;
      zero_q   <= zero;
      valid3_q <= aresetn && valid2_q;
    end
  end else begin : g_round
    // The leading one moves to the top; 23 bits or more follow.
    localparam int NormalBits = (Width < 24) ? 24 : Width;
    logic [NormalBits-1:0] normal;
    logic [22:0]           fraction;
    logic                  sticky, zero_found_q, found_q;
    logic [Width-1:0]      found_amax_q;
    logic [TopBits-1:0]    found_top_q;

    always_ff @(posedge aclk) begin
      found_amax_q <= amax_q;
      found_top_q  <= top;
      zero_found_q <= zero;
      found_q      <= aresetn && valid2_q;
    end

    always_comb begin
      normal   = NormalBits'(found_amax_q) << (NormalBits - Width);
      normal   = normal << (TopBits'(Width - 1) - found_top_q);
      fraction = normal[NormalBits-2-:23];
    end
    if (Width > 24) begin : g_sticky
      assign sticky = |normal[Width-25:0];
    end else begin : g_exact
      assign sticky = 1'b0;
    end

    always_ff @(posedge aclk) begin
      carry_q  <= {1'b0, fraction[22:1], fraction[0] | sticky} + 24'(RoundBias) >= 24'h80_0000;
      top_q    <= found_top_q;
      zero_q   <= zero_found_q;
      valid3_q <= aresetn && found_q;
    end
  end

  // 4: clamp. `position` is own - Base; bounds outside 0..Width-1 vanish.
  localparam int Lowest  = ScaleBase - Base;
  localparam int Highest = mx_pkg::clip(Width - 1, CodeMin - Base, CodeMax - Base);

  logic signed [TopBits+1:0] position;
  logic                      below, above;

  assign position = $signed({2'b00, top_q}) + $signed({{(TopBits + 1) {1'b0}}, carry_q});
  assign below    = int'(position) < CodeMin - Base;
  assign above    = int'(position) > CodeMax - Base;

  always_ff @(posedge aclk) begin
    valid_o   <= aresetn && valid3_q;
    zero_o    <= zero_q;
    clamped_o <= (below || above) && !zero_q;
    if (below || zero_q) shift_o <= '0;
    else if (above) shift_o <= ShiftBits'(Highest - Lowest);
    else shift_o <= ShiftBits'(int'(position) - Lowest);

    if (below || zero_q) scale_o <= 8'(CodeMin);
    else if (above) scale_o <= 8'(CodeMax);
    else scale_o <= 8'(int'(position) + Base);
  end

endmodule
