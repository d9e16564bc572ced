// Sum of three products for each of up to four DSP slices in a cascade.
//
// Equation:  sum_o = sum over i of a_i[i] * w_i[i], signed, exact; the elements of slice s enter s cycles late.
// Latency:   Length + 2 cycles while en_i is high.
// Styles:    written as registers, three products and a sum, which tools for Versal map to DSP58 slices;
//            with the macro MX_DSP58, as such in their mode of three products of 9 by 8 bits. Same bits.
module mx_three_chain #(
  parameter int Length = 4,
  parameter int ABits  = 8,  // at most 9
  parameter int WBits  = 8   // at most 8
) (
  input  logic                                  aclk,
  input  logic                                  en_i,
  input  logic signed [3*Length-1:0][ABits-1:0] a_i,
  input  logic signed [3*Length-1:0][WBits-1:0] w_i,
  output logic signed [57:0]                    sum_o
);

  if (Length < 1 || Length > 4 || ABits < 2 || ABits > 9 || WBits < 2 || WBits > 8) begin : g_check
    $error("mx_three_chain: Length = %0d, factors of %0d and %0d bits; expected 1..4, at most 9 and 8 bits", Length,
           ABits, WBits);
  end

  logic signed [Length:0][57:0] partial;  // what goes down the cascade
  assign partial[0] = '0;

  for (genvar s = 0; s < Length; s++) begin : g_slice
    // The slice's own input registers are one of the s + 1 cycles, from the second slice on two.
    localparam int Own   = (s == 0) ? 1 : 2;
    localparam int Delay = s + 1 - Own;
    logic [2:0][ABits-1:0] a;
    logic [2:0][WBits-1:0] w;
    logic signed [57:0]    result;

    if (Delay == 0) begin : g_now
      assign a = a_i[3*s+:3];
      assign w = w_i[3*s+:3];
    end else begin : g_late
      logic [Delay-1:0][3*(ABits+WBits)-1:0] late_q;
      always_ff @(posedge aclk) begin
        if (en_i) begin
          late_q[0] <= {a_i[3*s+:3], w_i[3*s+:3]};
          for (int j = 1; j < Delay; j++) late_q[j] <= late_q[j-1];
        end
      end
      assign {a, w} = late_q[Delay-1];
    end

`ifdef MX_DSP58
    logic [2:0][8:0] a_long;
    logic [2:0][7:0] w_long;
    for (genvar i = 0; i < 3; i++) begin : g_long
      assign a_long[i] = 9'($signed(a[i]));
      assign w_long[i] = 8'($signed(w[i]));
    end
    DSP58 #(
      .AMULTSEL("A"), .DSP_MODE("INT8"), .AREG(Own), .ACASCREG(Own), .BREG(Own), .BCASCREG(Own), .ADREG(0), .DREG(0),
      .CREG(0), .MREG(1), .PREG(1), .ALUMODEREG(0), .OPMODEREG(0), .INMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0)
    ) u_dsp (
      .CLK(aclk), .A({7'd0, a_long}), .B(w_long), .C(58'd0), .D(27'd0), .PCIN(partial[s]), .P(result),
      .PCOUT(partial[s+1]), .ALUMODE(4'b0000), .OPMODE((s == 0) ? 9'b00_000_01_01 : 9'b00_001_01_01),
      .INMODE(5'b00000), .NEGATE(3'b000), .CARRYIN(1'b0), .CARRYINSEL(3'b000), .CEA1(en_i), .CEA2(en_i), .CEAD(1'b0),
      .CEB1(en_i), .CEB2(en_i), .CEC(1'b0), .CED(1'b0), .CEM(en_i), .CEP(en_i), .CEALUMODE(1'b0), .CECARRYIN(1'b0),
      .CECTRL(1'b0), .CEINMODE(1'b0), .ASYNC_RST(1'b0), .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0),
      .RSTM(1'b0), .RSTP(1'b0), .RSTALUMODE(1'b0), .RSTALLCARRYIN(1'b0), .RSTCTRL(1'b0), .RSTINMODE(1'b0)
    );
`else
    localparam int ProdBits = ABits + WBits + 2;
    logic signed [Own-1:0][2:0][ABits-1:0]              a_q;
    logic signed [Own-1:0][2:0][WBits-1:0]              w_q;
    (* use_dsp = "yes" *) logic signed [ProdBits-1:0]   products_q;
    logic signed [57:0]                                 partial_q;
    logic signed [2:0][ProdBits-1:0]                    products;

    for (genvar i = 0; i < 3; i++) begin : g_product
      assign products[i] = ProdBits'($signed(a_q[Own-1][i])) * ProdBits'($signed(w_q[Own-1][i]));
    end

    always_ff @(posedge aclk) begin
      if (en_i) begin
        a_q[0] <= a;
        w_q[0] <= w;
        for (int j = 1; j < Own; j++) begin
          a_q[j] <= a_q[j-1];
          w_q[j] <= w_q[j-1];
        end
        products_q <= $signed(products[0]) + $signed(products[1]) + $signed(products[2]);
        partial_q  <= 58'(products_q) + $signed(partial[s]);
      end
    end
    assign result       = partial_q;
    assign partial[s+1] = partial_q;
`endif
    if (s == Length - 1) begin : g_last
      assign sum_o = result;
    end
  end

endmodule
