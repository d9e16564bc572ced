// Sum of up to four products in a cascade of DSP slices.
//
// Equation:  sum_o = sum over i of a_i[i] * w_i[i], signed, exact; element i enters i cycles late.
// Latency:   Length + 2 cycles while en_i is high.
// Styles:    written as registers, a product and a sum, which tools map to DSP blocks with their cascades;
//            with the macro MX_DSP48E2, as DSP48E2 slices (UltraScale; Vivado makes DSP58 of them for Versal);
//            with MX_DSP48E1, as those of 7 series, for factors of up to 25 bits. Same bits.
module mx_dsp_chain #(
  parameter int Length = 4,
  parameter int ABits  = 8,   // at most 18
  parameter int WBits  = 27   // at most 27
) (
  input  logic                                aclk,
  input  logic                                en_i,
  input  logic signed [Length-1:0][ABits-1:0] a_i,
  input  logic signed [Length-1:0][WBits-1:0] w_i,
  output logic signed [47:0]                  sum_o
);

  if (Length < 1 || Length > 4 || ABits < 2 || ABits > 18 || WBits < 2 || WBits > 27) begin : g_check
    $error("mx_dsp_chain: Length = %0d, factors of %0d and %0d bits; expected 1..4, at most 18 and 27 bits", Length,
           ABits, WBits);
  end

  logic signed [Length:0][47:0] partial;  // what goes down the cascade
  assign partial[0] = '0;

  for (genvar i = 0; i < Length; i++) begin : g_slice
    // The slice's own input registers are one of the i + 1 cycles, from the second slice on two.
    localparam int Own   = (i == 0) ? 1 : 2;
    localparam int Delay = i + 1 - Own;
    logic signed [ABits-1:0] a;
    logic signed [WBits-1:0] w;
    logic signed [47:0]      result;

    if (Delay == 0) begin : g_now
      assign a = a_i[i];
      assign w = w_i[i];
    end else begin : g_late
      logic [Delay-1:0][ABits+WBits-1:0] late_q;
      always_ff @(posedge aclk) begin
        if (en_i) begin
          late_q[0] <= {a_i[i], w_i[i]};
          for (int j = 1; j < Delay; j++) late_q[j] <= late_q[j-1];
        end
      end
      assign {a, w} = late_q[Delay-1];
    end

`ifdef MX_DSP48E2
    DSP48E2 #(
      .AMULTSEL("A"), .AREG(Own), .ACASCREG(Own), .BREG(Own), .BCASCREG(Own), .ADREG(0), .DREG(0), .CREG(0), .MREG(1),
      .PREG(1), .ALUMODEREG(0), .OPMODEREG(0), .INMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0)
    ) u_dsp (
      .CLK(aclk), .A(30'(w)), .B(18'(a)), .C(48'd0), .D(27'd0), .PCIN(partial[i]), .P(result), .PCOUT(partial[i+1]),
      .ALUMODE(4'b0000), .OPMODE((i == 0) ? 9'b00_000_01_01 : 9'b00_001_01_01), .INMODE(5'b00000), .CARRYIN(1'b0),
      .CARRYINSEL(3'b000), .CEA1(en_i), .CEA2(en_i), .CEAD(1'b0), .CEB1(en_i), .CEB2(en_i), .CEC(1'b0), .CED(1'b0),
      .CEM(en_i), .CEP(en_i), .CEALUMODE(1'b0), .CECARRYIN(1'b0), .CECTRL(1'b0), .CEINMODE(1'b0), .RSTA(1'b0),
      .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0), .RSTALUMODE(1'b0), .RSTALLCARRYIN(1'b0),
      .RSTCTRL(1'b0), .RSTINMODE(1'b0)
    );
`elsif MX_DSP48E1
    DSP48E1 #(
      .USE_DPORT("FALSE"), .AREG(Own), .ACASCREG(Own), .BREG(Own), .BCASCREG(Own), .ADREG(0), .DREG(0), .CREG(0),
      .MREG(1), .PREG(1), .ALUMODEREG(0), .OPMODEREG(0), .INMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0)
    ) u_dsp (
      .CLK(aclk), .A(30'(w)), .B(18'(a)), .C(48'd0), .D(25'd0), .PCIN(partial[i]), .P(result), .PCOUT(partial[i+1]),
      .ALUMODE(4'b0000), .OPMODE((i == 0) ? 7'b000_01_01 : 7'b001_01_01), .INMODE(5'b00000), .CARRYIN(1'b0),
      .CARRYINSEL(3'b000), .CEA1(en_i), .CEA2(en_i), .CEAD(1'b0), .CEB1(en_i), .CEB2(en_i), .CEC(1'b0), .CED(1'b0),
      .CEM(en_i), .CEP(en_i), .CEALUMODE(1'b0), .CECARRYIN(1'b0), .CECTRL(1'b0), .CEINMODE(1'b0), .RSTA(1'b0),
      .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0), .RSTALUMODE(1'b0), .RSTALLCARRYIN(1'b0),
      .RSTCTRL(1'b0), .RSTINMODE(1'b0)
    );
    if (WBits > 25) begin : g_long
      $error("mx_dsp_chain: a factor of %0d bits; DSP48E1 takes 25: leave MX_DSP48E1 undefined", WBits);
    end
`else
    logic signed [Own-1:0][ABits-1:0]                   a_q;
    logic signed [Own-1:0][WBits-1:0]                   w_q;
    (* use_dsp = "yes" *) logic signed [ABits+WBits-1:0] product_q;
    logic signed [47:0]                                 partial_q;

    always_ff @(posedge aclk) begin
      if (en_i) begin
        a_q[0] <= a;
        w_q[0] <= w;
        for (int j = 1; j < Own; j++) begin
          a_q[j] <= a_q[j-1];
          w_q[j] <= w_q[j-1];
        end
        product_q <= (ABits + WBits)'($signed(a_q[Own-1])) * (ABits + WBits)'($signed(w_q[Own-1]));
        partial_q <= 48'(product_q) + $signed(partial[i]);
      end
    end
    assign result       = partial_q;
    assign partial[i+1] = partial_q;
`endif
    if (i == Length - 1) begin : g_last
      assign sum_o = result;
    end
  end

endmodule
