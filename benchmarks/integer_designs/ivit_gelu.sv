// ShiftGELU of I-ViT, one value a cycle: a sigmoid of two exponentials by shifts, one of which is one.
//
// Equation:  ivit_gelu of benchmarks/integer_designs.py.
// Latency:   13 cycles; one value a cycle sustained: the division makes one bit of the sigmoid a stage.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
module ivit_gelu #(
  parameter int Width = 20,
  parameter int Point = 10,  // bits of a value below the point
  parameter int Most  = 23,
  localparam int OutWidth = Width + 8
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

  localparam int Bits    = Width + 2;
  localparam int ExpBits = Point + 1 + Most;
  localparam int Before  = 4;
  localparam int Divided = Before + 9;

  localparam logic [ExpBits-1:0] One = ExpBits'(1) << (Point + Most);

  logic                                      en, out_en, divided_valid, divided_last;
  logic [Before:1]                           valid_q, last_q;
  logic signed [Bits-1:0]                    x, p1_q;
  logic [Bits-1:0]                           d2_q;
  logic [Bits-1:0]                           p3_q, near;
  logic [ExpBits-1:0]                        exp4_q;
  logic [Before:2]                           minus_q;
  logic [Width-1:0]                          x_q [1:Divided];
  logic [7:0]                                gate;
  logic                                      out_valid_q, out_last_q;
  logic signed [Width+8:0]                   product_q;

  assign out_en        = !out_valid_q || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = out_valid_q;
  assign m_axis_tlast  = out_last_q;
  assign m_axis_tdata  = product_q[OutWidth-1:0];
  assign x             = Bits'($signed(s_axis_tdata));
  assign near          = p3_q > Bits'(Most << Point) ? Bits'(Most << Point) : p3_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      valid_q     <= '0;
      out_valid_q <= 1'b0;
    end else begin
      if (en) valid_q <= {valid_q[Before-1:1], s_axis_tvalid};
      if (out_en) out_valid_q <= divided_valid;
    end
    if (en) begin
      last_q     <= {last_q[Before-1:1], s_axis_tlast};
      x_q[1]     <= s_axis_tdata;
      for (int k = 2; k <= Divided; k++) x_q[k] <= x_q[k-1];
      p1_q       <= x + (x >>> 1) + (x >>> 3) + (x >>> 4);
      d2_q       <= p1_q[Bits-1] ? -p1_q : p1_q;
      minus_q    <= {minus_q[Before-1:2], p1_q[Bits-1]};
      // Shifts of negative numbers round down.
      p3_q       <= d2_q + (d2_q >> 1) + Bits'(d2_q[0]) - (d2_q >> 4) - Bits'(|d2_q[3:0]);
      exp4_q     <= ExpBits'((Point + 1)'(1 << Point) - (Point + 1)'(near[Point-1:1])) << (5'(Most) - near[Point+:5]);
    end
    if (out_en) begin
      out_last_q <= divided_last;
      product_q  <= $signed(x_q[Divided]) * $signed((Width + 9)'(gate));
    end
  end

  // Everything before it, and x_q beside it, moves when it does.
  row_divide_each #(.Bits(ExpBits + 1), .QuotientBits(8)) u_divide (
    .aclk, .aresetn, .valid_i(valid_q[Before]), .ready_o(en), .last_i(last_q[Before]),
    .rest_i((ExpBits + 1)'(minus_q[Before] ? exp4_q : One)), .divisor_i((ExpBits + 1)'(exp4_q) + (ExpBits + 1)'(One)),
    .valid_o(divided_valid), .ready_i(out_en), .last_o(divided_last), .quotient_o(gate)
  );

endmodule
