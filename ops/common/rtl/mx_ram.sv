// Memory of one write and one read port, read into a register.
//
// Equation:  data_o = word addr_i, one cycle later while en_i is high; what is written in the same cycle is not
//            seen. Words that were never written are undefined.
// Style:     block RAM above 4 Kib where it is deeper than the 64 bits of a LUT, else LUTs; UltraRAM where Ultra says so.
module mx_ram #(
  parameter int Width = 8,
  parameter int Depth = 4,
  parameter bit Ultra = 0,
  localparam int AddrBits = mx_pkg::index_bits(Depth)
) (
  input  logic                aclk,

  input  logic                write_i,
  input  logic [AddrBits-1:0] write_addr_i,
  input  logic [Width-1:0]    data_i,

  input  logic                en_i,
  input  logic [AddrBits-1:0] addr_i,
  output logic [Width-1:0]    data_o
);

  if (Width < 1 || Depth < 1) begin : g_check
    $error("mx_ram: Width = %0d, Depth = %0d; expected at least 1 each", Width, Depth);
  end

  localparam RamStyle = Ultra ? "ultra" : mx_pkg::ram_large(Depth, Width) ? "block" : "distributed";

  (* ram_style = RamStyle *) logic [Width-1:0] mem [Depth];

  always_ff @(posedge aclk) begin
    if (write_i) mem[write_addr_i] <= data_i;
    if (en_i) data_o <= mem[addr_i];
  end

endmodule
