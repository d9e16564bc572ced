// A constant of its own for every place of a frame of wide integers (operator WideOffset).
//
// Equation:  y = x * 2**XShift + offset[place] in every lane; exact (OutWidth must hold it).
// Frames:    Beats beats in and out, counted.
// Latency:   2 cycles; one beat per cycle sustained.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
// Memory:    $readmemh file: word (beat of the frame) field l = constant of lane l.
module mx_offset #(
  parameter int Width       = 16,
  parameter int OffsetWidth = 16,
  parameter int OutWidth    = 18,
  parameter int XShift      = 0,
  parameter int Beats       = 1,
  parameter int Lanes       = 1,
  parameter string OffsetFile = ""
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

  if (Width < 2 || OffsetWidth < 2 || OutWidth < 2 || XShift < 0 || Beats < 1 || Lanes < 1) begin : g_check
    $error("mx_offset: Width = %0d, OffsetWidth = %0d, XShift = %0d, Beats = %0d, Lanes = %0d; %s",
           Width, OffsetWidth, XShift, Beats, Lanes, "expected widths >= 2, XShift >= 0, others positive");
  end

  localparam int BeatBits = mx_pkg::index_bits(Beats);

  logic                en;
  logic [1:0]          valid_q, last_q;
  logic [BeatBits-1:0] beat_q;

  assign en            = !valid_q[1] || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = valid_q[1];
  assign m_axis_tlast  = last_q[1];

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      valid_q <= '0;
      beat_q  <= '0;
    end else if (en) begin
      valid_q <= {valid_q[0], s_axis_tvalid};
      if (s_axis_tvalid) beat_q <= (beat_q == BeatBits'(Beats - 1)) ? '0 : beat_q + 1'b1;
    end
    if (en) last_q <= {last_q[0], s_axis_tlast};
  end

  logic [Lanes-1:0][OffsetWidth-1:0] offset;

  mx_rom #(
    .Width(Lanes * OffsetWidth), .Depth(Beats), .BlockDepth(256), .File(OffsetFile)
  ) u_offset (
    .aclk, .en_i(en), .addr_i(beat_q), .data_o(offset)
  );

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [Width-1:0]    value_q;
    logic signed [OutWidth-1:0] sum_q;

    always_ff @(posedge aclk) begin
      if (en) begin
        value_q <= s_axis_tdata[i*Width+:Width];
        sum_q   <= (OutWidth'(value_q) <<< XShift) + OutWidth'($signed(offset[i]));
      end
    end

    assign m_axis_tdata[i*OutWidth+:OutWidth] = sum_q;
  end

endmodule
