// AMD's LUT6 for simulation; an empty box for synthesis (BLACKBOX).
//
// Equation:  O = INIT[{I5..I0}] (UG974).
// Latency:   0 (combinational).
// Not a part of a design: tools of the vendor bring their own.
`ifdef BLACKBOX
(* blackbox *)
`endif
/* verilator lint_off DECLFILENAME */
/* verilator lint_off UNUSEDPARAM */
/* verilator lint_off UNUSEDSIGNAL */
module LUT6 #(
  parameter logic [63:0] INIT = 64'd0
) (
  input  logic I0,
  input  logic I1,
  input  logic I2,
  input  logic I3,
  input  logic I4,
  input  logic I5,
  output logic O
);

`ifndef BLACKBOX
  assign O = INIT[{I5, I4, I3, I2, I1, I0}];
`endif

endmodule
