// Read-only memory with a registered output, filled from a hex file.
//
// Equation:  data_o = word addr_i of File, one cycle later while en_i is high.
// Style:     "block": block RAM. "lut": rom_style = "auto", which Yosys maps to LUTs at any size
//            and Vivado by its own rule (Yosys refuses "distributed" for a read-only memory).
//            "auto": block RAM above 4 Kib where the words are deep enough (Depth >= BlockDepth),
//            else "lut": a LUT holds 64 bits, so a shallow wide memory is cheaper in LUTs.
module mx_rom #(
  parameter int Width      = 8,
  parameter int Depth      = 4,
  parameter int BlockDepth = 1,
  parameter string File    = "",
  parameter string Style   = "auto",
  localparam int AddrBits = mx_pkg::index_bits(Depth)
) (
  input  logic                aclk,
  input  logic                en_i,
  input  logic [AddrBits-1:0] addr_i,
  output logic [Width-1:0]    data_o
);

  if (Width < 1 || Depth < 1 || File == "" ||
      (Style != "auto" && Style != "block" && Style != "lut")) begin : g_check
    $error("mx_rom: Width = %0d, Depth = %0d, File = %s, Style = %s; expected positive numbers, %s",
           Width, Depth, File, Style, "a file name, and auto, block or lut");
  end

  localparam bit Large = Depth >= BlockDepth && Depth * Width > 4096;

  if (Style == "block" || (Style == "auto" && Large)) begin : g_block
    (* rom_style = "block" *) logic [Width-1:0] mem [Depth];
    initial $readmemh(File, mem);
    always_ff @(posedge aclk) if (en_i) data_o <= mem[addr_i];
  end else begin : g_lut
    (* rom_style = "auto" *) logic [Width-1:0] mem [Depth];
    initial $readmemh(File, mem);
    always_ff @(posedge aclk) if (en_i) data_o <= mem[addr_i];
  end

endmodule
