// Carry chain behind one LUT per bit: the second half of every adder that is written as LUTs by name.
//
// Equation:  c[0] = carry_i, c[i+1] = select_i[i] ? c[i] : data_i[i], sum_o[i] = select_i[i] ^ c[i],
//            carry_o = c[Width].
// Latency:   0 (combinational).
// Styles:    CARRY8 cells of UltraScale and UltraScale+ parts with the macro MX_LUT6_2, plain logic without it.
module mx_carry #(
  parameter int Width = 8
) (
  input  logic [Width-1:0] select_i,
  input  logic [Width-1:0] data_i,
  input  logic             carry_i,
  output logic [Width-1:0] sum_o,
  output logic             carry_o
);

  if (Width < 1) begin : g_check
    $error("mx_carry: Width = %0d; expected at least 1", Width);
  end

`ifdef MX_LUT6_2
  localparam int Cells = mx_pkg::ceil_div(Width, 8);
  logic [8*Cells-1:0] select, data, sum;

  assign select  = (8 * Cells)'(select_i);
  assign data    = (8 * Cells)'(data_i);
  assign sum_o   = sum[Width-1:0];
  assign carry_o = g_cell[Cells-1].carry[(Width-1)%8];

  for (genvar i = 0; i < Cells; i++) begin : g_cell
    logic       first;
    logic [7:0] carry;
    if (i == 0) begin : g_first
      assign first = carry_i;
    end else begin : g_next
      assign first = g_cell[i-1].carry[7];
    end
    CARRY8 u_carry (
      .CI(first), .CI_TOP(1'b0), .DI(data[8*i+:8]), .S(select[8*i+:8]), .O(sum[8*i+:8]), .CO(carry)
    );
  end
`else
  function automatic logic [Width:0] carries();
    logic [Width:0] found;
    found[0] = carry_i;
    for (int i = 0; i < Width; i++) found[i+1] = select_i[i] ? found[i] : data_i[i];
    return found;
  endfunction

  logic [Width:0] carry;
  always_comb carry = carries();
  assign sum_o   = select_i ^ carry[Width-1:0];
  assign carry_o = carry[Width];
`endif

endmodule
