// Lane width converter of vectors that take several beats on one side (mx_lanes).
//
// Equation:  that of mx_lanes.
// Latency:   1 cycle; one beat per cycle sustained on the narrow side.
// Handshake: as mx_lanes; s_axis_tready depends on m_axis_tready.
module mx_turn_lanes #(
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
      (InLanes % OutLanes != 0 && OutLanes % InLanes != 0)) begin : g_check
    $error("mx_turn_lanes: InLanes = %0d, OutLanes = %0d, ElemWidth = %0d, K = %0d; expected %s", InLanes, OutLanes,
           ElemWidth, K, "positive numbers and one lane count a multiple of the other");
  end

  localparam int OutWidth = OutLanes * ElemWidth;
  localparam int InBeats  = mx_pkg::ceil_div(K, InLanes);  // of a vector
  localparam int BeatBits = mx_pkg::index_bits(InBeats);

  logic                valid_q, last_q, take, vector_end;
  logic [BeatBits-1:0] beat_q;

  assign m_axis_tvalid = valid_q;
  assign take          = s_axis_tvalid && s_axis_tready;
  assign vector_end    = beat_q == BeatBits'(InBeats - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) beat_q <= '0;
    else if (take) beat_q <= vector_end ? '0 : beat_q + 1'b1;
  end

  if (SideWidth > 0) begin : g_side
    logic [SideWidth-1:0] side_q;
    always_ff @(posedge aclk) if (take) side_q <= s_axis_tdata[InLanes*ElemWidth+:SideWidth];
    assign m_axis_tdata[OutWidth+:SideWidth] = side_q;
  end

  if (InLanes > OutLanes) begin : g_narrow
    localparam int Ratio    = InLanes / OutLanes;
    // Output beats of the last input beat of a vector.
    localparam int Tail     = mx_pkg::ceil_div((K - 1) % InLanes + 1, OutLanes);
    localparam int PartBits = $clog2(Ratio);

    logic [InLanes*ElemWidth-1:0] data_q;
    logic [PartBits-1:0]          part_q;
    logic                         tail_q, final_part;

    assign final_part    = part_q == PartBits'(tail_q ? Tail - 1 : Ratio - 1);
    assign s_axis_tready = !valid_q || (m_axis_tready && final_part);
    assign m_axis_tdata[OutWidth-1:0] = data_q[OutWidth-1:0];
    assign m_axis_tlast  = last_q && final_part;

    always_ff @(posedge aclk) begin
      if (s_axis_tready) begin
        data_q <= s_axis_tdata[InLanes*ElemWidth-1:0];
        last_q <= s_axis_tlast;
        tail_q <= vector_end;
      end else if (m_axis_tready) begin
        data_q <= data_q >> OutWidth;
      end
    end

    always_ff @(posedge aclk) begin
      if (!aresetn) begin
        valid_q <= 1'b0;
        part_q  <= '0;
      end else if (s_axis_tready) begin
        valid_q <= s_axis_tvalid;
        part_q  <= '0;
      end else if (m_axis_tready) begin
        part_q  <= part_q + 1'b1;
      end
    end
  end else begin : g_widen
    localparam int Ratio    = OutLanes / InLanes;
    localparam int InWidth  = InLanes * ElemWidth;
    localparam int PartBits = mx_pkg::index_bits(Ratio);

    logic [Ratio-1:0][InWidth-1:0] data_q;
    logic [PartBits-1:0]           part_q;
    logic                          final_part;

    assign s_axis_tready = !valid_q || m_axis_tready;
    assign final_part    = vector_end || part_q == PartBits'(Ratio - 1);
    assign m_axis_tdata[OutWidth-1:0] = data_q;
    assign m_axis_tlast  = last_q;

    for (genvar i = 0; i < Ratio; i++) begin : g_part
      always_ff @(posedge aclk) begin
        if (take && part_q == PartBits'(i)) data_q[i] <= s_axis_tdata[InWidth-1:0];
      end
    end

    always_ff @(posedge aclk) begin
      if (take) last_q <= s_axis_tlast;
      if (!aresetn) begin
        valid_q <= 1'b0;
        part_q  <= '0;
      end else if (s_axis_tready) begin
        valid_q <= s_axis_tvalid && final_part;
        if (s_axis_tvalid) part_q <= final_part ? '0 : part_q + 1'b1;
      end
    end
  end

endmodule
