// One division a cycle, one bit of the quotient a stage.
//
// Equation:  quotient_o = floor(rest_i * 2**(QuotientBits - 1) / divisor_i), for rest_i <= divisor_i.
// Latency:   QuotientBits + 1 cycles; one a cycle sustained.
// Handshake: valid and ready; ready_o depends on ready_i.
module row_divide_each #(
  parameter int Bits         = 33,
  parameter int QuotientBits = 8
) (
  input  logic                    aclk,
  input  logic                    aresetn,

  input  logic                    valid_i,
  output logic                    ready_o,
  input  logic                    last_i,
  input  logic [Bits-1:0]         rest_i,
  input  logic [Bits-1:0]         divisor_i,

  output logic                    valid_o,
  input  logic                    ready_i,
  output logic                    last_o,
  output logic [QuotientBits-1:0] quotient_o
);

  logic [QuotientBits:0]                   valid_q, last_q;
  logic [QuotientBits:0][Bits:0]           rest_q;
  logic [QuotientBits:0][Bits-1:0]         divisor_q;
  logic [QuotientBits:0][QuotientBits-1:0] quotient_q;

  assign ready_o    = !valid_o || ready_i;
  assign valid_o    = valid_q[QuotientBits];
  assign last_o     = last_q[QuotientBits];
  assign quotient_o = quotient_q[QuotientBits];

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (ready_o) valid_q <= {valid_q[QuotientBits-1:0], valid_i};
    if (ready_o) begin
      last_q        <= {last_q[QuotientBits-1:0], last_i};
      rest_q[0]     <= {1'b0, rest_i};
      divisor_q[0]  <= divisor_i;
      quotient_q[0] <= '0;
    end
  end

  for (genvar i = 0; i < QuotientBits; i++) begin : g_bit
    logic [Bits:0] less;
    assign less = rest_q[i] - {1'b0, divisor_q[i]};  // the rest is below twice the divisor
    always_ff @(posedge aclk) begin
      if (ready_o) begin
        rest_q[i+1]     <= (less[Bits] ? rest_q[i] : less) << 1;
        divisor_q[i+1]  <= divisor_q[i];
        quotient_q[i+1] <= {quotient_q[i][QuotientBits-2:0], !less[Bits]};
      end
    end
  end

endmodule
