// Small synchronous FIFO in distributed RAM, first word falls through.
//
// Equation:  output stream = input stream; holds up to Depth beats.
// Latency:   1 cycle from input to output when empty; one beat per cycle sustained.
// Handshake: AXI4-Stream; s_axis_tready and m_axis_tvalid depend on registers only.
module mx_fifo #(
  parameter int Width = 8,
  parameter int Depth = 16  // power of two
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

  (* ram_style = "distributed" *) logic [Width:0] mem [Depth];

  // One bit more than an address, so that full and empty differ.
  logic [AddrBits:0] write_q, read_q, level;

  assign level         = write_q - read_q;
  assign s_axis_tready = !level[AddrBits];
  assign m_axis_tvalid = level != '0;

  always_ff @(posedge aclk) begin
    if (s_axis_tvalid && s_axis_tready) begin
      mem[write_q[AddrBits-1:0]] <= {s_axis_tlast, s_axis_tdata};
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      write_q <= '0;
      read_q  <= '0;
    end else begin
      if (s_axis_tvalid && s_axis_tready) write_q <= write_q + 1'b1;
      if (m_axis_tvalid && m_axis_tready) read_q  <= read_q + 1'b1;
    end
  end

  assign {m_axis_tlast, m_axis_tdata} = mem[read_q[AddrBits-1:0]];

endmodule
