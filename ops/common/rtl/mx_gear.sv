// Words out of the beats of a bus: a word is a whole number of beats, or a beat a whole number of words.
//
// Equation:  words of Width bits, Words of them and so on anew. Where Width >= Bus, each comes in ceil(Width/Bus)
//            beats, the low bits first; else floor(Bus/Width) come in a beat, from the low bits on, and the last beat
//            of Words words may hold fewer. Bits left over are not read.
// Latency:   1 cycle from the last beat of a word; a beat per cycle, or a word per cycle, sustained.
// Handshake: AXI4-Stream without TLAST; s_axis_tready depends on m_axis_tready.
module mx_gear #(
  parameter int Bus   = 32,
  parameter int Width = 8,
  parameter int Words = 4
) (
  input  logic             aclk,
  input  logic             aresetn,

  input  logic             s_axis_tvalid,
  output logic             s_axis_tready,
  input  logic [Bus-1:0]   s_axis_tdata,

  output logic             m_axis_tvalid,
  input  logic             m_axis_tready,
  output logic [Width-1:0] m_axis_tdata
);

  if (Bus < 1 || Width < 1 || Words < 1) begin : g_check
    $error("mx_gear: Bus = %0d, Width = %0d, Words = %0d; expected at least 1 each", Bus, Width, Words);
  end

  logic put;

  assign put = s_axis_tvalid && s_axis_tready;

  if (Width >= Bus) begin : g_gather
    localparam int Beats = mx_pkg::ceil_div(Width, Bus);
    logic [Beats-1:0][Bus-1:0] beats_q;
    logic                      valid_q, whole;

    assign s_axis_tready = !valid_q || m_axis_tready;

    mx_count #(.Count(Beats)) u_beat (.aclk, .aresetn, .step_i(put), .last_o(whole));

    always_ff @(posedge aclk) begin
      if (!aresetn) valid_q <= 1'b0;
      else if (put) valid_q <= whole;
      else if (m_axis_tready) valid_q <= 1'b0;
      if (put) beats_q <= (Beats * Bus)'({s_axis_tdata, beats_q} >> Bus);
    end

    assign m_axis_tvalid = valid_q;
    assign m_axis_tdata  = Width'(beats_q);
  end else begin : g_spread
    localparam int Each     = Bus / Width;  // words of a beat
    localparam int EachBits = mx_pkg::index_bits(Each + 1);
    localparam int LastEach = (Words - 1) % Each + 1;  // of the last beat of Words words
    logic [Each*Width-1:0] beat_q;
    logic [EachBits-1:0]   left_q;
    logic                  ending, take;

    assign take          = m_axis_tvalid && m_axis_tready;
    assign s_axis_tready = left_q == '0 || (left_q == EachBits'(1) && m_axis_tready);

    mx_count #(.Count(mx_pkg::ceil_div(Words, Each))) u_beat (.aclk, .aresetn, .step_i(put), .last_o(ending));

    always_ff @(posedge aclk) begin
      if (!aresetn) left_q <= '0;
      else if (put) left_q <= ending ? EachBits'(LastEach) : EachBits'(Each);
      else if (take) left_q <= left_q - 1'b1;
      if (put) beat_q <= s_axis_tdata[Each*Width-1:0];
      else if (take) beat_q <= (Each * Width)'({Width'(0), beat_q} >> Width);
    end

    assign m_axis_tvalid = left_q != '0;
    assign m_axis_tdata  = beat_q[Width-1:0];
  end

endmodule
