// The reciprocal of a sum of exponentials, one bit a cycle.
//
// Equation:  reciprocal_o = floor(2**(ExpBits + ReciprocalBits) / sum_i) for sums from 2**ExpBits on.
// Latency:   ReciprocalBits + 2 cycles from the cycle in which valid_i and ready_o meet, and ready again then. What comes
//            out has to be taken.
module mx_softmax_reciprocal #(
  parameter int SumBits        = 20,
  parameter int ExpBits        = 16,
  parameter int ReciprocalBits = 17
) (
  input  logic                    aclk,
  input  logic                    aresetn,

  input  logic                    valid_i,
  output logic                    ready_o,
  input  logic [SumBits-1:0]      sum_i,

  output logic                    valid_o,
  output logic [ReciprocalBits:0] reciprocal_o
);

  if (SumBits <= ExpBits || ReciprocalBits < 1) begin : g_check
    $error("mx_softmax_reciprocal: SumBits = %0d, ExpBits = %0d, ReciprocalBits = %0d; expected sums above 2**ExpBits",
           SumBits, ExpBits, ReciprocalBits);
  end

  localparam int StepBits = $clog2(ReciprocalBits + 1);

  logic [SumBits:0]    rest_q, less;
  logic [SumBits-1:0]  sum_q;
  logic [StepBits-1:0] step_q;
  logic                busy_q, last;

  // The rest is always below twice the sum: one bit more than that says which is larger.
  assign less    = rest_q - {1'b0, sum_q};
  assign last    = step_q == '0;
  assign ready_o = !busy_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      busy_q  <= 1'b0;
      valid_o <= 1'b0;
    end else begin
      busy_q  <= busy_q ? !last : valid_i;
      valid_o <= busy_q && last;
    end
    if (!busy_q) begin
      sum_q  <= sum_i;
      rest_q <= (SumBits + 1)'(1) << ExpBits;
      step_q <= StepBits'(ReciprocalBits);
    end else begin
      reciprocal_o <= {reciprocal_o[ReciprocalBits-1:0], !less[SumBits]};
      rest_q       <= (less[SumBits] ? rest_q : less) << 1;
      step_q       <= step_q - 1'b1;
    end
  end

endmodule
