// Which channel of every vector holds the largest wide integer (operator WideArgMax).
//
// Equation:  y = the lowest c with x[c] = max(x).
// Frames:    vectors of ceil(K/Lanes) beats in, one beat of one value each out.
// Latency:   2 + $clog2(Lanes) cycles from the last beat of a vector; one beat per cycle sustained.
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

  localparam int Levels = $clog2(Lanes);

  // Where a beat stands: with it through the levels below.
  typedef struct packed {
    logic                valid;
    logic                first;
    logic                final_beat;
    logic                last;
    logic [OutWidth-1:0] base;  // channel of lane 0
  } place_t;

  logic                en, final_beat;
  logic [BeatBits-1:0] beat_q;
  logic [OutWidth-1:0] base_q;
  place_t [Levels:0]   place;

  assign s_axis_tready = en;
  assign final_beat    = beat_q == BeatBits'(Beats - 1);
  assign place[0]      = '{
    valid: s_axis_tvalid, first: beat_q == '0, final_beat: final_beat, last: s_axis_tlast, base: base_q
  };

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      beat_q <= '0;
      base_q <= '0;
    end else if (en && s_axis_tvalid) begin
      beat_q <= final_beat ? '0 : beat_q + 1'b1;
      base_q <= final_beat ? '0 : base_q + OutWidth'(Lanes);
    end
  end

  // The best lane of a beat, by twos; of equal ones the lower.
  for (genvar l = 0; l <= Levels; l++) begin : g_level
    localparam int Count = mx_pkg::ceil_div(Lanes, 1 << l);
    logic signed [Width-1:0] value [Count];
    logic [OutWidth-1:0]     lane  [Count];
    logic                    there [Count];

    for (genvar i = 0; i < Count; i++) begin : g_pair
      if (l == 0) begin : g_in
        assign value[i] = s_axis_tdata[i*Width+:Width];
        assign lane[i]  = OutWidth'(i);
        assign there[i] = i < Tail || !final_beat;
      end else begin : g_best
        localparam int Below = mx_pkg::ceil_div(Lanes, 1 << (l - 1));
        logic second;
        if (2 * i + 1 < Below) begin : g_two
          assign second = g_level[l-1].there[2*i+1] && g_level[l-1].value[2*i+1] > g_level[l-1].value[2*i];
        end else begin : g_one
          assign second = 1'b0;
        end
        localparam int Other = (2 * i + 1 < Below) ? 2 * i + 1 : 2 * i;
        always_ff @(posedge aclk) begin
          if (en) begin
            value[i] <= second ? g_level[l-1].value[Other] : g_level[l-1].value[2*i];
            lane[i]  <= second ? g_level[l-1].lane[Other] : g_level[l-1].lane[2*i];
            there[i] <= g_level[l-1].there[2*i];
          end
        end
      end
    end

    if (l > 0) begin : g_place
      always_ff @(posedge aclk) begin
        if (!aresetn) place[l].valid <= 1'b0;
        else if (en) place[l].valid <= place[l-1].valid;
        if (en) begin
          place[l].first      <= place[l-1].first;
          place[l].final_beat <= place[l-1].final_beat;
          place[l].last       <= place[l-1].last;
          place[l].base       <= place[l-1].base;
        end
      end
    end
  end

  // The best beat of a vector.
  logic                    end1_q, last1_q, valid2_q, last2_q;
  logic signed [Width-1:0] best1_q;
  logic [OutWidth-1:0]     index1_q, index2_q;

  assign en            = !valid2_q || m_axis_tready;
  assign m_axis_tvalid = valid2_q;
  assign m_axis_tdata  = index2_q;
  assign m_axis_tlast  = last2_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      end1_q   <= 1'b0;
      valid2_q <= 1'b0;
    end else if (en) begin
      end1_q   <= place[Levels].valid && place[Levels].final_beat;
      valid2_q <= end1_q;
    end
    if (en) begin
      if (place[Levels].valid && (place[Levels].first || g_level[Levels].value[0] > best1_q)) begin
        best1_q  <= g_level[Levels].value[0];
        index1_q <= place[Levels].base + g_level[Levels].lane[0];
      end
      last1_q  <= place[Levels].last;
      index2_q <= index1_q;
      last2_q  <= last1_q;
    end
  end

endmodule
