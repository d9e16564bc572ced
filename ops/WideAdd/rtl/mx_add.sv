// Sum of two streams of wide integers (operator WideAdd).
//
// Equation:  y = (a << AShift) + (b << BShift) in every lane; exact (OutWidth must hold the result).
// Latency:   1 cycle; one beat per cycle sustained.
// Rounding:  none.
// Handshake: AXI4-Stream; a beat is taken from both inputs at once. error_o is sticky: the inputs
//            ended a frame at different beats. Both s*_axis_tready depend on m_axis_tready.
module mx_add #(
  parameter int AWidth   = 16,
  parameter int BWidth   = 16,
  parameter int AShift   = 0,
  parameter int BShift   = 0,
  parameter int OutWidth = 17,
  parameter int Lanes    = 1
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s0_axis_tvalid,
  output logic                      s0_axis_tready,
  input  logic [Lanes*AWidth-1:0]   s0_axis_tdata,
  input  logic                      s0_axis_tlast,

  input  logic                      s1_axis_tvalid,
  output logic                      s1_axis_tready,
  input  logic [Lanes*BWidth-1:0]   s1_axis_tdata,
  input  logic                      s1_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast,

  output logic                      error_o
);

  if (AWidth < 2 || BWidth < 2 || AShift < 0 || BShift < 0 || OutWidth < 2 || Lanes < 1) begin : g_check
    $error("mx_add: AWidth = %0d, BWidth = %0d, AShift = %0d, BShift = %0d, OutWidth = %0d; %s",
           AWidth, BWidth, AShift, BShift, OutWidth, "expected widths >= 2 and shifts >= 0");
  end

  logic en, take;
  assign en             = !m_axis_tvalid || m_axis_tready;
  assign take           = en && s0_axis_tvalid && s1_axis_tvalid;
  assign s0_axis_tready = take;
  assign s1_axis_tready = take;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      m_axis_tvalid <= 1'b0;
      error_o       <= 1'b0;
    end else begin
      if (en) m_axis_tvalid <= take;
      if (take && s0_axis_tlast != s1_axis_tlast) error_o <= 1'b1;
    end
    if (take) m_axis_tlast <= s0_axis_tlast;
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [AWidth-1:0] a;
    logic signed [BWidth-1:0] b;
    assign a = s0_axis_tdata[i*AWidth+:AWidth];
    assign b = s1_axis_tdata[i*BWidth+:BWidth];
    always_ff @(posedge aclk) begin
      if (take) begin
        m_axis_tdata[i*OutWidth+:OutWidth] <= (OutWidth'(a) <<< AShift) + (OutWidth'(b) <<< BShift);
      end
    end
  end

endmodule
