// Border of an output: values into slots of whole bytes, and no frame of an input whose TLAST was misplaced.
//
// Equation:  slot = value, sign-extended. A frame is dropped where its verdict is there before its first beat and
//            any input says bad; a frame that begins to leave before its inputs have ended leaves whole.
// Latency:   0 cycles (combinational).
// Handshake: AXI4-Stream; a beat that is offered stays. Every frame takes one verdict of each input. dropped_o counts
//            the frames left out and stops at its largest value.
module mx_egress #(
  parameter int Width  = 8,
  parameter int Slot   = 8,
  parameter int Lanes  = 1,
  parameter int Inputs = 1
) (
  input  logic                   aclk,
  input  logic                   aresetn,

  input  logic                   s_axis_tvalid,
  output logic                   s_axis_tready,
  input  logic [Lanes*Width-1:0] s_axis_tdata,
  input  logic                   s_axis_tlast,

  output logic                   m_axis_tvalid,
  input  logic                   m_axis_tready,
  output logic [Lanes*Slot-1:0]  m_axis_tdata,
  output logic                   m_axis_tlast,

  input  logic [Inputs-1:0]      verdict_tvalid,
  output logic [Inputs-1:0]      verdict_tready,
  input  logic [Inputs-1:0]      verdict_tdata,
  input  logic [Inputs-1:0]      verdict_tlast,

  output logic [31:0]            dropped_o
);

  if (Width < 1 || Slot < Width || Lanes < 1 || Inputs < 1) begin : g_check
    $error("mx_egress: Width = %0d, Slot = %0d, Lanes = %0d, Inputs = %0d; expected Slot >= Width >= 1", Width, Slot,
           Lanes, Inputs);
  end

  // Verdicts still to come of frames that have left.
  logic [15:0] owed_q;
  logic        inside_q, drop_q;  // inside a frame, of which it is decided whether it is dropped
  logic        judged, drop, take, leave, pop, late;
  logic        unused_last;

  assign unused_last    = ^verdict_tlast;
  assign judged         = &verdict_tvalid;
  assign late           = owed_q != '0;
  assign drop           = inside_q ? drop_q : (judged && !late && |verdict_tdata);
  assign m_axis_tvalid  = s_axis_tvalid && !drop;
  assign s_axis_tready  = drop || m_axis_tready;
  assign m_axis_tlast   = s_axis_tlast;
  assign take           = s_axis_tvalid && s_axis_tready;
  assign leave          = take && s_axis_tlast;
  assign pop            = judged && (late || leave);
  assign verdict_tready = {Inputs{pop}};

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    assign m_axis_tdata[i*Slot+:Slot] = Slot'($signed(s_axis_tdata[i*Width+:Width]));
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      owed_q    <= '0;
      inside_q  <= 1'b0;
      drop_q    <= 1'b0;
      dropped_o <= '0;
    end else begin
      if (s_axis_tvalid) begin
        inside_q <= !leave;
        drop_q   <= drop;
      end
      owed_q <= owed_q + 16'(leave) - 16'(pop);
      if (leave && drop && dropped_o != '1) dropped_o <= dropped_o + 1'b1;
    end
  end

endmodule
