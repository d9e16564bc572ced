// Sum of three words and two carries: one LUT per bit.
//
// Equation:  sum_o = x_i + y_i + z_i + carry_i[0] + carry_i[1] mod 2**Width.
// Latency:   0 (combinational).
// Styles:    LUT6_2 and CARRY8 cells with the macro MX_LUT6_2 (a full adder of three bits, whose
//            sum joins the majority of the bit below), plain logic without it.
module mx_add_three #(
  parameter int Width = 8
) (
  input  logic [Width-1:0] x_i,
  input  logic [Width-1:0] y_i,
  input  logic [Width-1:0] z_i,
  input  logic [1:0]       carry_i,
  output logic [Width-1:0] sum_o
);

  if (Width < 1) begin : g_check
    $error("mx_add_three: Width = %0d; expected at least 1", Width);
  end

`ifdef MX_LUT6_2
  // O5: majority of three bits; O6: their sum and the majority of the bit below.
  function automatic logic [63:0] table_of();
    logic [63:0] entries;
    for (int i = 0; i < 64; i++) begin
      entries[i] = i[5] ? i[0] ^ i[1] ^ i[2] ^ i[3] : (i[0] & i[1]) | (i[0] & i[2]) | (i[1] & i[2]);
    end
    return entries;
  endfunction

  logic [Width-1:0] select, data;
  logic             unused;

  for (genvar i = 0; i < Width; i++) begin : g_bit
    logic majority;
    if (i == 0) begin : g_first
      assign data[i] = carry_i[1];
    end else begin : g_next
      assign data[i] = g_bit[i-1].majority;
    end
    LUT6_2 #(.INIT(table_of())) u_lut (
      .I0(x_i[i]), .I1(y_i[i]), .I2(z_i[i]), .I3(data[i]), .I4(1'b0), .I5(1'b1), .O6(select[i]), .O5(majority)
    );
  end
  mx_carry #(.Width(Width)) u_carry (
    .select_i(select), .data_i(data), .carry_i(carry_i[0]), .sum_o, .carry_o(unused)
  );
`else
  assign sum_o = x_i + y_i + z_i + Width'(carry_i[0]) + Width'(carry_i[1]);
`endif

endmodule
