// Hard-swish on a stream of wide integers (operator WideHardSwish).
//
// Equation:  v = x * 2**Up, one = 2**Fraction; y = v where v >= 3 one, 0 where v <= -3 one, else
//            v * (v + 3 one) / (6 one), in every lane (OutWidth must hold x * 2**Up).
// Latency:   mx_pkg::hard_swish_latency(Fraction) cycles; one beat per cycle sustained.
// Rounding:  nearest, ties to even.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
module mx_hard_swish #(
  parameter int Width    = 20,
  parameter int OutWidth = 20,
  parameter int Up       = 0,
  parameter int Fraction = 16,
  parameter int Lanes    = 1
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

  if (Width < 2 || OutWidth < Width + Up || Up < 0 || Fraction < 1 || Fraction > 24 || Lanes < 1) begin : g_check
    $error("mx_hard_swish: Width = %0d, OutWidth = %0d, Up = %0d, Fraction = %0d, Lanes = %0d; expected %s", Width,
           OutWidth, Up, Fraction, Lanes, "OutWidth >= Width + Up, Fraction in 1..24");
  end

  localparam int Near    = Fraction + 3;  // bits of |v| and v + 3 one, within their bounds
  localparam int Product = 2 * Near;
  localparam int Whole   = Product - Fraction - 1;
  // floor(a / 3) = a * ceil(2**Places / 3) >> Places for every a of Whole bits.
  localparam int Places  = Whole + 2;
  localparam int First   = mx_pkg::wide_mul_latency(Near + 1, Near + 1);
  localparam int Second  = mx_pkg::wide_mul_latency(Whole + 1, Places + 1);
  localparam int Stages  = mx_pkg::hard_swish_latency(Fraction);
  localparam logic [Places-1:0] Third = Places'(((64'd1 << Places) + 64'd2) / 64'd3);
  localparam logic signed [63:0] Three = 64'sd3 << Fraction;

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
    logic signed [Width-1:0]           value;
    logic signed [63:0]                v;
    logic                              above, below, up;
    logic [Near-1:0]                   size1_q, factor1_q;
    logic signed [Product+1:0]         product;
    logic signed [Whole+Places+1:0]    times;
    logic [Second:1][1:0]              low_q;  // of the whole part: the rest needs no more
    logic [Second:1]                   more_q, half_q;
    logic [Whole-1:0]                  third, third_q;
    logic [1:0]                        rest_q;
    logic                              more_rest_q, half_rest_q;
    logic [Stages-1:1]                 sign_q, above_q;
    logic [Stages-1:1][Width-1:0]      value_q;
    logic signed [OutWidth-1:0]        result_q;

    assign value = s_axis_tdata[i*Width+:Width];
    assign v     = 64'(value) <<< Up;
    assign above = v >= Three;
    assign below = v <= -Three;

    mx_wide_mul #(.ABits(Near + 1), .BBits(Near + 1)) u_mul (
      .aclk, .en_i(en), .a_i({1'b0, size1_q}), .b_i({1'b0, factor1_q}), .product_o(product)
    );

    // product / (6 one) = (whole + part) / 3 with part below one.
    mx_wide_mul #(.ABits(Whole + 1), .BBits(Places + 1)) u_third (
      .aclk, .en_i(en), .a_i({1'b0, product[Fraction+1+:Whole]}), .b_i({1'b0, Third}), .product_o(times)
    );
    assign third = Whole'(times >> Places);

    assign up = rest_q == 2'd2 || (rest_q == 2'd1 && (more_rest_q || (half_rest_q && third_q[0])));

    always_ff @(posedge aclk) begin
      if (en) begin
        size1_q     <= (above || below) ? '0 : Near'(v < 0 ? -v : v);
        factor1_q   <= Near'(v + Three);
        low_q[1]    <= product[Fraction+1+:2];
        for (int k = 2; k <= Second; k++) low_q[k] <= low_q[k-1];
        more_q      <= Second'({more_q, product[Fraction] && |product[Fraction-1:0]});
        half_q      <= Second'({half_q, product[Fraction] && ~|product[Fraction-1:0]});
        third_q     <= third;
        rest_q      <= low_q[Second] - 2'(third * Whole'(3));
        more_rest_q <= more_q[Second];
        half_rest_q <= half_q[Second];
        sign_q      <= {sign_q[Stages-2:1], value[Width-1]};
        above_q     <= {above_q[Stages-2:1], above};
        value_q[1]  <= value;
        for (int k = 2; k < Stages; k++) value_q[k] <= value_q[k-1];
        // -(third + up) = ~third + !up
        result_q    <= above_q[Stages-1]
                       ? OutWidth'($signed(value_q[Stages-1])) <<< Up
                       : (OutWidth'(third_q) ^ {OutWidth{sign_q[Stages-1]}}) + OutWidth'(up ^ sign_q[Stages-1]);
      end
    end

    assign m_axis_tdata[i*OutWidth+:OutWidth] = result_q;
  end

endmodule
