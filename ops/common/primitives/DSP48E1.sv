// The part of AMD's DSP48E1 that mx_dsp_chain uses, for simulation; an empty box for synthesis (BLACKBOX).
//
// Equation:  M = A * B (low 25 and 18 bits, signed); P = M + (0 or PCIN, by OPMODE[6:4]), 48 bits.
// Latency:   AREG = BREG registers, one behind the product, one behind the sum (UG479).
// Not a part of a design: tools of the vendor bring their own.
`ifdef BLACKBOX
(* blackbox *)
`endif
/* verilator lint_off DECLFILENAME */
/* verilator lint_off UNUSEDPARAM */
/* verilator lint_off UNUSEDSIGNAL */
module DSP48E1 #(
  parameter string USE_DPORT = "FALSE",
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
  input  logic [29:0] A,
  input  logic [17:0] B,
  input  logic [47:0] C,
  input  logic [24:0] D,
  input  logic [47:0] PCIN,
  output logic [47:0] P,
  output logic [47:0] PCOUT,
  input  logic [3:0]  ALUMODE,
  input  logic [6:0]  OPMODE,
  input  logic [4:0]  INMODE,
  input  logic        CARRYIN,
  input  logic [2:0]  CARRYINSEL,
  input  logic        CEA1, CEA2, CEAD, CEB1, CEB2, CEC, CED, CEM, CEP, CEALUMODE, CECARRYIN, CECTRL, CEINMODE,
  input  logic        RSTA, RSTB, RSTC, RSTD, RSTM, RSTP, RSTALUMODE, RSTALLCARRYIN, RSTCTRL, RSTINMODE
);

`ifndef BLACKBOX
  logic signed [24:0] a1_q, a2_q;
  logic signed [17:0] b1_q, b2_q;
  logic signed [42:0] m_q;
  logic signed [47:0] p_q;

  always_ff @(posedge CLK) begin
    if (CEA1) a1_q <= A[24:0];
    if (CEB1) b1_q <= B;
    if (CEA2) a2_q <= (AREG == 2) ? a1_q : A[24:0];
    if (CEB2) b2_q <= (BREG == 2) ? b1_q : B;
    if (CEM) m_q <= 43'(a2_q) * 43'(b2_q);
    if (CEP) p_q <= 48'(m_q) + ((OPMODE[6:4] == 3'b001) ? $signed(PCIN) : 48'sd0);
  end

  assign P     = p_q;
  assign PCOUT = p_q;
`endif

endmodule
