// Two dot products of Simd integer pairs that share their activations: two products per DSP slice.
//
// Equation:  sum over i of a_i[i] * w[r][i] = sum_o[r] + carry_o[r], exact, r = 0, 1.
//            A slice computes (w[1] * 2**Low + w[0]) * a; so many products are added packed as stay within Low
//            bits, and the sign of the lower sum is owed to the upper one.
//            w_i[i] = {w[1] - (w[0] < 0), w[0]} as it lies in memory: the packed factor is wiring.
//            It has 25 bits, which every DSP slice from DSP48E1 on takes; 27 where both factors are long (DSP48E2).
// Latency:   mx_pkg::pair_latency cycles while en_i is high.
module mx_dot_pair #(
  parameter int Simd  = 16,  // power of two
  parameter int ABits = 8,
  parameter int WBits = 8,   // no weight is -2**(WBits-1)
  localparam int SumBits = ABits + WBits + $clog2(Simd)
) (
  input  logic                             aclk,
  input  logic                             en_i,
  input  logic [Simd-1:0][ABits-1:0]       a_i,
  input  logic [Simd-1:0][2*WBits-1:0]     w_i,
  output logic signed [1:0][SumBits-1:0]   sum_o,
  output logic [1:0]                       carry_o
);

  localparam int Low    = mx_pkg::pair_low(ABits, WBits);  // bits of the lower sum
  localparam int Most   = mx_pkg::pair_field(ABits, WBits);
  localparam int Field  = (Simd < Most) ? Simd : Most;       // products of one packed sum
  localparam int Fields = Simd / Field;
  localparam int Length = (Field < 4) ? Field : 4;           // slices in a cascade
  localparam int Chains = Field / Length;
  localparam int Bits   = ABits + WBits - 1 + $clog2(Field);  // of a sum
  localparam int Packed = Low + Bits;

  if (Simd < 1 || (Simd & (Simd - 1)) != 0 || ABits < 2 || ABits > 9 || WBits < 2 || WBits > 8) begin : g_check
    $error("mx_dot_pair: Simd = %0d, integers of %0d and %0d bits; expected a power of two, at most 9 and 8 bits", Simd,
           ABits, WBits);
  end

  logic [Fields-1:0][Bits-1:0] lower, upper;
  logic [Fields-1:0]           owed;

  for (genvar f = 0; f < Fields; f++) begin : g_field
    logic signed [Chains-1:0][47:0] word;
    logic signed [Packed-1:0]       total;

    for (genvar n = 0; n < Chains; n++) begin : g_chain
      localparam int First = f * Field + n * Length;
      logic signed [Length-1:0][Low+WBits-1:0] factor;
      for (genvar i = 0; i < Length; i++) begin : g_factor
        logic [WBits-1:0] odd, even;
        assign {odd, even} = w_i[First+i];
        assign factor[i] = {odd, {(Low - WBits) {even[WBits-1]}}, even};
      end
      mx_dsp_chain #(.Length(Length), .ABits(ABits), .WBits(Low + WBits)) u_chain (
        .aclk, .en_i, .a_i(a_i[First+:Length]), .w_i(factor), .sum_o(word[n])
      );
    end

    if (Chains == 1) begin : g_one
      assign total = Packed'(word[0]);
    end else if (Chains == 2) begin : g_two
      always_ff @(posedge aclk) if (en_i) total <= Packed'(word[0]) + Packed'(word[1]);
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
          total    <= three_q + fourth_q;
        end
      end
    end

    assign lower[f] = Bits'($signed(total[Low-1:0]));
    assign upper[f] = total[Packed-1:Low];
    assign owed[f]  = total[Low-1];
  end

  logic signed [Bits+$clog2(Fields)-1:0] lower_sum, upper_sum;

  mx_tree #(.Terms(Fields), .Width(Bits)) u_lower (
    .aclk, .en_i, .terms_i(lower), .carry_i('0), .sum_o(lower_sum), .carry_o(carry_o[0])
  );
  mx_tree #(.Terms(Fields), .Width(Bits)) u_upper (
    .aclk, .en_i, .terms_i(upper), .carry_i(owed), .sum_o(upper_sum), .carry_o(carry_o[1])
  );
  assign sum_o = {SumBits'(upper_sum), SumBits'(lower_sum)};

endmodule
