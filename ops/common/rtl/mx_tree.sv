// Sum of Terms integers, by threes: a register behind every level.
//
// Equation:  sum_o + carry_o = sum over i of terms_i[i] + carry_i[i], exact.
//            With Pending, the sign of each term is still to be applied: a term with carry_i[i] counts as
//            (~terms_i[i]) + 1; the first level, of two terms an adder, inverts in its LUTs.
//            Every adder takes one owed carry less than it has terms, so one is left: carry_o.
// Latency:   mx_pkg::tree_levels(Terms, Pending) cycles while en_i is high.
module mx_tree #(
  parameter int Terms   = 8,
  parameter int Width   = 8,
  parameter bit Pending = 0,
  localparam int SumBits = Width + $clog2(Terms)
) (
  input  logic                        aclk,
  input  logic                        en_i,
  input  logic [Terms-1:0][Width-1:0] terms_i,
  input  logic [Terms-1:0]            carry_i,
  output logic signed [SumBits-1:0]   sum_o,
  output logic                        carry_o
);

  if (Terms < 1 || Width < 1) begin : g_check
    $error("mx_tree: Terms = %0d, Width = %0d; expected at least 1 each", Terms, Width);
  end

  localparam int Levels = mx_pkg::tree_levels(Terms, Pending);

  for (genvar l = 0; l <= Levels; l++) begin : g_level
    localparam int Count = mx_pkg::tree_terms(Terms, Pending, l);
    localparam int Bits  = mx_pkg::tree_bits(Terms, Width, Pending, l);
    logic signed [Bits-1:0] term  [Count];
    logic                   carry [Count];

    for (genvar i = 0; i < Count; i++) begin : g_term
      if (l == 0) begin : g_in
        assign term[i]  = terms_i[i];
        assign carry[i] = carry_i[i];
      end else begin : g_sum
        localparam int Step  = mx_pkg::tree_step(Pending, l);
        localparam int First = Step * i;
        localparam int Below = mx_pkg::tree_terms(Terms, Pending, l - 1);
        logic [Bits-1:0] sum;
        logic            unused;

        if (Pending && l == 1) begin : g_signed
          logic [1:0][Bits-1:0] word;
          logic [1:0]           sign;
          assign word[0] = Bits'(g_level[l-1].term[First]);
          assign sign[0] = g_level[l-1].carry[First];
          if (First + 1 < Below) begin : g_two
            assign word[1] = Bits'(g_level[l-1].term[First+1]);
            assign sign[1] = g_level[l-1].carry[First+1];
          end else begin : g_one
            assign {word[1], sign[1]} = '0;
          end
          mx_add_pairs #(.Width(Bits), .Op(4'b0110)) u_add (
            .x_i(word[0]), .s_i({Bits{sign[0]}}), .y_i(word[1]), .t_i({Bits{sign[1]}}), .carry_i(sign[1]),
            .sum_o(sum), .carry_o(unused)
          );
        end else if (First + 2 < Below) begin : g_three
          mx_add_three #(.Width(Bits)) u_add (
            .x_i(Bits'(g_level[l-1].term[First])), .y_i(Bits'(g_level[l-1].term[First+1])),
            .z_i(Bits'(g_level[l-1].term[First+2])),
            .carry_i({g_level[l-1].carry[First+2], g_level[l-1].carry[First+1]}), .sum_o(sum)
          );
          assign unused = 1'b0;
        end else if (First + 1 < Below) begin : g_pair
          // {x, 1} + {y, carry} is an adder with a carry input in every tool.
          assign {sum, unused} = {Bits'(g_level[l-1].term[First]), 1'b1}
                                 + {Bits'(g_level[l-1].term[First+1]), g_level[l-1].carry[First+1]};
        end else begin : g_one
          assign sum    = Bits'(g_level[l-1].term[First]);
          assign unused = 1'b0;
        end

        always_ff @(posedge aclk) begin
          if (en_i) begin
            term[i]  <= sum;
            carry[i] <= g_level[l-1].carry[First];
          end
        end
      end
    end
  end

  if (Pending && Levels == 0) begin : g_single
    assign sum_o = g_level[0].term[0] ^ {Width{g_level[0].carry[0]}};
  end else begin : g_tree
    assign sum_o = SumBits'(g_level[Levels].term[0]);
  end
  assign carry_o = g_level[Levels].carry[0];

  if (Levels == 0) begin : g_unused
    logic unused;
    assign unused = ^{aclk, en_i};
  end

endmodule
