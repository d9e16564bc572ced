// Hard-swish on a stream of wide integers (operator WideHardSwish).
//
// Equation:  v = x * 2**Up, one = 2**Fraction; y = v where v >= 3 one, 0 where v <= -3 one, else
//            v * (v + 3 one) / (6 one), in every lane (OutWidth must hold x * 2**Up).
// Latency:   4 cycles; one beat per cycle sustained.
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
  localparam logic [Places-1:0] Third = Places'(((64'd1 << Places) + 64'd2) / 64'd3);
  localparam logic signed [63:0] Three = 64'sd3 << Fraction;

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
    logic signed [Width-1:0]      value;
    logic signed [63:0]           v;
    logic                         above, below;
    logic [Near-1:0]              size1_q, factor1_q;
    logic [Product-1:0]           product2_q;
    logic [Whole-1:0]             whole2, third2, third3_q;
    logic [Whole+Places-1:0]      times2;
    logic [1:0]                   rest2, rest3_q;
    logic [Fraction:0]            part2;
    logic                         more3_q, half3_q, up;
    logic [3:1]                   sign_q, above_q;
    logic signed [OutWidth-1:0]   value1_q, value2_q, value3_q, curve, result_q;

    assign value = s_axis_tdata[i*Width+:Width];
    assign v     = 64'(value) <<< Up;
    assign above = v >= Three;
    assign below = v <= -Three;

    // product / (6 one) = (whole + part) / 3 with part below one.
    assign whole2 = Whole'(product2_q >> (Fraction + 1));
    assign part2  = product2_q[Fraction:0];
    assign times2 = (Whole + Places)'(whole2) * (Whole + Places)'(Third);
    assign third2 = Whole'(times2 >> Places);
    assign rest2  = 2'(whole2 - third2 * Whole'(3));

    assign up    = rest3_q == 2'd2 || (rest3_q == 2'd1 && (more3_q || (half3_q && third3_q[0])));
    assign curve = OutWidth'(third3_q) + OutWidth'(up);

    always_ff @(posedge aclk) begin
      if (en) begin
        size1_q    <= (above || below) ? '0 : Near'(v < 0 ? -v : v);
        factor1_q  <= Near'(v + Three);
        value1_q   <= OutWidth'(v);
        product2_q <= Product'(size1_q) * Product'(factor1_q);
        value2_q   <= value1_q;
        third3_q   <= third2;
        rest3_q    <= rest2;
        more3_q    <= part2[Fraction] && |part2[Fraction-1:0];
        half3_q    <= part2[Fraction] && ~|part2[Fraction-1:0];
        value3_q   <= value2_q;
        sign_q     <= {sign_q[2:1], value[Width-1]};
        above_q    <= {above_q[2:1], above};
        result_q   <= above_q[3] ? value3_q : sign_q[3] ? -curve : curve;
      end
    end

    assign m_axis_tdata[i*OutWidth+:OutWidth] = result_q;
  end

endmodule
