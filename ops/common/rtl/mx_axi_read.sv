// Reads loads of weights from memory again and again, for as many streams as there are units that want them.
//
// Equation:  stream c = the beats of region c, TLAST on the last, and so on anew. Region c is word c of TableFile:
//            {beats, first beat}, 32 bits each, in beats of Bus bits from weights_base_i on. With Layers > 1, a stream has
//            as many regions, each of which comes so many times before the next: word c*Layers + l is
//            {times, beats, first beat} of region l.
// Reads:     AXI4, bursts of Burst beats (the last of a region may be shorter), one after the other for the next
//            stream, in turn, whose FIFO has room for a whole one: what was asked for is always taken, so streams do
//            not wait for each other. 16 bursts are under way at most. Regions begin at multiples of Burst beats, and
//            weights_base_i at one of 4096 bytes, so no burst crosses 4 KB.
// Handshake: AXI4 read channels (one ID, answers in order); AXI4-Stream, m_axis_tvalid depends on registers only. Nothing
//            is read before weights_go_i is high; weights_base_i stays as it is from then on. error_o is sticky: an answer was no OKAY.
module mx_axi_read #(
  parameter int Channels     = 2,
  parameter int Bus          = 128,  // a power of two, 32 to 1024
  parameter int Burst        = 16,   // a power of two
  parameter int Layers       = 1,
  parameter string TableFile = ""
) (
  input  logic                    aclk,
  input  logic                    aresetn,

  input  logic [63:0]             weights_base_i,
  input  logic                    weights_go_i,

  output logic                    m_axi_arvalid,
  input  logic                    m_axi_arready,
  output logic [63:0]             m_axi_araddr,
  output logic [7:0]              m_axi_arlen,
  output logic [2:0]              m_axi_arsize,
  output logic [1:0]              m_axi_arburst,
  input  logic                    m_axi_rvalid,
  output logic                    m_axi_rready,
  input  logic [Bus-1:0]          m_axi_rdata,
  input  logic [1:0]              m_axi_rresp,
  input  logic                    m_axi_rlast,

  output logic [Channels-1:0]     m_axis_tvalid,
  input  logic [Channels-1:0]     m_axis_tready,
  output logic [Channels*Bus-1:0] m_axis_tdata,
  output logic [Channels-1:0]     m_axis_tlast,

  output logic                    error_o
);

  if (Channels < 1 || Layers < 1 || Bus < 32 || Bus > 1024 || (Bus & (Bus - 1)) != 0 || Burst < 1 || Burst > 128 ||
      (Burst & (Burst - 1)) != 0 || Burst * Bus / 8 > 4096 || TableFile == "") begin : g_check
    $error("mx_axi_read: Channels = %0d, Bus = %0d, Burst = %0d, TableFile = %s; expected %s", Channels, Bus, Burst,
           TableFile, "a power of two of bits from 32 to 1024, bursts of at most 128 beats and 4 KB, and a file");
  end

  localparam int Depth     = 4 * Burst;  // to cover the time until memory answers
  localparam int RoomBits  = $clog2(Depth + 1);
  localparam int IndexBits = mx_pkg::index_bits(Channels);
  localparam int ByteBits  = $clog2(Bus / 8);

  typedef logic [IndexBits-1:0] index_t;
  typedef enum logic [1:0] {Pick, Look, Measure, Ask} state_e;

  state_e                           state_q;
  logic [Channels-1:0]              hungry_q, behind_q, later;  // behind_q: those behind the last one that was picked
  index_t                           pick, pick_q;
  logic [Channels-1:0][RoomBits-1:0] room_q;
  logic [31:0]                      position_q [Channels];
  logic [31:0]                      at_q, left_q, first, beats;
  logic [Layers > 1 ? 95 : 63:0]    entry;
  logic                             asked, order_ready, ends;
  logic [7:0]                       length;  // of the burst

  // The lowest of those that are set.
  function automatic index_t lowest(logic [Channels-1:0] set);
    lowest = '0;
    for (int i = Channels - 1; i >= 0; i--) if (set[i]) lowest = index_t'(i);
  endfunction

  assign later         = hungry_q & behind_q;
  assign pick          = lowest(later != '0 ? later : hungry_q);
  assign {beats, first} = entry[63:0];
  assign asked         = m_axi_arvalid && m_axi_arready;
  assign ends          = left_q <= 32'(Burst);

  localparam int Words    = Channels * Layers;
  localparam int WordBits = mx_pkg::index_bits(Words);
  logic [WordBits-1:0] word;

  mx_rom #(.Width($bits(entry)), .Depth(Words), .BlockDepth(1 << 30), .File(TableFile)) u_table (
    .aclk, .en_i(1'b1), .addr_i(word), .data_o(entry)
  );

  if (Layers == 1) begin : g_one
    assign word = pick_q;
  end else begin : g_several
    localparam int LayerBits = mx_pkg::index_bits(Layers);

    logic [LayerBits-1:0] layer_q [Channels];  // whose region comes
    logic [31:0]          done_q [Channels];   // times it has come
    logic                 again;

    assign word  = WordBits'(pick_q) * WordBits'(Layers) + WordBits'(layer_q[pick_q]);
    assign again = done_q[pick_q] + 1'b1 != entry[95:64];

    always_ff @(posedge aclk) begin
      if (!aresetn) begin
        for (int c = 0; c < Channels; c++) begin
          layer_q[c] <= '0;
          done_q[c]  <= '0;
        end
      end else if (asked && ends) begin
        done_q[pick_q] <= again ? done_q[pick_q] + 1'b1 : '0;
        if (!again) begin
          layer_q[pick_q] <= (layer_q[pick_q] == LayerBits'(Layers - 1)) ? '0 : layer_q[pick_q] + 1'b1;
        end
      end
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      state_q       <= Pick;
      hungry_q      <= '0;
      behind_q      <= '0;
      m_axi_arvalid <= 1'b0;
    end else begin
      for (int c = 0; c < Channels; c++) hungry_q[c] <= weights_go_i && room_q[c] >= RoomBits'(Burst);
      case (state_q)
        Pick: begin
          for (int c = 0; c < Channels; c++) behind_q[c] <= hungry_q == '0 ? behind_q[c] : index_t'(c) > pick;
          if (hungry_q != '0) state_q <= Look;
        end
        Look: state_q <= Measure;  // the table is read
        Measure: if (order_ready) begin
          state_q       <= Ask;
          m_axi_arvalid <= 1'b1;
        end
        default: if (m_axi_arready) begin
          state_q       <= Pick;
          m_axi_arvalid <= 1'b0;
          hungry_q      <= '0;  // what was counted before this burst
        end
      endcase
    end
  end

  always_ff @(posedge aclk) begin
    if (state_q == Pick) pick_q <= pick;
    if (state_q == Look) at_q <= position_q[pick_q];
    if (state_q == Measure) begin
      m_axi_araddr <= weights_base_i + 64'({first + at_q, ByteBits'(0)});
      left_q       <= beats - at_q;
    end
  end

  assign length        = ends ? left_q[7:0] : 8'(Burst);
  assign m_axi_arlen   = length - 1'b1;
  assign m_axi_arsize  = 3'(ByteBits);
  assign m_axi_arburst = 2'b01;

  always_ff @(posedge aclk) begin
    if (!aresetn) for (int c = 0; c < Channels; c++) position_q[c] <= '0;
    else if (asked) position_q[pick_q] <= ends ? '0 : at_q + 32'(Burst);
  end

  // Bursts that are under way, in the order of their answers: whose they are, and whether they end a load.

  logic   order_valid, whose_ends, unused;
  index_t whose;

  mx_fifo #(.Width(IndexBits + 1), .Depth(16)) u_order (
    .aclk, .aresetn,
    .s_axis_tvalid(asked), .s_axis_tready(order_ready), .s_axis_tdata({ends, pick_q}), .s_axis_tlast(1'b0),
    .m_axis_tvalid(order_valid), .m_axis_tready(m_axi_rvalid && m_axi_rlast),
    .m_axis_tdata({whose_ends, whose}), .m_axis_tlast(unused)
  );

  assign m_axi_rready = order_valid;

  always_ff @(posedge aclk) begin
    if (!aresetn) error_o <= 1'b0;
    else if (m_axi_rvalid && m_axi_rready && m_axi_rresp != 2'b00) error_o <= 1'b1;
  end

  for (genvar c = 0; c < Channels; c++) begin : g_channel
    logic           put_q, last_q, free;
    logic [Bus-1:0] data_q;

    always_ff @(posedge aclk) begin
      if (!aresetn) put_q <= 1'b0;
      else put_q <= m_axi_rvalid && m_axi_rready && whose == index_t'(c);
      data_q <= m_axi_rdata;
      last_q <= m_axi_rlast && whose_ends;
    end

    mx_fifo #(.Width(Bus), .Depth(Depth)) u_fifo (
      .aclk, .aresetn,
      .s_axis_tvalid(put_q), .s_axis_tready(free), .s_axis_tdata(data_q), .s_axis_tlast(last_q),
      .m_axis_tvalid(m_axis_tvalid[c]), .m_axis_tready(m_axis_tready[c]),
      .m_axis_tdata(m_axis_tdata[c*Bus+:Bus]), .m_axis_tlast(m_axis_tlast[c])
    );

    always_ff @(posedge aclk) begin
      if (!aresetn) room_q[c] <= RoomBits'(Depth);
      else begin
        room_q[c] <= room_q[c] - (asked && pick_q == index_t'(c) ? RoomBits'(length) : '0)
            + RoomBits'(m_axis_tvalid[c] && m_axis_tready[c]);
      end
    end
  end

endmodule
