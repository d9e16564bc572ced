// Product of two MX elements as a signed integer and a negation still owed.
//
// Equation:  linear(a_i) * linear(w_i) = (prod_o ^ inverted) + neg_o, exact, in units of the product of the
//            smallest element steps; inverted is neg_o in every bit where mx_pkg::sign_pending holds: the
//            caller's adders invert for free. Elsewhere prod_o is inverted already. The +1 is a carry of theirs.
// Latency:   mx_pkg::mul_latency cycles while en_i is high.
// Styles, chosen by format:
//   table    two minifloats with six magnitude bits in all (e2m1 x e2m1): one LUT6 per product bit;
//   steps    product of the mantissas, then a shift by the sum of the exponents, its low two bits first: each
//            level has at most three bits to choose from, one LUT6 (mx_minifloat_mul);
//   mixed    an integer and a minifloat (mx_mixed_mul);
//   product  a product of signed mantissas, for a DSP block or two integers, then any shift.
// UseDsp:    1: the mantissa product is written as `*` for a DSP block; 0: as gated rows, for LUTs.
module mx_mul #(
  parameter int AExpBits = 2,
  parameter int AManBits = 1,
  parameter int WExpBits = 2,
  parameter int WManBits = 1,
  parameter bit UseDsp   = 0,
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

  if (AExpBits < 0 || AExpBits > 5 || WExpBits < 0 || WExpBits > 5 || ABits < 2 ||
      ABits > 8 + int'(AExpBits == 0) || WBits < 2 || WBits > 8) begin : g_check
    $error("mx_mul: elements of %0d + %0d and %0d + %0d bits; expected 2 to 8 bits, exponents of at most 5", AExpBits,
           AManBits, WExpBits, WManBits);
  end

  if (mx_pkg::fits_table(AExpBits, AManBits, WExpBits, WManBits)) begin : g_table
    localparam mx_pkg::product_table_t Table =
        mx_pkg::product_table(AExpBits, AManBits, WExpBits, WManBits);

    always_ff @(posedge aclk) begin
      if (en_i) begin
        prod_o <= ProdBits'(Table[6'({w_i[WBits-2:0], a_i[ABits-2:0]})]);
        neg_o  <= a_i[ABits-1] ^ w_i[WBits-1];
      end
    end
  end else if (mx_pkg::shifts_in_steps(AExpBits, AManBits, WExpBits, WManBits)) begin : g_steps
    mx_minifloat_mul #(
      .AExpBits(AExpBits), .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits), .UseDsp(UseDsp)
    ) u_mul (
      .aclk, .en_i, .a_i, .w_i, .prod_o, .neg_o
    );
  end else if ((AExpBits == 0) != (WExpBits == 0) && !UseDsp) begin : g_mixed
    if (AExpBits == 0) begin : g_int_a
      mx_mixed_mul #(.IntBits(ABits), .ExpBits(WExpBits), .ManBits(WManBits)) u_mul (
        .aclk, .en_i, .int_i(a_i), .float_i(w_i), .prod_o, .neg_o
      );
    end else begin : g_int_w
      mx_mixed_mul #(.IntBits(WBits), .ExpBits(AExpBits), .ManBits(AManBits)) u_mul (
        .aclk, .en_i, .int_i(w_i), .float_i(a_i), .prod_o, .neg_o
      );
    end
  end else begin : g_product
    localparam int AMant = (AExpBits == 0) ? ABits : AManBits + 1;
    localparam int WMant = (WExpBits == 0) ? WBits : WManBits + 1;
    localparam int Span  = mx_pkg::exponent_span(AExpBits) + mx_pkg::exponent_span(WExpBits);
    localparam int Mant  = ProdBits - Span;
    localparam int ShiftBits = mx_pkg::index_bits(Span + 1);

    logic [AMant-1:0]       a_mant;
    logic [WMant-1:0]       w_mant;
    logic [ShiftBits-1:0]   a_exp, w_exp;
    logic                   a_neg, w_neg;
    logic signed [Mant-1:0] mant;

    if (AExpBits == 0) begin : g_a_int
      assign a_mant = a_i;
      assign a_exp  = '0;
      assign a_neg  = 1'b0;
    end else begin : g_a_float
      logic [AExpBits-1:0] field;
      assign field  = a_i[AManBits+:AExpBits];
      assign a_mant = {field != '0, a_i[AManBits-1:0]};
      assign a_exp  = ShiftBits'(field) - ShiftBits'(field != '0);
      assign a_neg  = a_i[ABits-1];
    end

    if (WExpBits == 0) begin : g_w_int
      assign w_mant = w_i;
      assign w_exp  = '0;
      assign w_neg  = 1'b0;
    end else begin : g_w_float
      logic [WExpBits-1:0] field;
      assign field  = w_i[WManBits+:WExpBits];
      assign w_mant = {field != '0, w_i[WManBits-1:0]};
      assign w_exp  = ShiftBits'(field) - ShiftBits'(field != '0);
      assign w_neg  = w_i[WBits-1];
    end

    // Integers are signed, minifloat mantissas are not: one bit more makes both signed.
    logic signed [AMant:0] a_signed;
    assign a_signed = $signed({(AExpBits == 0) && a_mant[AMant-1], a_mant});

    if (UseDsp) begin : g_dsp
      logic signed [WMant:0] w_signed;
      assign w_signed = $signed({(WExpBits == 0) && w_mant[WMant-1], w_mant});
      (* use_dsp = "yes" *) logic signed [Mant-1:0] full;
      assign full = Mant'(a_signed) * Mant'(w_signed);
      assign mant = full;
    end else begin : g_rows
      always_comb begin
        mant = '0;
        for (int i = 0; i < WMant; i++) begin
          // The sign bit of an integer weighs -2**i.
          if (w_mant[i] && WExpBits == 0 && i == WMant - 1) mant = mant - (Mant'(a_signed) <<< i);
          else if (w_mant[i]) mant = mant + (Mant'(a_signed) <<< i);
        end
      end
    end

    localparam int Delay = mx_pkg::mul_latency(AExpBits, AManBits, WExpBits, WManBits) - 1;  // before the shift

    logic signed [Delay:0][Mant-1:0] mant_d;
    logic [Delay:0][ShiftBits-1:0]   shift_d;
    logic [Delay:0]                  neg_d;

    assign mant_d[0]  = mant;
    assign shift_d[0] = a_exp + w_exp;
    assign neg_d[0]   = a_neg ^ w_neg;
    for (genvar d = 1; d <= Delay; d++) begin : g_delay
      always_ff @(posedge aclk) begin
        if (en_i) begin
          mant_d[d]  <= mant_d[d-1];
          shift_d[d] <= shift_d[d-1];
          neg_d[d]   <= neg_d[d-1];
        end
      end
    end
    always_ff @(posedge aclk) begin
      if (en_i) begin
        prod_o <= ProdBits'($signed(mant_d[Delay])) <<< shift_d[Delay];
        neg_o  <= neg_d[Delay];
      end
    end
  end

endmodule
