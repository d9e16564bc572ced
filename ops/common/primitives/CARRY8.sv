// The part of AMD's CARRY8 that mx_carry uses, for simulation; an empty box for synthesis (BLACKBOX).
//
// Equation:  c[0] = CI, c[i+1] = CO[i] = S[i] ? c[i] : DI[i], O[i] = S[i] ^ c[i] (UG574, one chain of eight).
// Latency:   0 (combinational).
// Not a part of a design: tools of the vendor bring their own.
`ifdef BLACKBOX
(* blackbox *)
`endif
/* verilator lint_off DECLFILENAME */
/* verilator lint_off UNUSEDPARAM */
/* verilator lint_off UNUSEDSIGNAL */
module CARRY8 #(
  parameter string CARRY_TYPE = "SINGLE_CY8"
) (
  input  logic       CI,
  input  logic       CI_TOP,
  input  logic [7:0] DI,
  input  logic [7:0] S,
  output logic [7:0] CO,
  output logic [7:0] O
);

`ifndef BLACKBOX
  function automatic logic [8:0] carries(logic first, logic [7:0] into, logic [7:0] through);
    logic [8:0] found;
    found[0] = first;
    for (int i = 0; i < 8; i++) found[i+1] = through[i] ? found[i] : into[i];
    return found;
  endfunction

  logic [8:0] carry;
  assign carry = carries(CI, DI, S);
  assign CO    = carry[8:1];
  assign O     = S ^ carry[7:0];
`endif

endmodule
