// Frames of pixels to frames channel by channel (operator WideReorder): what Flatten makes of an image.
//
// Equation:  channel c of pixel p goes from place p*K + c to place c*Pixels + p.
// Frames:    Pixels vectors of ceil(K/Lanes) beats in, one vector of ceil(K*Pixels/Lanes) beats out.
// Latency:   5 cycles from the last beat of a frame to the first output beat. Two frames are held,
//            so one is received while the other is sent.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. error_o is sticky: an
//            s_axis_tlast came where no frame ends, or was missing where one does.
module mx_reorder #(
  parameter int Width    = 16,
  parameter int Lanes    = 1,  // at most Pixels
  parameter int K        = 2,
  parameter int Pixels   = 4
) (
  input  logic                   aclk,
  input  logic                   aresetn,

  input  logic                   s_axis_tvalid,
  output logic                   s_axis_tready,
  input  logic [Lanes*Width-1:0] s_axis_tdata,
  input  logic                   s_axis_tlast,

  output logic                   m_axis_tvalid,
  input  logic                   m_axis_tready,
  output logic [Lanes*Width-1:0] m_axis_tdata,
  output logic                   m_axis_tlast,

  output logic                   error_o
);

  if (Width < 1 || K < 1 || Pixels < 1 || Lanes < 1 || Lanes > Pixels) begin : g_check
    $error("mx_reorder: Width = %0d, Lanes = %0d, K = %0d, Pixels = %0d; expected at least 1 each, Lanes <= Pixels",
           Width, Lanes, K, Pixels);
  end

  // Pixels lie in segments of Lanes or a few more, and pixel `column` of every segment in memory
  // `column`: Lanes pixels that follow each other, also from the last one to the first of the next
  // channel, lie in different memories.
  localparam int Segments  = Pixels / Lanes;
  localparam int Rest      = Pixels % Lanes;
  localparam int Shortest  = Lanes + Rest / Segments;
  localparam int Longer    = Rest % Segments;              // segments that are one longer
  localparam int Banks     = Shortest + int'(Longer != 0);
  localparam int Beats     = mx_pkg::ceil_div(K, Lanes);   // of a pixel
  localparam int OutBeats  = mx_pkg::ceil_div(K * Pixels, Lanes);
  localparam int Frame     = Beats * Segments;             // words of a frame in a memory

  localparam int AddrBits    = mx_pkg::index_bits(2 * Frame);
  localparam int ColumnBits  = mx_pkg::index_bits(2 * Banks);
  localparam int SegmentBits = mx_pkg::index_bits(Segments);
  localparam int BeatBits    = mx_pkg::index_bits(Beats);
  localparam int OutBits     = mx_pkg::index_bits(OutBeats);
  localparam int LaneBits    = mx_pkg::index_bits(Lanes);
  localparam StyleName = (2 * Frame > 64 && 2 * Frame * Lanes * Width > 4096) ? "block" : "distributed";

  typedef logic [AddrBits-1:0]    addr_t;
  typedef logic [ColumnBits-1:0]  column_t;
  typedef logic [SegmentBits-1:0] segment_t;

  function automatic column_t segment_length(segment_t segment);
    return column_t'(Shortest) + column_t'(int'(segment) < Longer);
  endfunction

  // Write.

  logic                put, put_end, beat_end, column_end, segment_end;
  logic                write_half_q, read_half_q;
  logic [1:0]          full_q;
  logic [BeatBits-1:0] beat_q;
  column_t             column_q;
  segment_t            segment_q;
  addr_t               beat_addr_q, write_addr;

  assign s_axis_tready = !full_q[write_half_q];
  assign put           = s_axis_tvalid && s_axis_tready;
  assign beat_end      = beat_q == BeatBits'(Beats - 1);
  assign column_end    = column_q == segment_length(segment_q) - 1'b1;
  assign segment_end   = segment_q == segment_t'(Segments - 1);
  assign put_end       = beat_end && column_end && segment_end;
  assign write_addr    = (write_half_q ? addr_t'(Frame) : '0) + beat_addr_q + addr_t'(segment_q);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      write_half_q <= 1'b0;
      beat_q       <= '0;
      beat_addr_q  <= '0;
      column_q     <= '0;
      segment_q    <= '0;
      error_o      <= 1'b0;
    end else if (put) begin
      beat_q      <= beat_end ? '0 : beat_q + 1'b1;
      beat_addr_q <= beat_end ? '0 : beat_addr_q + addr_t'(Segments);
      if (beat_end) column_q <= column_end ? '0 : column_q + 1'b1;
      if (beat_end && column_end) segment_q <= segment_end ? '0 : segment_q + 1'b1;
      if (put_end) write_half_q <= !write_half_q;
      if (s_axis_tlast != put_end) error_o <= 1'b1;
    end
  end

  // Read: from a place to the end of its segment, the rest from the next segment.

  typedef struct packed {
    column_t             column;
    segment_t            segment;
    logic [LaneBits-1:0] channel;    // of its beat
    addr_t               beat_addr;
  } place_t;

  logic               en, get, get_end, steps, half1_q;
  logic [4:1]         valid_q, last_q;
  logic [OutBits-1:0] out_q;
  place_t             here_q, behind_q;  // behind_q: where the next segment begins
  addr_t              half, here_addr, behind_addr;
  column_t            here_length;

  assign en            = !valid_q[4] || m_axis_tready;
  assign m_axis_tvalid = valid_q[4];
  assign m_axis_tlast  = last_q[4];

  assign get         = full_q[read_half_q] && en;
  assign get_end     = out_q == OutBits'(OutBeats - 1);
  assign here_length = segment_length(here_q.segment);
  assign half        = read_half_q ? addr_t'(Frame) : '0;
  assign here_addr   = half + here_q.beat_addr + addr_t'(here_q.segment);
  assign behind_addr = half + behind_q.beat_addr + addr_t'(behind_q.segment);
  assign steps       = here_q.column + column_t'(Lanes) >= here_length;

  // Where the segment after that of a place begins. Behind the last channel nothing is read that counts.
  function automatic place_t after(place_t place);
    place_t found;
    found        = place;
    found.column = '0;
    if (place.segment != segment_t'(Segments - 1)) begin
      found.segment = place.segment + 1'b1;
    end else begin
      found.segment = '0;
      if (place.channel != LaneBits'(Lanes - 1)) begin
        found.channel = place.channel + 1'b1;
      end else begin
        found.channel   = '0;
        found.beat_addr = (place.beat_addr == addr_t'(Frame - Segments)) ? '0 : place.beat_addr + addr_t'(Segments);
      end
    end
    return found;
  endfunction

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      here_q      <= '0;
      behind_q    <= after('0);
      out_q       <= '0;
      read_half_q <= 1'b0;
      full_q      <= '0;
    end else begin
      if (put && put_end) full_q[write_half_q] <= 1'b1;
      // An address that waits is read later: until then nothing may be written over it.
      if (en && valid_q[1] && last_q[1]) full_q[half1_q] <= 1'b0;
      if (get) begin
        out_q <= get_end ? '0 : out_q + 1'b1;
        if (get_end) begin
          here_q      <= '0;
          behind_q    <= after('0);
          read_half_q <= !read_half_q;
        end else if (steps) begin
          here_q        <= behind_q;
          behind_q      <= after(behind_q);
          here_q.column <= here_q.column + column_t'(Lanes) - here_length;
        end else begin
          here_q.column <= here_q.column + column_t'(Lanes);
        end
      end
    end
  end

  // Stages: 1 addresses, 2 memory output, 3 the channel of every bank, 4 lanes in order.

  addr_t                                  here_addr1_q, behind_addr1_q;
  column_t [2:1]                          columns_q, lengths_q;
  logic [2:1][LaneBits-1:0]               channels_q, behinds_q;
  logic [Banks-1:0][Lanes-1:0][Width-1:0] word2_q;
  logic [Banks-1:0][Width-1:0]            value3_q;

  for (genvar b = 0; b < Banks; b++) begin : g_bank
    (* ram_style = StyleName *) logic [Lanes*Width-1:0] mem [2*Frame];
    logic here1, here2_q;  // it is read in the segment where the beat begins
    assign here1 = column_t'(b) >= columns_q[1];
    always_ff @(posedge aclk) begin
      if (put && column_q == column_t'(b)) mem[write_addr] <= s_axis_tdata;
      if (en) begin
        here2_q     <= here1;
        word2_q[b]  <= mem[here1 ? here_addr1_q : behind_addr1_q];
        value3_q[b] <= word2_q[b][here2_q ? channels_q[2] : behinds_q[2]];
      end
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= {valid_q[3:1], get};
    if (en) begin
      last_q         <= {last_q[3:1], get_end};
      half1_q        <= read_half_q;
      here_addr1_q   <= here_addr;
      behind_addr1_q <= behind_addr;
      columns_q      <= {columns_q[1], here_q.column};
      lengths_q      <= {lengths_q[1], here_length};
      channels_q      <= {channels_q[1], here_q.channel};
      behinds_q      <= {behinds_q[1], behind_q.channel};
    end
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    column_t          place, bank3_q;
    logic [Width-1:0] value_q;

    assign place = columns_q[2] + column_t'(i);
    always_ff @(posedge aclk) begin
      if (en) begin
        bank3_q <= place >= lengths_q[2] ? place - lengths_q[2] : place;
        value_q <= value3_q[bank3_q];
      end
    end

    assign m_axis_tdata[i*Width+:Width] = value_q;
  end

endmodule
