// A one or a zero for all channels of a vector, as its key says (operator WideKeep).
//
// Equation:  y = 1 in every lane where the key is above zero with Keep = 1, or is not with Keep = 0; else 0.
// Frames:    one key a vector in, vectors of ceil(K/Lanes) beats out.
// Latency:   1 cycle; one beat per cycle sustained.
// Handshake: AXI4-Stream; a key is taken with the last beat of its vector. s_axis_tready depends on m_axis_tready.
module mx_keep #(
  parameter int Width = 2,
  parameter int K     = 1,
  parameter int Keep  = 1,
  parameter int Lanes = 1
) (
  input  logic               aclk,
  input  logic               aresetn,

  input  logic               s_axis_tvalid,
  output logic               s_axis_tready,
  input  logic [Width-1:0]   s_axis_tdata,
  input  logic               s_axis_tlast,

  output logic               m_axis_tvalid,
  input  logic               m_axis_tready,
  output logic [Lanes*2-1:0] m_axis_tdata,
  output logic               m_axis_tlast
);

  if (Width < 2 || K < 1 || Keep < 0 || Keep > 1 || Lanes < 1) begin : g_check
    $error("mx_keep: Width = %0d, K = %0d, Keep = %0d, Lanes = %0d; expected Width >= 2, Keep 0 or 1, others positive",
           Width, K, Keep, Lanes);
  end

  localparam int Beats    = mx_pkg::ceil_div(K, Lanes);
  localparam int BeatBits = mx_pkg::index_bits(Beats);

  logic [BeatBits-1:0] beat_q;
  logic                en, last, above;

  assign en            = !m_axis_tvalid || m_axis_tready;
  assign last          = beat_q == BeatBits'(Beats - 1);
  assign above         = !s_axis_tdata[Width-1] && s_axis_tdata[Width-2:0] != '0;
  assign s_axis_tready = en && last;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      m_axis_tvalid <= 1'b0;
      beat_q        <= '0;
    end else if (en) begin
      m_axis_tvalid <= s_axis_tvalid;
      if (s_axis_tvalid) beat_q <= last ? '0 : beat_q + 1'b1;
    end
    if (en) begin
      m_axis_tdata <= {Lanes{1'b0, above == (Keep != 0)}};
      m_axis_tlast <= s_axis_tlast && last;
    end
  end

endmodule
