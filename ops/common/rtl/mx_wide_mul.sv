// Product of two wide integers, of DSP slices that each multiply a digit of the one with a digit of the other.
//
// Equation:  product_o = a_i * b_i, signed, exact. Digits have 17 and 26 bits, the uppermost one is signed.
// Latency:   mx_pkg::wide_mul_latency(ABits, BBits) cycles while en_i is high; inputs are expected in registers.
module mx_wide_mul #(
  parameter int ABits = 32,
  parameter int BBits = 32,
  localparam int Bits = ABits + BBits
) (
  input  logic                    aclk,
  input  logic                    en_i,
  input  logic signed [ABits-1:0] a_i,
  input  logic signed [BBits-1:0] b_i,
  output logic signed [Bits-1:0]  product_o
);

  if (ABits < 2 || BBits < 2) begin : g_check
    $error("mx_wide_mul: ABits = %0d, BBits = %0d; expected at least 2 each", ABits, BBits);
  end

  localparam bit Short  = mx_pkg::wide_mul_short(ABits, BBits);  // digits of a_i are the short ones
  localparam int AStep  = Short ? 17 : 26;
  localparam int BStep  = Short ? 26 : 17;
  localparam int AParts = mx_pkg::wide_digits(ABits, AStep);
  localparam int BParts = mx_pkg::wide_digits(BBits, BStep);
  localparam int Terms  = AParts * BParts;

  logic [Terms-1:0][Bits-1:0] terms_q;
  logic                       unused;

  for (genvar i = 0; i < AParts; i++) begin : g_a
    for (genvar j = 0; j < BParts; j++) begin : g_b
      localparam int AFirst = i * AStep;
      localparam int BFirst = j * BStep;
      localparam int ALength = (i < AParts - 1) ? AStep : ABits - AFirst;
      localparam int BLength = (j < BParts - 1) ? BStep : BBits - BFirst;
      logic signed [ALength:0]           a;
      logic signed [BLength:0]           b;
      logic signed [ALength+BLength-1:0] part_q;

      // Lower digits count from zero.
      assign a = {(i == AParts - 1) && a_i[ABits-1], a_i[AFirst+:ALength]};
      assign b = {(j == BParts - 1) && b_i[BBits-1], b_i[BFirst+:BLength]};
      always_ff @(posedge aclk) begin
        if (en_i) part_q <= (ALength + BLength)'(a) * (ALength + BLength)'(b);
      end
      if (i == AParts - 1 || j == BParts - 1) begin : g_signed
        assign terms_q[i*BParts+j] = Bits'(part_q) << (AFirst + BFirst);
      end else begin : g_unsigned
        assign terms_q[i*BParts+j] = Bits'($unsigned(part_q)) << (AFirst + BFirst);
      end
    end
  end

  logic signed [Bits+$clog2(Terms)-1:0] sum;

  mx_tree #(.Terms(Terms), .Width(Bits)) u_sum (
    .aclk, .en_i, .terms_i(terms_q), .carry_i('0), .sum_o(sum), .carry_o(unused)
  );
  assign product_o = Bits'(sum);

endmodule
