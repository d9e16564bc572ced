// Square root of an integer, one bit a cycle.
//
// Equation:  root_o = floor(sqrt(square_i)).
// Latency:   RootBits + 2 cycles; what comes meanwhile is lost.
module row_root #(
  parameter int RootBits = 24
) (
  input  logic                  aclk,
  input  logic                  aresetn,

  input  logic                  valid_i,
  input  logic [2*RootBits-1:0] square_i,

  output logic                  valid_o,
  output logic [RootBits-1:0]   root_o
);

  localparam int StepBits = $clog2(RootBits + 1);

  logic [2*RootBits-1:0] square_q;  // what is still to come, two bits a step
  logic [RootBits+1:0]   rest_q;
  logic [RootBits+2:0]   next, less;
  logic [StepBits-1:0]   left_q;

  assign next = {rest_q[RootBits:0], square_q[2*RootBits-1-:2]};
  assign less = next - {1'b0, root_o, 2'b01};

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      left_q  <= '0;
      valid_o <= 1'b0;
    end else begin
      left_q  <= valid_i ? StepBits'(RootBits) : left_q - StepBits'(left_q != '0);
      valid_o <= left_q == StepBits'(1);
    end
    if (valid_i) begin
      square_q <= square_i;
      rest_q   <= '0;
      root_o   <= '0;
    end else if (left_q != '0) begin
      square_q <= square_q << 2;
      rest_q   <= less[RootBits+2] ? next[RootBits+1:0] : less[RootBits+1:0];
      root_o   <= {root_o[RootBits-2:0], !less[RootBits+2]};
    end
  end

endmodule
