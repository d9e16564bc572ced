// Frames of pixels to frames channel by channel (operator WideReorder): what Flatten makes of an image.
//
// Equation:  channel c of pixel p goes from place p*K + c to place c*Pixels + p.
// Frames:    Pixels*K beats in, as many out, one element each.
// Latency:   2 cycles from the last beat of a frame to the first output beat. Two frames are held,
//            so one is received while the other is sent.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. error_o is sticky: an
//            s_axis_tlast came where no frame ends, or was missing where one does.
module mx_reorder #(
  parameter int Width    = 16,
  parameter int K        = 2,
  parameter int Pixels   = 4
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
  output logic             m_axis_tlast,

  output logic             error_o
);

  if (Width < 1 || K < 1 || Pixels < 1) begin : g_check
    $error("mx_reorder: Width = %0d, K = %0d, Pixels = %0d; expected at least 1 each",
           Width, K, Pixels);
  end

  localparam int Frame     = K * Pixels;
  localparam int AddrBits  = mx_pkg::index_bits(2 * Frame);
  localparam int PixelBits = mx_pkg::index_bits(Pixels);
  localparam int KBits     = mx_pkg::index_bits(K);
  localparam int FrameBits = mx_pkg::index_bits(Frame);
  localparam StyleName = (2 * Frame > 64 && 2 * Frame * Width > 4096) ? "block" : "distributed";

  (* ram_style = StyleName *) logic [Width-1:0] mem [2*Frame];

  logic [FrameBits-1:0] write_q, read_q;
  logic [PixelBits-1:0] pixel_q;
  logic [KBits-1:0]     channel_q;
  logic                 write_bank_q, read_bank_q;
  logic [1:0]           full_q;
  logic                 put, put_end, get, get_end, pixel_end, valid_q, last_q;
  logic [Width-1:0]     data_q;

  assign s_axis_tready = !full_q[write_bank_q];
  assign put           = s_axis_tvalid && s_axis_tready;
  assign put_end       = write_q == FrameBits'(Frame - 1);
  assign get           = full_q[read_bank_q] && (!valid_q || m_axis_tready);
  assign pixel_end     = pixel_q == PixelBits'(Pixels - 1);
  assign get_end       = pixel_end && channel_q == KBits'(K - 1);

  always_ff @(posedge aclk) begin
    if (put) mem[AddrBits'(write_q) + (write_bank_q ? AddrBits'(Frame) : '0)] <= s_axis_tdata;
    if (get) begin
      data_q <= mem[AddrBits'(read_q) + (read_bank_q ? AddrBits'(Frame) : '0)];
      last_q <= get_end;
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      write_q      <= '0;
      read_q       <= '0;
      pixel_q      <= '0;
      channel_q    <= '0;
      write_bank_q <= 1'b0;
      read_bank_q  <= 1'b0;
      full_q       <= '0;
      valid_q      <= 1'b0;
      error_o      <= 1'b0;
    end else begin
      if (put) begin
        write_q <= put_end ? '0 : write_q + 1'b1;
        if (put_end) begin
          write_bank_q         <= !write_bank_q;
          full_q[write_bank_q] <= 1'b1;
        end
        if (s_axis_tlast != put_end) error_o <= 1'b1;
      end
      if (get) begin
        // The next pixel of the channel, or the first of the next channel.
        read_q    <= get_end ? '0
                     : pixel_end ? FrameBits'(channel_q) + 1'b1 : read_q + FrameBits'(K);
        pixel_q   <= pixel_end ? '0 : pixel_q + 1'b1;
        if (pixel_end) channel_q <= get_end ? '0 : channel_q + 1'b1;
        if (get_end) begin
          read_bank_q         <= !read_bank_q;
          full_q[read_bank_q] <= 1'b0;
        end
      end
      if (get) valid_q <= 1'b1;
      else if (m_axis_tready) valid_q <= 1'b0;
    end
  end

  assign m_axis_tvalid = valid_q;
  assign m_axis_tdata  = data_q;
  assign m_axis_tlast  = last_q;

endmodule
