// Division of wide integers by a constant.
//
// Equation:  y = x * 2**Shift / Divisor, in every lane. The quotient of the magnitude is a product
//            with ceil(2**P / Divisor), exact because P is as long as the magnitude and the divisor.
// Latency:   mx_pkg::divide_latency(Width, Shift) cycles; one beat per cycle sustained.
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
  localparam int Multiply  = mx_pkg::wide_mul_latency(Width + 1, Magnitude + 2);
  localparam int Stages    = mx_pkg::divide_latency(Width, Shift);

  typedef logic [Magnitude-1:0] magnitude_t;
  typedef logic [Magnitude+1:0] factor_t;

  // Of Magnitude + 1 bits, as the divisor is between two powers of two.
  localparam factor_t Reciprocal =
      factor_t'(((Product'(1) << Places) + Product'(Divisor - 1)) / Product'(Divisor));

  logic            en;
  logic [Stages:1] valid_q, last_q;

  assign en            = !valid_q[Stages] || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = valid_q[Stages];
  assign m_axis_tlast  = last_q[Stages];

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[Stages-1:1], s_axis_tvalid};
    if (en) last_q <= {last_q[Stages-1:1], s_axis_tlast};
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [Width-1:0]                   value;
    logic [Width-1:0]                          magnitude1_q;
    magnitude_t                                quotient, quotient_times_q, quotient_rest_q;
    logic signed [Width+Magnitude+2:0]         product;
    logic [Multiply+1:1][RestBits-1:0]         low_q;  // of the magnitude: the rest needs no more
    logic [RestBits-1:0]                       times_q, rest_q;
    logic [Stages-1:1]                         sign_q;
    logic                                      up;
    logic signed [OutWidth-1:0]                result_q;

    assign value    = s_axis_tdata[i*Width+:Width];
    assign quotient = magnitude_t'(product >> (Places - Shift));
    // The rest decides as a whole number: twice the rest against the divisor.
    assign up       = {rest_q, 1'b0} > (RestBits + 1)'(Divisor)
                      || ({rest_q, 1'b0} == (RestBits + 1)'(Divisor) && quotient_rest_q[0]);

    mx_wide_mul #(.ABits(Width + 1), .BBits(Magnitude + 2)) u_mul (
      .aclk, .en_i(en), .a_i({1'b0, magnitude1_q}), .b_i(Reciprocal), .product_o(product)
    );

    always_ff @(posedge aclk) begin
      if (en) begin
        magnitude1_q     <= value[Width-1] ? -value : value;
        low_q[1]         <= RestBits'(magnitude_t'(magnitude1_q) << Shift);
        for (int k = 2; k <= Multiply + 1; k++) low_q[k] <= low_q[k-1];
        quotient_times_q <= quotient;
        times_q          <= RestBits'(mx_pkg::times(int'(RestBits'(quotient)), Divisor));
        quotient_rest_q  <= quotient_times_q;
        rest_q           <= low_q[Multiply+1] - times_q;
        sign_q           <= {sign_q[Stages-2:1], value[Width-1]};
        // -(q + up) = ~q + !up
        result_q         <= (OutWidth'(quotient_rest_q) ^ {OutWidth{sign_q[Stages-1]}})
                            + OutWidth'(up ^ sign_q[Stages-1]);
      end
    end

    assign m_axis_tdata[i*OutWidth+:OutWidth] = result_q;
  end

endmodule
