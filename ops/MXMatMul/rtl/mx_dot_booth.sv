// Dot product of Simd integer pairs in LUTs: radix-4 Booth rows that add themselves.
//
// Equation:  sum over i of a_i[i] * w_i[i] = sum_o + carry_o, exact, signed factors.
//            A weight is digits d of -2..2 (A. D. Booth; O. L. MacSorley, 1961): w = sum over j of d[j] * 4**j.
//            Products with a digit need one LUT per bit together with their addition to a running sum
//            (mx_booth_row); up to four lanes make a chain, a tree adds the chains of a digit, and the
//            sums of the digits are joined at the end.
// Latency:   mx_pkg::booth_latency cycles while en_i is high.
module mx_dot_booth #(
  parameter int Simd  = 8,  // power of two
  parameter int ABits = 8,
  parameter int WBits = 8,
  localparam int SumBits = ABits + WBits + $clog2(Simd)
) (
  input  logic                       aclk,
  input  logic                       en_i,
  input  logic [Simd-1:0][ABits-1:0] a_i,
  input  logic [Simd-1:0][WBits-1:0] w_i,
  output logic signed [SumBits-1:0]  sum_o,
  output logic                       carry_o
);

  if (Simd < 1 || (Simd & (Simd - 1)) != 0 || ABits < 2 || ABits > 16 || WBits < 2 || WBits > 8) begin : g_check
    $error("mx_dot_booth: Simd = %0d, integers of %0d and %0d bits; expected a power of two, 2..16 and 2..8", Simd,
           ABits, WBits);
  end

  localparam int Digits  = mx_pkg::ceil_div(WBits, 2);
  localparam int Length  = (Simd < 4) ? Simd : 4;  // lanes of a chain
  localparam int Chains  = Simd / Length;
  localparam int RowBits = ABits + 1 + $clog2(Length);
  localparam int DigitBits = RowBits + $clog2(Chains);

  logic signed [Digits-1:0][DigitBits-1:0] digit_sum;
  logic [Digits-1:0]                       digit_carry;

  for (genvar j = 0; j < Digits; j++) begin : g_digit
    logic [Chains-1:0][RowBits-1:0] row;
    logic [Chains-1:0]              owed;

    for (genvar c = 0; c < Chains; c++) begin : g_chain
      for (genvar i = 0; i < Length; i++) begin : g_lane
        localparam int Lane = c * Length + i;
        localparam int Bits = ABits + 1 + $clog2(i + 1);
        logic signed [2*Digits:0] w_wide;  // with the 0 below the lowest digit
        logic [ABits-1:0]         a;
        logic [2:0]               digit;
        logic [Bits-1:0]          below, sum;
        logic                     carry;

        assign w_wide = (2 * Digits + 1)'($signed({w_i[Lane], 1'b0}));
        if (i < 2) begin : g_now
          assign a     = a_i[Lane];
          assign digit = w_wide[2*j+:3];
        end else begin : g_late
          // The first two lanes take a cycle.
          always_ff @(posedge aclk) begin
            if (en_i) begin
              a     <= a_i[Lane];
              digit <= w_wide[2*j+:3];
            end
          end
        end

        // The first row's own +1 is what the chain owes.
        if (i == 0) begin : g_first
          assign below = '0;
          assign carry = 1'b0;
        end else begin : g_next
          localparam int Below = ABits + 1 + $clog2(i);
          logic signed [Below-1:0] sum_below;
          if (i == 2) begin : g_half
            always_ff @(posedge aclk) if (en_i) sum_below <= g_lane[i-1].sum;
          end else begin : g_wire
            assign sum_below = g_lane[i-1].sum;
          end
          assign below = Bits'(sum_below);
          assign carry = digit[2];
        end

        mx_booth_row #(.Width(Bits), .ABits(ABits)) u_row (
          .a_i(a), .digit_i(digit), .sum_i(below), .carry_i(carry), .sum_o(sum)
        );
      end

      logic first_q;
      if (Length > 2) begin : g_owed
        always_ff @(posedge aclk) if (en_i) first_q <= g_lane[0].digit[2];
      end else begin : g_owed_now
        assign first_q = g_lane[0].digit[2];
      end
      always_ff @(posedge aclk) begin
        if (en_i) begin
          row[c]  <= g_lane[Length-1].sum;
          owed[c] <= first_q;
        end
      end
    end

    mx_tree #(.Terms(Chains), .Width(RowBits)) u_tree (
      .aclk, .en_i, .terms_i(row), .carry_i(owed), .sum_o(digit_sum[j]), .carry_o(digit_carry[j])
    );
  end

  // Digits 0 to 2 in one adder in units of digit 1, then digit 3. 4 * (sum + 1) of digit 2 takes its +1 as the
  // two bits below and a carry; digit 0 keeps its own.
  if (Digits == 1) begin : g_one_digit
    assign sum_o   = SumBits'($signed(digit_sum[0]));
    assign carry_o = digit_carry[0];
  end else begin : g_join
    localparam int JoinBits = DigitBits + 3;
    logic signed [JoinBits-1:0] join_q, upper;
    logic [JoinBits-1:0]        joined;
    logic [1:0]                 low_q;
    logic                       owed_q, upper_carry;

    if (Digits == 2) begin : g_two
      assign upper       = '0;
      assign upper_carry = 1'b0;
    end else begin : g_three
      assign upper       = JoinBits'($signed({digit_sum[2], {2{digit_carry[2]}}}));
      assign upper_carry = digit_carry[2];
    end
    mx_add_three #(.Width(JoinBits)) u_join (
      .x_i(JoinBits'($signed(digit_sum[0][DigitBits-1:2]))), .y_i(JoinBits'($signed(digit_sum[1]))), .z_i(upper),
      .carry_i({upper_carry, digit_carry[1]}), .sum_o(joined)
    );
    always_ff @(posedge aclk) begin
      if (en_i) begin
        join_q <= joined;
        low_q  <= digit_sum[0][1:0];
        owed_q <= digit_carry[0];
      end
    end

    if (Digits < 4) begin : g_short
      assign sum_o   = SumBits'({join_q, low_q});
      assign carry_o = owed_q;
    end else begin : g_four
      localparam int TopBits = SumBits - 6;
      logic signed [DigitBits-1:0] top_q;
      logic                        top_carry_q, unused;
      logic [TopBits-1:0]          top;

      assign {top, unused} = {TopBits'($signed(join_q[JoinBits-1:4])), 1'b1} + {TopBits'(top_q), top_carry_q};
      always_ff @(posedge aclk) begin
        if (en_i) begin
          top_q       <= digit_sum[3];
          top_carry_q <= digit_carry[3];
          sum_o       <= {top, join_q[3:0], low_q};
          carry_o     <= owed_q;
        end
      end
    end
  end

endmodule
