// Leaky ReLU on a stream of wide integers (operator WideLeakyRelu).
//
// Equation:  y = x where x >= 0, else x * Slope / 2**Shift, in every lane.
// Latency:   mx_pkg::wide_mul_latency(Width + 1, $clog2(Slope + 1) + 1) + 2 cycles; one beat per cycle sustained.
// Rounding:  nearest, ties to even, of negative values.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
module mx_leaky_relu #(
  parameter int Width = 32,
  parameter int Slope = 1,   // 0 .. 2**24 - 1
  parameter int Shift = 4,
  parameter int Lanes = 1
) (
  input  logic                   aclk,
  input  logic                   aresetn,

  input  logic                   s_axis_tvalid,
  output logic                   s_axis_tready,
  input  logic [Lanes*Width-1:0] s_axis_tdata,
  input  logic                   s_axis_tlast,

  output logic                   m_axis_tvalid,
  input  logic                   m_axis_tready,
  output logic [Lanes*Width-1:0] m_axis_tdata,
  output logic                   m_axis_tlast
);

  if (Width < 2 || Lanes < 1 || Slope < 0 || Slope >= (1 << 24) || Shift < 0) begin : g_check
    $error("mx_leaky_relu: Width = %0d, Slope = %0d, Shift = %0d, Lanes = %0d; expected %s",
           Width, Slope, Shift, Lanes, "Width >= 2, Slope in 0..2**24-1, Shift >= 0");
  end

  localparam int SlopeBits = (Slope > 0) ? $clog2(Slope + 1) + 1 : 2;
  localparam int Product   = Width + 1 + SlopeBits;
  localparam int Multiply  = mx_pkg::wide_mul_latency(Width + 1, SlopeBits);
  localparam int Stages    = Multiply + 2;

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
    logic signed [Width-1:0]         value, last_value, result_q;
    logic [Multiply+1:1][Width-1:0]  value_q;
    logic [Width-1:0]                magnitude1_q;  // of a negative value
    logic signed [Product-1:0]       product;
    logic [Product-1:0]              kept;
    logic [Product+Shift-1:0]        rest;
    logic                            up;

    assign value      = s_axis_tdata[i*Width+:Width];
    assign last_value = value_q[Multiply+1];
    assign kept       = $unsigned(product) >> Shift;

    if (Shift == 0) begin : g_whole
      assign rest = '0;
      assign up   = 1'b0;
    end else begin : g_round
      // The bits below the result, against one half of its lowest bit.
      assign rest = (Product + Shift)'($unsigned(product)) & (((Product + Shift)'(1) << Shift) - 1'b1);
      assign up   = rest > ((Product + Shift)'(1) << (Shift - 1))
                    || (rest == ((Product + Shift)'(1) << (Shift - 1)) && kept[0]);
    end

    mx_wide_mul #(.ABits(Width + 1), .BBits(SlopeBits)) u_mul (
      .aclk, .en_i(en), .a_i({1'b0, magnitude1_q}), .b_i(SlopeBits'(Slope)), .product_o(product)
    );

    always_ff @(posedge aclk) begin
      if (en) begin
        value_q[1]   <= value;
        for (int k = 2; k <= Multiply + 1; k++) value_q[k] <= value_q[k-1];
        magnitude1_q <= -value;
        // -(kept + up) = ~kept + !up
        result_q     <= last_value[Width-1] ? ~Width'(kept) + Width'(!up) : last_value;
      end
    end

    assign m_axis_tdata[i*Width+:Width] = result_q;
  end

endmodule
