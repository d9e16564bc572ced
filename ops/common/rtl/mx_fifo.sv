// Synchronous FIFO, first word falls through: in distributed RAM, or in block RAM behind a register
// where it is deep and holds more than 4 Kib; in UltraRAM behind a register where Ultra says so.
//
// Equation:  output stream = input stream; holds up to Depth beats (block RAM: Depth + 1).
// Latency:   1 cycle from input to output when empty (block RAM: 2); one beat per cycle sustained.
// Handshake: AXI4-Stream; s_axis_tready and m_axis_tvalid depend on registers only.
module mx_fifo #(
  parameter int Width = 8,
  parameter int Depth = 16,  // power of two
  parameter bit Ultra = 0
) (
  input  logic             aclk,
  input  logic             aresetn,

  input  logic             s_axis_tvalid,
  output logic             s_axis_tready,
  input  logic [Width-1:0] s_axis_tdata,
  input  logic             s_axis_tlast,

  output logic             m_axis_tvalid,
  input  logic             m_axis_tready,
  output logic [Width-1:0] m_axis_tdata,
  output logic             m_axis_tlast
);

  if (Width < 1 || Depth < 2 || (Depth & (Depth - 1)) != 0) begin : g_check
    $error("mx_fifo: Width = %0d, Depth = %0d; expected Width >= 1 and Depth a power of two >= 2",
           Width, Depth);
  end

  localparam int AddrBits = $clog2(Depth);
  localparam bit Block    = Ultra || Depth > 64 && Depth * (Width + 1) > 4096;

  // One bit more than an address, so that full and empty differ.
  logic [AddrBits:0] write_q, read_q, level;
  logic              put, get;

  assign level         = write_q - read_q;
  assign s_axis_tready = !level[AddrBits];
  assign put           = s_axis_tvalid && s_axis_tready;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      write_q <= '0;
      read_q  <= '0;
    end else begin
      if (put) write_q <= write_q + 1'b1;
      if (get) read_q  <= read_q + 1'b1;
    end
  end

  if (Block) begin : g_block
    localparam RamStyle = Ultra ? "ultra" : "block";

    (* ram_style = RamStyle *) logic [Width:0] mem [Depth];
    logic [Width:0] out_q;
    logic           valid_q;

    assign get = level != '0 && (!valid_q || m_axis_tready);

    always_ff @(posedge aclk) begin
      if (put) mem[write_q[AddrBits-1:0]] <= {s_axis_tlast, s_axis_tdata};
      if (get) out_q <= mem[read_q[AddrBits-1:0]];
      if (!aresetn) valid_q <= 1'b0;
      else if (get) valid_q <= 1'b1;
      else if (m_axis_tready) valid_q <= 1'b0;
    end

    assign m_axis_tvalid                = valid_q;
    assign {m_axis_tlast, m_axis_tdata} = out_q;
  end else begin : g_distributed
    (* ram_style = "distributed" *) logic [Width:0] mem [Depth];

    assign get = m_axis_tvalid && m_axis_tready;

    always_ff @(posedge aclk) begin
      if (put) mem[write_q[AddrBits-1:0]] <= {s_axis_tlast, s_axis_tdata};
    end

    assign m_axis_tvalid                = level != '0;
    assign {m_axis_tlast, m_axis_tdata} = mem[read_q[AddrBits-1:0]];
  end

endmodule
