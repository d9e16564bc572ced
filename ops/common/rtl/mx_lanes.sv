// Lane width converter: vectors of K elements, InLanes per beat -> OutLanes per beat.
//
// Equation:  element k of a vector travels in lane k % InLanes of input beat k / InLanes and in lane
//            k % OutLanes of output beat k / OutLanes. A vector is ceil(K/InLanes) beats in and
//            ceil(K/OutLanes) beats out; surplus lanes of its last beat are undefined. SideWidth
//            bits above the lanes, equal in all beats that meet in one, go along (a block's scale).
//            Where both hold a whole vector, surplus lanes are cut off or added.
// Latency:   1 cycle; one beat per cycle sustained on the narrow side. Combinational where both hold a
//            whole vector.
// Handshake: AXI4-Stream; vectors are counted, s_axis_tlast ends the input frame, m_axis_tlast the
//            output frame; s_axis_tready depends on m_axis_tready.
module mx_lanes #(
  parameter int InLanes   = 4,
  parameter int OutLanes  = 2,
  parameter int ElemWidth = 8,
  parameter int K         = 4,
  parameter int SideWidth = 0
) (
  input  logic                          aclk,
  input  logic                          aresetn,

  input  logic                          s_axis_tvalid,
  output logic                          s_axis_tready,
  input  logic [SideWidth+InLanes*ElemWidth-1:0] s_axis_tdata,
  input  logic                          s_axis_tlast,

  output logic                          m_axis_tvalid,
  input  logic                          m_axis_tready,
  output logic [SideWidth+OutLanes*ElemWidth-1:0] m_axis_tdata,
  output logic                          m_axis_tlast
);

  if (InLanes < 1 || OutLanes < 1 || ElemWidth < 1 || K < 1 || SideWidth < 0 ||
      (InLanes % OutLanes != 0 && OutLanes % InLanes != 0 && (InLanes < K || OutLanes < K))) begin : g_check
    $error("mx_lanes: InLanes = %0d, OutLanes = %0d, ElemWidth = %0d, K = %0d; expected %s",
           InLanes, OutLanes, ElemWidth, K,
           "positive numbers and one lane count a multiple of the other, or both K or more");
  end

  if (InLanes >= K && OutLanes >= K) begin : g_cut
    logic unused;
    assign unused        = ^{aclk, aresetn};
    assign s_axis_tready = m_axis_tready;
    assign m_axis_tvalid = s_axis_tvalid;
    assign m_axis_tlast  = s_axis_tlast;
    assign m_axis_tdata[OutLanes*ElemWidth-1:0] = (OutLanes * ElemWidth)'(s_axis_tdata[InLanes*ElemWidth-1:0]);
    if (SideWidth > 0) begin : g_side
      assign m_axis_tdata[OutLanes*ElemWidth+:SideWidth] = s_axis_tdata[InLanes*ElemWidth+:SideWidth];
    end
  end else begin : g_turn
    mx_turn_lanes #(
      .InLanes(InLanes), .OutLanes(OutLanes), .ElemWidth(ElemWidth), .K(K), .SideWidth(SideWidth)
    ) u_turn (.*);
  end

endmodule
