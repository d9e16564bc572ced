// Counter that knows a cycle before when it is at its end: last_o is a register, so that counters that wait for each
// other need no comparison in between.
//
// Equation:  last_o is high where step_i is the last of Count steps.
module mx_count #(
  parameter int Count = 4
) (
  input  logic aclk,
  input  logic aresetn,

  input  logic step_i,
  output logic last_o
);

  if (Count < 1) begin : g_check
    $error("mx_count: Count = %0d; expected at least 1", Count);
  end

  if (Count == 1) begin : g_always
    logic unused;
    assign last_o = 1'b1;
    assign unused = ^{aclk, aresetn, step_i};
  end else begin : g_count
    localparam int Bits = $clog2(Count);
    logic [Bits-1:0] count_q;

    always_ff @(posedge aclk) begin
      if (!aresetn) begin
        count_q <= '0;
        last_o  <= 1'b0;
      end else if (step_i) begin
        count_q <= last_o ? '0 : count_q + 1'b1;
        last_o  <= count_q == Bits'(Count - 2);
      end
    end
  end

endmodule
