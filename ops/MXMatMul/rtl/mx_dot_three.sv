// Dot product of Simd integer pairs, three products to a DSP slice of Versal parts.
//
// Equation:  sum over i of a_i[i] * w_i[i] = sum_o, exact, signed factors.
//            Up to four slices stand in a cascade (mx_three_chain); a tree adds the cascades.
// Latency:   mx_pkg::three_latency cycles while en_i is high.
module mx_dot_three #(
  parameter int Simd  = 8,  // power of two
  parameter int ABits = 8,
  parameter int WBits = 8,
  localparam int SumBits = ABits + WBits + $clog2(Simd)
) (
  input  logic                       aclk,
  input  logic                       en_i,
  input  logic [Simd-1:0][ABits-1:0] a_i,
  input  logic [Simd-1:0][WBits-1:0] w_i,
  output logic signed [SumBits-1:0]  sum_o
);

  if (Simd < 1 || (Simd & (Simd - 1)) != 0 || ABits < 2 || ABits > 9 || WBits < 2 || WBits > 8) begin : g_check
    $error("mx_dot_three: Simd = %0d, integers of %0d and %0d bits; expected a power of two, at most 9 and 8 bits",
           Simd, ABits, WBits);
  end

  localparam int Slices = mx_pkg::ceil_div(Simd, 3);
  localparam int Chains = mx_pkg::ceil_div(Slices, 4);
  localparam int Length = mx_pkg::ceil_div(Slices, Chains);  // slices in a cascade; the last one may have fewer
  localparam int Lanes  = 3 * Length;
  localparam int Bits   = ABits + WBits + $clog2((Lanes < Simd) ? Lanes : Simd);  // of a cascade's sum

  logic [Chains-1:0][Bits-1:0] sums;

  for (genvar c = 0; c < Chains; c++) begin : g_chain
    localparam int Own  = (c < Chains - 1) ? Length : Slices - c * Length;
    localparam int Used = (c < Chains - 1) ? Lanes : Simd - c * Lanes;  // lanes of it that hold elements
    logic [3*Own-1:0][ABits-1:0] a;
    logic [3*Own-1:0][WBits-1:0] w;
    logic signed [57:0]          sum;

    assign a = $bits(a)'(a_i[c*Lanes+:Used]);
    assign w = $bits(w)'(w_i[c*Lanes+:Used]);
    mx_three_chain #(.Length(Own), .ABits(ABits), .WBits(WBits)) u_chain (
      .aclk, .en_i, .a_i(a), .w_i(w), .sum_o(sum)
    );

    if (Own == Length) begin : g_now
      assign sums[c] = Bits'(sum);
    end else begin : g_late  // a shorter one waits for the others
      logic [Length-Own-1:0][Bits-1:0] late_q;
      always_ff @(posedge aclk) begin
        if (en_i) begin
          late_q[0] <= Bits'(sum);
          for (int j = 1; j < Length - Own; j++) late_q[j] <= late_q[j-1];
        end
      end
      assign sums[c] = late_q[Length-Own-1];
    end
  end

  logic signed [Bits+$clog2(Chains)-1:0] total;
  logic                                  unused;

  mx_tree #(.Terms(Chains), .Width(Bits)) u_tree (
    .aclk, .en_i, .terms_i(sums), .carry_i('0), .sum_o(total), .carry_o(unused)
  );
  assign sum_o = SumBits'(total);

endmodule
