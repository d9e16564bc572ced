// Read-only memory with a registered output, filled from a hex file.
//
// Equation:  data_o = word addr_i of File, one cycle later while en_i is high.
// Style:     "block": block RAM. "lut": rom_style = "auto", which Yosys maps to LUTs at any size
//            and Vivado by its own rule (Yosys refuses "distributed" for a read-only memory).
//            "auto": block RAM above 4 Kib where the words are deep enough (Depth >= BlockDepth),
//            else "lut": a LUT holds 64 bits, so a shallow wide memory is cheaper in LUTs.
// Pieces:    a block RAM is a power of two deep. Where the words behind the largest power of two are few
//            (mx_pkg::rom_piece), they lie in one or two memories of their own, and one LUT per bit chooses:
//            words of File are then read from File.0, File.1 and File.2.
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

  localparam bit Block  = Style == "block" || (Style == "auto" && mx_pkg::rom_large(Depth, Width, BlockDepth));
  localparam int First  = Block ? mx_pkg::rom_piece(Depth) : Depth;
  localparam int Second = mx_pkg::rom_piece(Depth - First);
  localparam int Third  = Depth - First - Second;

  if (First < Depth) begin : g_pieces
    localparam int FirstBits  = mx_pkg::index_bits(First);
    localparam int SecondBits = mx_pkg::index_bits(Second);
    logic [Width-1:0] first, second, third;
    logic             beyond_first_q, beyond_second_q;

    mx_rom #(.Width(Width), .Depth(First), .File({File, ".0"}), .Style("block")) u_first (
      .aclk, .en_i, .addr_i(addr_i[FirstBits-1:0]), .data_o(first)
    );
    mx_rom #(.Width(Width), .Depth(Second), .BlockDepth(128), .File({File, ".1"})) u_second (
      .aclk, .en_i, .addr_i(addr_i[SecondBits-1:0]), .data_o(second)
    );
    if (Third > 0) begin : g_third
      localparam int ThirdBits = mx_pkg::index_bits(Third);
      mx_rom #(.Width(Width), .Depth(Third), .BlockDepth(128), .File({File, ".2"})) u_third (
        .aclk, .en_i, .addr_i(addr_i[ThirdBits-1:0]), .data_o(third)
      );
      always_ff @(posedge aclk) if (en_i) beyond_second_q <= addr_i[SecondBits];
    end else begin : g_two
      assign third           = '0;
      assign beyond_second_q = 1'b0;
    end
    always_ff @(posedge aclk) if (en_i) beyond_first_q <= addr_i[FirstBits];
    assign data_o = !beyond_first_q ? first : beyond_second_q ? third : second;
  end else if (Block) begin : g_block
    (* rom_style = "block" *) logic [Width-1:0] mem [Depth];
    initial $readmemh(File, mem);
    always_ff @(posedge aclk) if (en_i) data_o <= mem[addr_i];
  end else if (Depth > 8) begin : g_table
    (* keep_hierarchy = "yes" *) mx_rom_table #(.Width(Width), .Depth(Depth), .File(File)) u_table (
      .aclk, .en_i, .addr_i, .data_o
    );
  end else begin : g_lut
    (* rom_style = "auto" *) logic [Width-1:0] mem [Depth];
    initial $readmemh(File, mem);
    always_ff @(posedge aclk) if (en_i) data_o <= mem[addr_i];
  end

endmodule
