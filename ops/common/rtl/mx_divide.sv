// Division of wide integers by a constant.
//
// Equation:  y = x * 2**Shift / Divisor, in every lane. The quotient of the magnitude is a product
//            with ceil(2**P / Divisor), exact because P is as long as the magnitude and the divisor.
// Latency:   4 cycles; one beat per cycle sustained.
// Rounding:  nearest, ties to even.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
module mx_divide #(
  parameter int Width    = 16,
  parameter int OutWidth = 16,
  parameter int Lanes    = 1,
  parameter int Divisor  = 9,
  parameter int Shift    = 4
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

  if (Width < 2 || OutWidth < 2 || Lanes < 1 || Divisor < 1 || Shift < 0) begin : g_check
    $error("mx_divide: Width = %0d, OutWidth = %0d, Lanes = %0d, Divisor = %0d, Shift = %0d; %s",
           Width, OutWidth, Lanes, Divisor, Shift, "expected Width, OutWidth >= 2, others positive");
  end

  localparam int Magnitude = Width + Shift;
  localparam int Places    = Magnitude + $clog2(Divisor);
  localparam int Product   = Magnitude + Places + 1;
  localparam int RestBits  = $clog2(Divisor) + 2;

  typedef logic [Magnitude-1:0] magnitude_t;
  typedef logic [Places:0]      places_t;

  localparam places_t Reciprocal =
      places_t'(((Product'(1) << Places) + Product'(Divisor - 1)) / Product'(Divisor));

  logic       en;
  logic [4:1] valid_q, last_q;

  assign en            = !valid_q[4] || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = valid_q[4];
  assign m_axis_tlast  = last_q[4];

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[3:1], s_axis_tvalid};
    if (en) last_q <= {last_q[3:1], s_axis_tlast};
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [Width-1:0]    value;
    magnitude_t                 magnitude1_q, magnitude2_q, quotient2, quotient3_q, rounded;
    logic [Product-1:0]         product2_q;
    logic [RestBits-1:0]        rest3_q;
    logic [3:1]                 sign_q;
    logic                       up;
    logic signed [OutWidth-1:0] result_q;

    assign value     = s_axis_tdata[i*Width+:Width];
    assign quotient2 = magnitude_t'(product2_q >> Places);
    // The rest decides as a whole number: twice the rest against the divisor.
    assign up        = {rest3_q, 1'b0} > (RestBits + 1)'(Divisor)
                       || ({rest3_q, 1'b0} == (RestBits + 1)'(Divisor) && quotient3_q[0]);
    assign rounded   = quotient3_q + magnitude_t'(up);

    always_ff @(posedge aclk) begin
      if (en) begin
        magnitude1_q <= magnitude_t'(Width'(value[Width-1] ? -value : value)) << Shift;
        product2_q   <= Product'(magnitude1_q) * Product'(Reciprocal);
        magnitude2_q <= magnitude1_q;
        quotient3_q  <= quotient2;
        rest3_q      <= RestBits'(magnitude2_q - quotient2 * magnitude_t'(Divisor));
        sign_q       <= {sign_q[2:1], value[Width-1]};
        result_q     <= sign_q[3] ? -OutWidth'(rounded) : OutWidth'(rounded);
      end
    end

    assign m_axis_tdata[i*OutWidth+:OutWidth] = result_q;
  end

endmodule
