// The DSP slice in netlists by Yosys: factors, their product and PCIN, with as many registers as it is given (UG579).
module DSP48E2 (CLK, A, B, C, D, ACIN, BCIN, PCIN, P, PCOUT, ALUMODE, OPMODE, INMODE, CARRYIN, CARRYINSEL, CEA1, CEA2, CEAD, CEB1,
  CEB2, CEC, CED, CEM, CEP, CEALUMODE, CECARRYIN, CECTRL, CEINMODE, RSTA, RSTB, RSTC, RSTD, RSTM, RSTP, RSTALUMODE,
  RSTALLCARRYIN, RSTCTRL, RSTINMODE);
  parameter AMULTSEL = "A", AREG = 1, ACASCREG = 1, BREG = 1, BCASCREG = 1, ADREG = 1, DREG = 1, CREG = 1, MREG = 1,
    PREG = 1, ALUMODEREG = 1, OPMODEREG = 1, INMODEREG = 1, CARRYINREG = 1, CARRYINSELREG = 1, BMULTSEL = "B",
    A_INPUT = "DIRECT", B_INPUT = "DIRECT", USE_MULT = "MULTIPLY", USE_SIMD = "ONE48";
  input CLK, CARRYIN, CEA1, CEA2, CEAD, CEB1, CEB2, CEC, CED, CEM, CEP, CEALUMODE, CECARRYIN, CECTRL, CEINMODE, RSTA,
    RSTB, RSTC, RSTD, RSTM, RSTP, RSTALUMODE, RSTALLCARRYIN, RSTCTRL, RSTINMODE;
  input [29:0] A, ACIN;
  input [17:0] B, BCIN;
  input [47:0] C, PCIN;
  input [26:0] D;
  output [47:0] P, PCOUT;
  input [3:0] ALUMODE;
  input [8:0] OPMODE;
  input [4:0] INMODE;
  input [2:0] CARRYINSEL;
  reg signed [26:0] a1, a2;
  reg signed [17:0] b1, b2;
  reg signed [44:0] m1;
  reg [47:0] p1;
  wire signed [26:0] a = (AREG == 0) ? A[26:0] : a2;
  wire signed [17:0] b = (BREG == 0) ? B : b2;
  wire signed [44:0] product = a * b;
  wire signed [44:0] m = (MREG == 0) ? product : m1;
  wire [47:0] z = (OPMODE[6:4] == 3'b001) ? PCIN : 48'd0;
  wire [47:0] sum = {{3{m[44]}}, m} + z;
  assign P = (PREG == 0) ? sum : p1;
  assign PCOUT = P;
  always @(posedge CLK) begin
    if (CEA1) a1 <= A[26:0];
    if (CEA2) a2 <= (AREG == 2) ? a1 : A[26:0];
    if (CEB1) b1 <= B;
    if (CEB2) b2 <= (BREG == 2) ? b1 : B;
    if (CEM) m1 <= product;
    if (CEP) p1 <= sum;
  end
endmodule
