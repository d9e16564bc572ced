// Border of an input: values from slots of whole bytes, and frames of the right length whatever comes.
//
// Equation:  value = slot saturated to Width bits. A frame that ends early is filled up with zeros, one that goes on
//            too long is cut; the verdict stream says of every frame whether that was so, with its last beat.
// Latency:   0 cycles (combinational).
// Handshake: AXI4-Stream; m_axis_tvalid depends on s_axis_tvalid, s_axis_tready on m_axis_tready; the last beat of a
//            frame waits for verdict_tready. error_o is sticky: a misplaced TLAST. saturated_o counts values beyond
//            Width bits, misplaced_o frames; both stop at their largest value.
module mx_ingress #(
  parameter int Width = 8,
  parameter int Slot  = 8,
  parameter int Lanes = 1,
  parameter int K     = 1,  // values of a vector; surplus lanes of its last beat are not looked at
  parameter int Beats = 1   // of a frame
) (
  input  logic                   aclk,
  input  logic                   aresetn,

  input  logic                   s_axis_tvalid,
  output logic                   s_axis_tready,
  input  logic [Lanes*Slot-1:0]  s_axis_tdata,
  input  logic                   s_axis_tlast,

  output logic                   m_axis_tvalid,
  input  logic                   m_axis_tready,
  output logic [Lanes*Width-1:0] m_axis_tdata,
  output logic                   m_axis_tlast,

  output logic                   verdict_tvalid,
  input  logic                   verdict_tready,
  output logic                   verdict_tdata,  // 1: its TLAST was misplaced
  output logic                   verdict_tlast,

  output logic                   error_o,
  output logic [31:0]            saturated_o,
  output logic [31:0]            misplaced_o
);

  localparam int VectorBeats = mx_pkg::ceil_div(K, Lanes);
  localparam int TailLanes   = K - (VectorBeats - 1) * Lanes;
  localparam int BeatBits    = mx_pkg::index_bits(Beats);
  localparam int PartBits    = mx_pkg::index_bits(VectorBeats);
  localparam int CountBits   = $clog2(Lanes + 1);

  if (Width < 1 || Slot < Width || Lanes < 1 || K < 1 || Beats < 1 || Beats % VectorBeats != 0) begin : g_check
    $error("mx_ingress: Width = %0d, Slot = %0d, Lanes = %0d, K = %0d, Beats = %0d; expected %s", Width, Slot, Lanes,
           K, Beats, "Slot >= Width, and frames of whole vectors");
  end

  typedef enum logic [1:0] {PASS, FILL, SKIP} state_e;
  state_e              state_q;
  logic [BeatBits-1:0] beat_q;
  logic [PartBits-1:0] part_q;
  logic                final_beat, open, take, give, bad;

  assign final_beat     = beat_q == BeatBits'(Beats - 1);
  assign open           = !final_beat || verdict_tready;
  assign m_axis_tvalid  = open && (state_q == FILL || (state_q == PASS && s_axis_tvalid));
  assign m_axis_tlast   = final_beat;
  assign s_axis_tready  = state_q == SKIP || (state_q == PASS && open && m_axis_tready);
  assign take           = s_axis_tvalid && s_axis_tready;
  assign give           = m_axis_tvalid && m_axis_tready;
  assign bad            = state_q == FILL || !s_axis_tlast;
  assign verdict_tvalid = give && final_beat;
  assign verdict_tdata  = bad;
  assign verdict_tlast  = 1'b1;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      state_q <= PASS;
      beat_q  <= '0;
      part_q  <= '0;
    end else begin
      if (give) begin
        beat_q <= final_beat ? '0 : beat_q + 1'b1;
        part_q <= part_q == PartBits'(VectorBeats - 1) ? '0 : part_q + 1'b1;
      end
      case (state_q)
        FILL:    if (give && final_beat) state_q <= PASS;
        SKIP:    if (take && s_axis_tlast) state_q <= PASS;
        default: if (take && s_axis_tlast != final_beat) state_q <= s_axis_tlast ? FILL : SKIP;
      endcase
    end
  end

  logic [Lanes-1:0]     beyond;
  logic [CountBits-1:0] found;

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [Slot-1:0]  slot;
    logic signed [Width-1:0] kept;
    assign slot = s_axis_tdata[i*Slot+:Slot];
    if (Slot > Width) begin : g_saturate
      logic over;
      assign over      = slot[Slot-1:Width-1] != {(Slot - Width + 1) {slot[Slot-1]}};
      assign kept      = over ? {slot[Slot-1], {(Width - 1) {!slot[Slot-1]}}} : slot[Width-1:0];
      assign beyond[i] = over && (i < TailLanes || part_q != PartBits'(VectorBeats - 1));
    end else begin : g_whole
      assign kept      = slot;
      assign beyond[i] = 1'b0;
    end
    assign m_axis_tdata[i*Width+:Width] = state_q == FILL ? '0 : kept;
  end

  always_comb begin
    found = '0;
    for (int i = 0; i < Lanes; i++) found += CountBits'(beyond[i]);
  end

  // Counted a cycle later.
  logic                 fault_q;
  logic [CountBits-1:0] found_q;
  logic [32:0]          saturated;
  assign saturated = 33'(saturated_o) + 33'(found_q);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      fault_q     <= 1'b0;
      found_q     <= '0;
      error_o     <= 1'b0;
      saturated_o <= '0;
      misplaced_o <= '0;
    end else begin
      fault_q     <= verdict_tvalid && bad;
      found_q     <= (take && state_q == PASS) ? found : '0;
      saturated_o <= saturated[32] ? '1 : saturated[31:0];
      if (fault_q) begin
        error_o <= 1'b1;
        if (misplaced_o != '1) misplaced_o <= misplaced_o + 1'b1;
      end
    end
  end

endmodule
