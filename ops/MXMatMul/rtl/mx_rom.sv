// Read-only memory with a registered output, filled from a hex file.
//
// Equation:  data_o = word addr_i of File, one cycle later while en_i is high.
// Style:     "block": block RAM. "lut": rom_style = "auto", which Yosys maps to LUTs at any size
//            and Vivado by its own rule (Yosys refuses "distributed" for a read-only memory).
//            "auto": block RAM above 4 Kib where the words are deep enough (Depth >= BlockDepth),
//            else "lut": a LUT holds 64 bits, so a shallow wide memory is cheaper in LUTs.
// Pieces:    a block RAM is a power of two deep. Where the words behind the largest power of two are
//            few (mx_pkg::rom_piece), they lie in a memory of their own: words of File are then read
//            from File.0 and, from there on, File.1.
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

  localparam bit Block  = Style == "block" || (Style == "auto" && Large);
  localparam int Piece  = Block ? mx_pkg::rom_piece(Depth) : Depth;

  if (Piece < Depth) begin : g_pieces
    localparam int Rest     = Depth - Piece;
    localparam int LowBits  = mx_pkg::index_bits(Piece);
    localparam int RestBits = mx_pkg::index_bits(Rest);
    logic [Width-1:0] low, high;
    logic             high_q;

    mx_rom #(.Width(Width), .Depth(Piece), .BlockDepth(65), .File({File, ".0"})) u_low (
      .aclk, .en_i, .addr_i(addr_i[LowBits-1:0]), .data_o(low)
    );
    mx_rom #(.Width(Width), .Depth(Rest), .BlockDepth(65), .File({File, ".1"})) u_high (
      .aclk, .en_i, .addr_i(addr_i[RestBits-1:0]), .data_o(high)
    );
    always_ff @(posedge aclk) if (en_i) high_q <= addr_i[AddrBits-1];
    assign data_o = high_q ? high : low;
  end else if (Block) begin : g_block
    (* rom_style = "block" *) logic [Width-1:0] mem [Depth];
    initial $readmemh(File, mem);
    always_ff @(posedge aclk) if (en_i) data_o <= mem[addr_i];
  end else begin : g_lut
    (* rom_style = "auto" *) logic [Width-1:0] mem [Depth];
    initial $readmemh(File, mem);
    always_ff @(posedge aclk) if (en_i) data_o <= mem[addr_i];
  end

endmodule
