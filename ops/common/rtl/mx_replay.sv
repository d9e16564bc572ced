// Replay buffer: sends every input frame of Beats beats Times times. Holds two frames, so that the
// next frame arrives while the present one is replayed.
//
// Equation:  output = frame 0 (Times times), frame 1 (Times times), ...
// Latency:   2 cycles (0 when Times = 1: the streams are joined); one beat per cycle sustained.
// Handshake: AXI4-Stream without TLAST (position in the frame is counted). A beat is sent as soon
//            as it has arrived; its place is free again as soon as it was sent for the last time.
module mx_replay #(
  parameter int Width = 8,
  parameter int Beats = 4,
  parameter int Times = 2
) (
  input  logic             aclk,
  input  logic             aresetn,

  input  logic             s_axis_tvalid,
  output logic             s_axis_tready,
  input  logic [Width-1:0] s_axis_tdata,

  output logic             m_axis_tvalid,
  input  logic             m_axis_tready,
  output logic [Width-1:0] m_axis_tdata
);

  if (Width < 1 || Beats < 1 || Times < 1) begin : g_check
    $error("mx_replay: Width = %0d, Beats = %0d, Times = %0d; expected at least 1 each",
           Width, Beats, Times);
  end

  if (Times == 1) begin : g_wire
    assign m_axis_tvalid = s_axis_tvalid;
    assign s_axis_tready = m_axis_tready;
    assign m_axis_tdata  = s_axis_tdata;
    logic unused;
    assign unused = ^{aclk, aresetn};
  end else begin : g_buffer
    localparam int Depth     = 2 * Beats;
    localparam int AddrBits  = $clog2(Depth);
    localparam int CountBits = $clog2(Depth + 1);
    localparam int PassBits  = $clog2(Times);
    // A LUT holds 64 bits of distributed RAM: deep buffers belong in block RAM.
    localparam RamStyle = (Depth > 64 && Depth * Width > 4096) ? "block" : "distributed";

    (* ram_style = RamStyle *) logic [Width-1:0] mem [Depth];

    localparam int BeatBits  = mx_pkg::index_bits(Beats);

    logic [AddrBits-1:0]  write_q, read_q, start_q;  // start_q: first beat of the frame being sent
    logic [BeatBits-1:0]  beat_q;                    // beat of the frame that is read
    logic [PassBits-1:0]  pass_q;
    logic [CountBits-1:0] free_q;                    // places that may be written
    logic [CountBits-1:0] fresh_q;                   // beats that were never sent
    logic                 valid_q;
    logic [Width-1:0]     data_q;
    logic                 put, get, first_pass, last_pass, last_beat;
    logic [AddrBits-1:0]  next_read;

    assign first_pass = pass_q == '0;
    assign last_pass  = pass_q == PassBits'(Times - 1);
    assign last_beat  = beat_q == BeatBits'(Beats - 1);
    assign next_read  = (read_q == AddrBits'(Depth - 1)) ? '0 : read_q + 1'b1;

    assign s_axis_tready = free_q != '0;
    assign put           = s_axis_tvalid && s_axis_tready;
    assign get           = (!first_pass || fresh_q != '0) && (!valid_q || m_axis_tready);

    always_ff @(posedge aclk) begin
      if (put) mem[write_q] <= s_axis_tdata;
      if (get) data_q <= mem[read_q];
    end

    always_ff @(posedge aclk) begin
      if (!aresetn) begin
        write_q <= '0;
        read_q  <= '0;
        start_q <= '0;
        beat_q  <= '0;
        pass_q  <= '0;
        free_q  <= CountBits'(Depth);
        fresh_q <= '0;
        valid_q <= 1'b0;
      end else begin
        if (put) write_q <= (write_q == AddrBits'(Depth - 1)) ? '0 : write_q + 1'b1;
        if (get) begin
          read_q <= (last_beat && !last_pass) ? start_q : next_read;
          beat_q <= last_beat ? '0 : beat_q + 1'b1;
          if (last_beat) pass_q <= last_pass ? '0 : pass_q + 1'b1;
          if (last_beat && last_pass) start_q <= next_read;
        end
        free_q  <= free_q - CountBits'(put) + CountBits'(get && last_pass);
        fresh_q <= fresh_q + CountBits'(put) - CountBits'(get && first_pass);
        if (get) valid_q <= 1'b1;
        else if (m_axis_tready) valid_q <= 1'b0;
      end
    end

    assign m_axis_tvalid = valid_q;
    assign m_axis_tdata  = data_q;
  end

endmodule
