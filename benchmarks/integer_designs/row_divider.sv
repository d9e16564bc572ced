// A constant by a number, one bit of the quotient a cycle.
//
// Equation:  quotient_o = floor(Numerator / divisor_i), which QuotientBits have to hold.
// Latency:   QuotientBits + 2 cycles; what comes meanwhile is lost.
module row_divider #(
  parameter longint Numerator = 64'd65280,
  parameter int QuotientBits  = 8,
  parameter int Bits          = 16
) (
  input  logic                    aclk,
  input  logic                    aresetn,

  input  logic                    valid_i,
  input  logic [Bits-1:0]         divisor_i,

  output logic                    valid_o,
  output logic [QuotientBits-1:0] quotient_o
);

  localparam int StepBits = $clog2(QuotientBits + 1);

  logic [Bits-1:0]         rest_q, divisor_q;
  logic [Bits:0]           next, less;
  logic [QuotientBits-1:0] low_q;  // bits of the numerator that are still to come
  logic [StepBits-1:0]     left_q;

  assign next = {rest_q, low_q[QuotientBits-1]};
  assign less = next - {1'b0, divisor_q};

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      left_q  <= '0;
      valid_o <= 1'b0;
    end else begin
      left_q  <= valid_i ? StepBits'(QuotientBits) : left_q - StepBits'(left_q != '0);
      valid_o <= left_q == StepBits'(1);
    end
    if (valid_i) begin
      divisor_q <= divisor_i;
      rest_q    <= Bits'(Numerator >> QuotientBits);
      low_q     <= QuotientBits'(Numerator);
    end else if (left_q != '0) begin
      rest_q     <= less[Bits] ? next[Bits-1:0] : less[Bits-1:0];
      low_q      <= low_q << 1;
      quotient_o <= {quotient_o[QuotientBits-2:0], !less[Bits]};
    end
  end

endmodule
