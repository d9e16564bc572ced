// Product of two minifloats as an integer: mantissas first, then a shift in steps of one LUT per bit.
//
// Equation:  as of mx_mul.
// Latency:   mx_pkg::mul_latency cycles while en_i is high: product of the mantissas and sum of the exponents,
//            the shift by ones and fours where it is registered, the rest of the shift.
// Styles:    two exponents of two bits shift one after the other, three choices each. Others are added, counted
//            from 1; the shift goes by the sum's low two bits, by fours where it has six bits, and the rest.
//            The sign is inverted into the last level where that leaves it six inputs (mx_pkg::sign_pending).
module mx_minifloat_mul #(
  parameter int AExpBits = 4,
  parameter int AManBits = 3,
  parameter int WExpBits = 4,
  parameter int WManBits = 3,
  parameter bit UseDsp   = 0,  // of the mantissas
  localparam int ABits    = mx_pkg::element_bits(AExpBits, AManBits),
  localparam int WBits    = mx_pkg::element_bits(WExpBits, WManBits),
  localparam int ProdBits = mx_pkg::product_bits(AExpBits, AManBits, WExpBits, WManBits)
) (
  input  logic                       aclk,
  input  logic                       en_i,
  input  logic [ABits-1:0]           a_i,
  input  logic [WBits-1:0]           w_i,
  output logic signed [ProdBits-1:0] prod_o,
  output logic                       neg_o
);

  if (AExpBits < 2 || AExpBits > 5 || WExpBits < 2 || WExpBits > 5 || AManBits < 1 || WManBits < 1) begin : g_check
    $error("mx_minifloat_mul: e%0dm%0d and e%0dm%0d; expected exponents of 2 to 5 bits and a mantissa", AExpBits,
           AManBits, WExpBits, WManBits);
  end

  localparam int MantBits = AManBits + WManBits + 2;
  localparam int Exp      = (AExpBits > WExpBits) ? AExpBits : WExpBits;

  logic [AExpBits-1:0] a_exp;
  logic [WExpBits-1:0] w_exp;
  logic [AManBits:0]   a_mant;
  logic [WManBits:0]   w_mant;
  logic [MantBits-1:0] mant, mant_q;
  logic                neg_q;

  assign a_exp  = a_i[AManBits+:AExpBits];
  assign w_exp  = w_i[WManBits+:WExpBits];
  assign a_mant = {a_exp != '0, a_i[AManBits-1:0]};
  assign w_mant = {w_exp != '0, w_i[WManBits-1:0]};

  if (UseDsp) begin : g_dsp
    (* use_dsp = "yes" *) logic [MantBits-1:0] full;
    assign full = MantBits'(a_mant) * MantBits'(w_mant);
    assign mant = full;
  end else begin : g_lut
    mx_mantissa_mul #(.ABits(AManBits + 1), .WBits(WManBits + 1)) u_mul (.a_i(a_mant), .w_i(w_mant), .prod_o(mant));
  end

  always_ff @(posedge aclk) begin
    if (en_i) begin
      mant_q <= mant;
      neg_q  <= a_i[ABits-1] ^ w_i[WBits-1];
    end
  end

  if (AExpBits == 2 && WExpBits == 2) begin : g_threes
    logic [1:0]          a_exp_q, w_exp_q;
    logic [MantBits+1:0] by_a;
    logic [MantBits+3:0] by_both;

    // Exponents 0 and 1 shift by nothing.
    assign by_a    = (MantBits + 2)'(mant_q) << ((a_exp_q == 2'd3) ? 2 : (a_exp_q == 2'd2) ? 1 : 0);
    assign by_both = (MantBits + 4)'(by_a) << ((w_exp_q == 2'd3) ? 2 : (w_exp_q == 2'd2) ? 1 : 0);

    always_ff @(posedge aclk) begin
      if (en_i) begin
        a_exp_q <= a_exp;
        w_exp_q <= w_exp;
        prod_o  <= ProdBits'(by_both) ^ {ProdBits{neg_q}};
        neg_o   <= neg_q;
      end
    end
  end else begin : g_fours
    localparam int SumBits = mx_pkg::exponent_sum_bits(AExpBits, WExpBits);
    localparam bit Pending = mx_pkg::sign_pending(AExpBits, AManBits, WExpBits, WManBits);
    localparam int OneBits = MantBits + 3;                             // shifted by 0..3
    localparam int LowBits = (SumBits == 6) ? 4 : 2;                   // of the shift, before the last level
    localparam int MidBits = (SumBits == 6) ? OneBits + 12 : OneBits;  // shifted by these
    localparam int Step    = 1 << LowBits;

    logic [Exp-1:0]      a_from_one, w_from_one, sum_low;
    logic                sum_high;
    logic [SumBits-1:0]  shift_q;  // 2 more than the shift
    logic [OneBits-1:0]  by_ones;
    logic [MidBits-1:0]  by_low;
    logic [ProdBits-1:0] by_all;
    logic                neg;
    logic [SumBits-LowBits-1:0] high;  // what is left of the shift

    // max(e, 1) = e | (e == 0).
    assign a_from_one = Exp'(a_exp);
    assign w_from_one = Exp'(w_exp);
    mx_add_pairs #(.Width(Exp), .Op(4'b1011)) u_exponents (
      .x_i(a_from_one), .s_i({{(Exp - 1) {1'b1}}, a_mant[AManBits]}),
      .y_i(w_from_one), .t_i({{(Exp - 1) {1'b1}}, w_mant[WManBits]}),
      .carry_i(1'b0), .sum_o(sum_low), .carry_o(sum_high)
    );

    assign by_ones = OneBits'(mant_q) << shift_q[1:0];
    if (SumBits == 6) begin : g_by_fours
      always_ff @(posedge aclk) begin
        if (en_i) begin
          by_low <= MidBits'(by_ones) << {shift_q[3:2], 2'b00};
          high   <= shift_q[SumBits-1:LowBits];
          neg    <= neg_q;
        end
      end
    end else begin : g_by_ones
      assign by_low = by_ones;
      assign high   = shift_q[SumBits-1:LowBits];
      assign neg    = neg_q;
    end
    always_comb begin
      by_all = '0;
      for (int i = 0; i < ProdBits; i++) begin
        for (int k = 0; k < 1 << (SumBits - LowBits); k++) begin
          if (i + 2 - Step * k >= 0 && i + 2 - Step * k < MidBits) begin
            by_all[i] |= high == (SumBits - LowBits)'(k) && by_low[i+2-Step*k];
          end
        end
      end
    end

    always_ff @(posedge aclk) begin
      if (en_i) begin
        shift_q <= SumBits'({sum_high, sum_low});
        prod_o  <= by_all ^ {ProdBits{neg && !Pending}};
        neg_o   <= neg;
      end
    end
  end

endmodule
