// Leaky ReLU on a stream of wide integers (operator WideLeakyRelu).
//
// Equation:  y = x where x >= 0, else x * Slope / 2**Shift, in every lane.
// Latency:   3 cycles; one beat per cycle sustained.
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

  localparam int Product = Width + 24;

  logic       en;
  logic [3:1] valid_q, last_q;

  assign en            = !valid_q[3] || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = valid_q[3];
  assign m_axis_tlast  = last_q[3];

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[2:1], s_axis_tvalid};
    if (en) last_q <= {last_q[2:1], s_axis_tlast};
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    logic signed [Width-1:0]   value, value1_q, value2_q, result_q;
    logic [Product-1:0]        product2_q, kept;
    logic [Product+Shift-1:0]  rest;
    logic                      up;

    assign value = s_axis_tdata[i*Width+:Width];
    assign kept  = product2_q >> Shift;

    if (Shift == 0) begin : g_whole
      assign rest = '0;
      assign up   = 1'b0;
    end else begin : g_round
      // The bits below the result, against one half of its lowest bit.
      assign rest = (Product + Shift)'(product2_q) & (((Product + Shift)'(1) << Shift) - 1'b1);
      assign up   = rest > ((Product + Shift)'(1) << (Shift - 1))
                    || (rest == ((Product + Shift)'(1) << (Shift - 1)) && kept[0]);
    end

    always_ff @(posedge aclk) begin
      if (en) begin
        value1_q   <= value;
        value2_q   <= value1_q;
        product2_q <= Product'($unsigned(Width'(-value1_q))) * Product'(Slope);
        result_q   <= value2_q[Width-1] ? -Width'(kept + Product'(up)) : value2_q;
      end
    end

    assign m_axis_tdata[i*Width+:Width] = result_q;
  end

endmodule
