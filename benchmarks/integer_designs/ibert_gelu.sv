// GELU of I-BERT, one value a cycle: erf by a polynomial of degree two.
//
// Equation:  ibert_gelu of benchmarks/integer_designs.py.
// Latency:   4 cycles and those of mx_wide_mul; one value a cycle sustained.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
module ibert_gelu #(
  parameter int Width = 20,
  parameter int B     = 2562,      // where |x| is cut off
  parameter int One   = 7261607,   // erf of it
  localparam int OutWidth = 45
) (
  input  logic                aclk,
  input  logic                aresetn,

  input  logic                s_axis_tvalid,
  output logic                s_axis_tready,
  input  logic [Width-1:0]    s_axis_tdata,
  input  logic                s_axis_tlast,

  output logic                m_axis_tvalid,
  input  logic                m_axis_tready,
  output logic [OutWidth-1:0] m_axis_tdata,
  output logic                m_axis_tlast
);

  localparam int Short    = $clog2(B + 1);
  localparam int GateBits = 25;
  localparam int Stages   = 4 + mx_pkg::wide_mul_latency(Width, GateBits);

  logic                             en;
  logic [Stages:1]                  valid_q, last_q;
  logic [Width-1:0]                 magnitude1_q;
  logic [Width-1:0]                 x_q [1:4];
  logic [Short-1:0]                 short2_q;
  logic [2*Short-1:0]               square3_q;
  logic                             minus3_q;
  logic signed [GateBits-1:0]       gate4_q;
  logic signed [Width+GateBits-1:0] product;

  assign en            = !valid_q[Stages] || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = valid_q[Stages];
  assign m_axis_tlast  = last_q[Stages];
  assign m_axis_tdata  = product;

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[Stages-1:1], s_axis_tvalid};
    if (en) begin
      last_q       <= {last_q[Stages-1:1], s_axis_tlast};
      x_q[1]       <= s_axis_tdata;
      x_q[2]       <= x_q[1];
      x_q[3]       <= x_q[2];
      x_q[4]       <= x_q[3];
      magnitude1_q <= s_axis_tdata[Width-1] ? -s_axis_tdata : s_axis_tdata;
      short2_q     <= magnitude1_q > Width'(B) ? '0 : Short'(B) - Short'(magnitude1_q);
      square3_q    <= short2_q * (2 * Short)'(short2_q);
      minus3_q     <= x_q[2][Width-1];
      // -(One + erf(x)), with erf = One - square of positive x and its negative of others: the step is negative. What
      // stands here of x = 0 does not matter.
      gate4_q      <= (minus3_q ? ~GateBits'(square3_q) : GateBits'(square3_q))
                      + (minus3_q ? GateBits'(1) : -GateBits'(2 * One));
    end
  end

  mx_wide_mul #(.ABits(Width), .BBits(GateBits)) u_mul (
    .aclk, .en_i(en), .a_i($signed(x_q[4])), .b_i(gate4_q), .product_o(product)
  );

endmodule
