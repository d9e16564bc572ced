// Which channel of every vector holds the largest wide integer (operator WideArgMax).
//
// Equation:  y = the lowest c with x[c] = max(x).
// Frames:    vectors of ceil(K/Lanes) beats in, one beat of one value each out.
// Latency:   2 cycles from the last beat of a vector; one beat per cycle sustained.
// Rounding:  none.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready. Vectors are counted.
module mx_arg_max #(
  parameter int Width    = 16,
  parameter int OutWidth = 5,
  parameter int K        = 10,
  parameter int Lanes    = 1
) (
  input  logic                   aclk,
  input  logic                   aresetn,

  input  logic                   s_axis_tvalid,
  output logic                   s_axis_tready,
  input  logic [Lanes*Width-1:0] s_axis_tdata,
  input  logic                   s_axis_tlast,

  output logic                   m_axis_tvalid,
  input  logic                   m_axis_tready,
  output logic [OutWidth-1:0]    m_axis_tdata,
  output logic                   m_axis_tlast
);

  localparam int Beats    = mx_pkg::ceil_div(K, Lanes);
  localparam int Tail     = K - (Beats - 1) * Lanes;
  localparam int BeatBits = mx_pkg::index_bits(Beats);

  if (Width < 2 || K < 1 || Lanes < 1 || OutWidth < $clog2(K) + 1) begin : g_check
    $error("mx_arg_max: Width = %0d, OutWidth = %0d, K = %0d, Lanes = %0d; expected OutWidth > log2(K)", Width,
           OutWidth, K, Lanes);
  end

  logic                    en, first, final_beat, end1_q, last1_q, valid2_q, last2_q;
  logic [BeatBits-1:0]     beat_q;
  logic signed [Width-1:0] best, best1_q;
  logic [OutWidth-1:0]     index, base_q, index1_q, index2_q;

  assign en            = !valid2_q || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = valid2_q;
  assign m_axis_tdata  = index2_q;
  assign m_axis_tlast  = last2_q;
  assign first         = beat_q == '0;
  assign final_beat    = beat_q == BeatBits'(Beats - 1);

  always_comb begin
    best  = best1_q;
    index = index1_q;
    for (int i = 0; i < Lanes; i++) begin
      if ((first && i == 0) || ((i < Tail || !final_beat) && $signed(s_axis_tdata[i*Width+:Width]) > best)) begin
        best  = s_axis_tdata[i*Width+:Width];
        index = base_q + OutWidth'(i);
      end
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      beat_q   <= '0;
      base_q   <= '0;
      end1_q   <= 1'b0;
      valid2_q <= 1'b0;
    end else if (en) begin
      end1_q   <= s_axis_tvalid && final_beat;
      valid2_q <= end1_q;
      if (s_axis_tvalid) begin
        beat_q <= final_beat ? '0 : beat_q + 1'b1;
        base_q <= final_beat ? '0 : base_q + OutWidth'(Lanes);
      end
    end
    if (en) begin
      if (s_axis_tvalid) begin
        best1_q  <= best;
        index1_q <= index;
      end
      last1_q  <= s_axis_tlast;
      index2_q <= index1_q;
      last2_q  <= last1_q;
    end
  end

endmodule
