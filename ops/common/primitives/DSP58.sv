// The part of AMD's DSP58 that mx_dot_three uses, for simulation; an empty box for synthesis (BLACKBOX).
//
// Equation:  M = sum over i = 0..2 of A[9i+8:9i] * B[8i+7:8i], signed (DSP_MODE = "INT8", AM004 "Dot Product Unit");
//            P = M + (0 or PCIN, by OPMODE[6:4]), 58 bits.
// Latency:   AREG = BREG registers, one behind the products, one behind the sum.
// Not a part of a design: tools of the vendor bring their own.
`ifdef BLACKBOX
(* blackbox *)
`endif
/* verilator lint_off DECLFILENAME */
/* verilator lint_off UNUSEDPARAM */
/* verilator lint_off UNUSEDSIGNAL */
module DSP58 #(
  parameter AMULTSEL = "A",
  parameter DSP_MODE = "INT24",
  parameter int AREG = 1,
  parameter int ACASCREG = 1,
  parameter int BREG = 1,
  parameter int BCASCREG = 1,
  parameter int ADREG = 1,
  parameter int DREG = 1,
  parameter int CREG = 1,
  parameter int MREG = 1,
  parameter int PREG = 1,
  parameter int ALUMODEREG = 1,
  parameter int OPMODEREG = 1,
  parameter int INMODEREG = 1,
  parameter int CARRYINREG = 1,
  parameter int CARRYINSELREG = 1
) (
  input  logic        CLK,
  input  logic [33:0] A,
  input  logic [23:0] B,
  input  logic [57:0] C,
  input  logic [26:0] D,
  input  logic [57:0] PCIN,
  output logic [57:0] P,
  output logic [57:0] PCOUT,
  input  logic [3:0]  ALUMODE,
  input  logic [8:0]  OPMODE,
  input  logic [4:0]  INMODE,
  input  logic [2:0]  NEGATE,
  input  logic        CARRYIN,
  input  logic [2:0]  CARRYINSEL,
  input  logic        CEA1, CEA2, CEAD, CEB1, CEB2, CEC, CED, CEM, CEP, CEALUMODE, CECARRYIN, CECTRL, CEINMODE,
  input  logic        ASYNC_RST, RSTA, RSTB, RSTC, RSTD, RSTM, RSTP, RSTALUMODE, RSTALLCARRYIN, RSTCTRL, RSTINMODE
);

`ifndef BLACKBOX
  if (DSP_MODE != "INT8") begin : g_check
    $error("DSP58: DSP_MODE = %s; this model knows INT8", DSP_MODE);
  end

  logic [26:0]        a1_q, a2_q;
  logic [23:0]        b1_q, b2_q;
  logic signed [18:0] m_q;
  logic signed [57:0] p_q;
  logic signed [18:0] products [3];

  for (genvar i = 0; i < 3; i++) begin : g_product
    assign products[i] = 19'($signed(a2_q[9*i+:9])) * 19'($signed(b2_q[8*i+:8]));
  end

  always_ff @(posedge CLK) begin
    if (CEA1) a1_q <= A[26:0];
    if (CEB1) b1_q <= B;
    if (CEA2) a2_q <= (AREG == 2) ? a1_q : A[26:0];
    if (CEB2) b2_q <= (BREG == 2) ? b1_q : B;
    if (CEM) m_q <= products[0] + products[1] + products[2];
    if (CEP) p_q <= 58'(m_q) + ((OPMODE[6:4] == 3'b001) ? $signed(PCIN) : 58'sd0);
  end

  assign P     = p_q;
  assign PCOUT = p_q;
`endif

endmodule
