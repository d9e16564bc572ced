// Two functions of the same bits in one LUT: of all six, and of the lower five.
//
// Equation:  six_o = Init[bits_i], five_o = Init[{0, bits_i[4:0]}].
// Latency:   0 (combinational).
// Styles:    a LUT6_2 cell with the macro MX_LUT6_2, plain logic without it: tools that count small LUTs as less than
//            large ones would make two of what one holds.
module mx_lut #(
  parameter logic [63:0] Init = 64'h8000_0000_0000_0000  // all six are set
) (
  input  logic [5:0] bits_i,
  output logic       six_o,
  output logic       five_o
);

  if (Init == '0 || Init == '1) begin : g_check
    $error("mx_lut: Init = %h; expected a function of its inputs", Init);
  end

`ifdef MX_LUT6_2
  LUT6_2 #(.INIT(Init)) u_lut (
    .I0(bits_i[0]), .I1(bits_i[1]), .I2(bits_i[2]), .I3(bits_i[3]), .I4(bits_i[4]), .I5(bits_i[5]), .O6(six_o),
    .O5(five_o)
  );
`else
  assign six_o  = Init[bits_i];
  assign five_o = Init[{1'b0, bits_i[4:0]}];
`endif

endmodule
