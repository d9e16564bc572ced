// A row of a table for every number that comes (operator WideEmbedding).
//
// Equation:  y = table[min(max(x, 0), Rows - 1)]; exact.
// Frames:    one beat in for Beats beats out, Lanes channels each.
// Latency:   mx_pkg::times_latency(IndexBits + 1, Beats) + 3 cycles; one beat per cycle sustained.
// Handshake: AXI4-Stream; s_axis_tready depends on m_axis_tready.
// Memory:    $readmemh file: word (row, beat) field l = channel beat*Lanes + l.
module mx_embedding #(
  parameter int Width    = 16,
  parameter int OutWidth = 16,
  parameter int Rows     = 2,
  parameter int Beats    = 1,
  parameter int Lanes    = 1,
  parameter string TableFile = ""
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s_axis_tvalid,
  output logic                      s_axis_tready,
  input  logic [Width-1:0]          s_axis_tdata,
  input  logic                      s_axis_tlast,

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast
);

  if (Width < 2 || Width > 31 || OutWidth < 2 || Rows < 1 || Beats < 1 || Lanes < 1) begin : g_check
    $error("mx_embedding: Width = %0d, OutWidth = %0d, Rows = %0d, Beats = %0d, Lanes = %0d; %s",
           Width, OutWidth, Rows, Beats, Lanes, "expected widths >= 2, an index of 31 bits at most, others positive");
  end

  localparam int IndexBits = mx_pkg::index_bits(Rows);
  localparam int BeatBits  = mx_pkg::index_bits(Beats);
  localparam int AddrBits  = mx_pkg::index_bits(Rows * Beats);
  localparam int Times     = mx_pkg::times_latency(IndexBits + 1, Beats);
  localparam int Stages    = Times + 2;
  localparam int Most      = Rows - 1 < 2 ** (Width - 1) - 1 ? Rows - 1 : 2 ** (Width - 1) - 1;  // that may come
  localparam int Product   = IndexBits + 1 + mx_pkg::factor_bits(Beats);

  logic                        en, held_q, last_q, whole;
  logic signed [IndexBits:0]   index_q;
  logic signed [31:0]          value;
  logic signed [Product-1:0]   first;
  logic [BeatBits-1:0]         beat_q;
  logic [Times:1][BeatBits-1:0] beats_q;
  logic [AddrBits-1:0]         addr_q;
  logic [Stages:1]             valid_q, lasts_q;

  assign en            = !valid_q[Stages] || m_axis_tready;
  assign value         = 32'($signed(s_axis_tdata));
  assign whole         = beat_q == BeatBits'(Beats - 1);
  assign s_axis_tready = en && (!held_q || whole);
  assign m_axis_tvalid = valid_q[Stages];
  assign m_axis_tlast  = lasts_q[Stages];

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      held_q  <= 1'b0;
      beat_q  <= '0;
      valid_q <= '0;
    end else if (en) begin
      if (!held_q || whole) held_q <= s_axis_tvalid;
      beat_q  <= held_q && !whole ? beat_q + 1'b1 : '0;
      valid_q <= {valid_q[Stages-1:1], held_q};
    end
    if (en) begin
      if (!held_q || whole) begin
        index_q <= value < 0 ? '0 : value > Most ? (IndexBits + 1)'(Most) : (IndexBits + 1)'(value);
        last_q  <= s_axis_tlast;
      end
      lasts_q    <= {lasts_q[Stages-1:1], last_q && whole};
      beats_q[1] <= beat_q;
      for (int k = 2; k <= Times; k++) beats_q[k] <= beats_q[k-1];
      addr_q <= AddrBits'(first) + AddrBits'(beats_q[Times]);
    end
  end

  mx_times #(.Width(IndexBits + 1), .Factor(Beats)) u_times (
    .aclk, .en_i(en), .data_i(index_q), .product_o(first)
  );

  mx_rom #(
    .Width(Lanes * OutWidth), .Depth(Rows * Beats), .BlockDepth(256), .File(TableFile)
  ) u_table (
    .aclk, .en_i(en), .addr_i(addr_q), .data_o(m_axis_tdata)
  );

endmodule
