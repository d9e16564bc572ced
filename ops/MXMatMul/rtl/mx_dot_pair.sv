// Two dot products of Simd integer pairs that share their activations: two products per DSP slice.
//
// Equation:  sum over i of a_i[i] * w[r][i] = sum_o[r] + carry_o[r], exact, r = 0, 1.
//            A slice computes (w[1] * 2**19 + w[0]) * a; sums of 16 products (8 of wider activations)
//            stay within 19 bits, and the sign of the lower sum is owed to the upper one.
//            w_i[i] = {w[1] - (w[0] < 0), w[0]} as it lies in memory: the packed factor is wiring.
// Latency:   mx_pkg::pair_latency cycles while en_i is high.
module mx_dot_pair #(
  parameter int Simd  = 16,  // power of two
  parameter int ABits = 8,
  parameter int WBits = 8,   // w[1] is not -2**(WBits-1)
  localparam int SumBits = ABits + WBits + $clog2(Simd)
) (
  input  logic                             aclk,
  input  logic                             en_i,
  input  logic [Simd-1:0][ABits-1:0]       a_i,
  input  logic [Simd-1:0][2*WBits-1:0]     w_i,
  output logic signed [1:0][SumBits-1:0]   sum_o,
  output logic [1:0]                       carry_o
);

  localparam int Low    = 19;  // bits of the lower sum
  localparam int Most   = mx_pkg::pair_field(ABits, WBits);
  localparam int Field  = (Simd < Most) ? Simd : Most;       // products of one packed sum
  localparam int Fields = Simd / Field;
  localparam int Length = (Simd < 4) ? Simd : 4;             // slices in a cascade
  localparam int Chains = Field / Length;
  localparam int Packed = Low + ABits + WBits + $clog2(Field) + 1;

  if (Simd < 1 || (Simd & (Simd - 1)) != 0 || ABits < 2 || ABits > 9 || WBits < 2 || WBits > 8 || Fields > 2) begin : g_check
    $error("mx_dot_pair: Simd = %0d, integers of %0d and %0d bits; expected a power of two, at most %0d", Simd, ABits,
           WBits, 2 * Most);
  end

  logic signed [Fields-1:0][Packed-1:0] total;

  for (genvar f = 0; f < Fields; f++) begin : g_field
    logic signed [Chains-1:0][47:0] word;

    for (genvar n = 0; n < Chains; n++) begin : g_chain
      localparam int First = f * Field + n * Length;
      logic signed [Length-1:0][Low+WBits-1:0] factor;
      for (genvar i = 0; i < Length; i++) begin : g_factor
        logic [WBits-1:0] upper, lower;
        assign {upper, lower} = w_i[First+i];
        assign factor[i] = {upper, {(Low - WBits) {lower[WBits-1]}}, lower};
      end
      mx_dsp_chain #(.Length(Length), .ABits(ABits), .WBits(Low + WBits)) u_chain (
        .aclk, .en_i, .a_i(a_i[First+:Length]), .w_i(factor), .sum_o(word[n])
      );
    end

    if (Chains == 1) begin : g_one
      assign total[f] = Packed'(word[0]);
    end else if (Chains == 2) begin : g_two
      always_ff @(posedge aclk) if (en_i) total[f] <= Packed'(word[0]) + Packed'(word[1]);
    end else begin : g_four
      logic [Packed-1:0]        three;
      logic signed [Packed-1:0] three_q, fourth_q;

      mx_add_three #(.Width(Packed)) u_add (
        .x_i(Packed'(word[0])), .y_i(Packed'(word[1])), .z_i(Packed'(word[2])), .carry_i(2'b00), .sum_o(three)
      );
      always_ff @(posedge aclk) begin
        if (en_i) begin
          three_q  <= three;
          fourth_q <= Packed'(word[3]);
          total[f] <= three_q + fourth_q;
        end
      end
    end
  end

  if (Fields == 1) begin : g_field_out
    assign sum_o[0] = SumBits'($signed(total[0][Low-1:0]));
    assign sum_o[1] = SumBits'($signed(total[0][Packed-1:Low]));
    assign carry_o  = {total[0][Low-1], 1'b0};
  end else begin : g_fields_out
    logic signed [SumBits:0] upper;
    assign upper = $signed({SumBits'($signed(total[0][Packed-1:Low])), 1'b1})
                   + $signed({SumBits'($signed(total[1][Packed-1:Low])), total[0][Low-1]});
    always_ff @(posedge aclk) begin
      if (en_i) begin
        sum_o[0] <= SumBits'($signed(total[0][Low-1:0])) + SumBits'($signed(total[1][Low-1:0]));
        sum_o[1] <= upper[SumBits:1];
        carry_o  <= {total[1][Low-1], 1'b0};
      end
    end
  end

endmodule
