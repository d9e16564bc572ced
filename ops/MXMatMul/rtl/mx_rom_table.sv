// Read-only memory in LUTs with a registered output: what mx_rom makes of few words.
//
// Equation:  data_o = word addr_i of File, one cycle later while en_i is high.
// Style:     a module of its own, so that it can be kept apart: mapped together with other logic, Yosys takes the
//            functions of six address bits, one LUT6 each, to pieces and needs twice the LUTs.
module mx_rom_table #(
  parameter int Width   = 8,
  parameter int Depth   = 16,
  parameter string File = "",
  localparam int AddrBits = mx_pkg::index_bits(Depth)
) (
  input  logic                aclk,
  input  logic                en_i,
  input  logic [AddrBits-1:0] addr_i,
  output logic [Width-1:0]    data_o
);

  if (Width < 1 || Depth < 1 || File == "") begin : g_check
    $error("mx_rom_table: Width = %0d, Depth = %0d, File = %s; expected positive numbers and a file name", Width, Depth,
           File);
  end

  (* rom_style = "auto" *) logic [Width-1:0] mem [Depth];
  initial $readmemh(File, mem);
  always_ff @(posedge aclk) if (en_i) data_o <= mem[addr_i];

endmodule
