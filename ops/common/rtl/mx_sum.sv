// Sum of Terms integers: a binary tree with a register behind every two levels.
//
// Equation:  sum_o = sum of terms_i, exact if Width holds it (partial sums may wrap).
// Latency:   mx_pkg::sum_latency(Terms) cycles while en_i is high.
module mx_sum #(
  parameter int Terms = 4,
  parameter int Width = 16
) (
  input  logic                        aclk,
  input  logic                        en_i,
  input  logic [Terms-1:0][Width-1:0] terms_i,
  output logic signed [Width-1:0]     sum_o
);

  if (Terms < 1 || Width < 1) begin : g_check
    $error("mx_sum: Terms = %0d, Width = %0d; expected at least 1 each", Terms, Width);
  end

  localparam int Levels = $clog2(Terms);

  for (genvar l = 0; l <= Levels; l++) begin : g_level
    localparam int Count = mx_pkg::ceil_div(Terms, 1 << l);
    logic [Count-1:0][Width-1:0] term;

    if (l == 0) begin : g_in
      assign term = terms_i;
    end else begin : g_add
      localparam int Below = mx_pkg::ceil_div(Terms, 1 << (l - 1));
      logic [Count-1:0][Width-1:0] sum;
      for (genvar i = 0; i < Count; i++) begin : g_term
        if (2 * i + 1 < Below) begin : g_two
          assign sum[i] = g_level[l-1].term[2*i] + g_level[l-1].term[2*i+1];
        end else begin : g_one
          assign sum[i] = g_level[l-1].term[2*i];
        end
      end
      if (l % 2 == 0 || l == Levels) begin : g_reg
        always_ff @(posedge aclk) if (en_i) term <= sum;
      end else begin : g_wire
        assign term = sum;
      end
    end
  end

  assign sum_o = g_level[Levels].term[0];

  if (Levels == 0) begin : g_unused
    logic unused;
    assign unused = ^{aclk, en_i};
  end

endmodule
