// Values of a stream of wide integers kept between two bounds (operator WideClip): ReLU6 and its like.
//
// Equation:  y = min(max(x, Low), High) in every lane; exact.
// Latency:   0 cycles (combinational).
// Handshake: AXI4-Stream; valid, ready and last pass through.
module mx_clip #(
  parameter int Width     = 32,
  parameter int OutWidth  = 32,
  parameter int LowUpper  = 0,  // the bounds, 64 bits each in two words
  parameter int LowLower  = 0,
  parameter int HighUpper = 0,
  parameter int HighLower = 6,
  parameter int Lanes     = 1
) (
  input  logic                      s_axis_tvalid,
  output logic                      s_axis_tready,
  input  logic [Lanes*Width-1:0]    s_axis_tdata,
  input  logic                      s_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast
);

  localparam logic signed [63:0] Low  = {LowUpper, LowLower};
  localparam logic signed [63:0] High = {HighUpper, HighLower};

  if (Width < 2 || OutWidth < 2 || Lanes < 1 || Low > High) begin : g_check
    $error("mx_clip: Width = %0d, OutWidth = %0d, Low = %0d, High = %0d, Lanes = %0d; expected %s",
           Width, OutWidth, Low, High, Lanes, "widths >= 2, Lanes >= 1 and Low <= High");
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [Width-1:0] value;
    logic signed [63:0]      wide, kept;
    assign value = s_axis_tdata[i*Width+:Width];
    assign wide  = 64'(value);
    assign kept  = (wide < Low) ? Low : (wide > High) ? High : wide;
    assign m_axis_tdata[i*OutWidth+:OutWidth] = OutWidth'(kept);
  end

  assign m_axis_tvalid = s_axis_tvalid;
  assign s_axis_tready = m_axis_tready;
  assign m_axis_tlast  = s_axis_tlast;

endmodule
