// Every pixel of wide integers several times, down and across (operator WideUpsample): nearest.
//
// Equation:  output pixel (y, x) = input pixel (y / ScaleH, x / ScaleW).
// Frames:    H*W vectors of ceil(K/Lanes) beats in, H*ScaleH*W*ScaleW vectors of as many out.
// Latency:   2 cycles from the last beat of a row to the first output beat.
// Rounding:  none.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. error_o is sticky: an
//            s_axis_tlast came where no frame ends, or was missing where one does.
module mx_upsample #(
  parameter int Width  = 16,
  parameter int Lanes  = 1,
  parameter int K      = 1,
  parameter int H      = 4,
  parameter int W      = 4,
  parameter int ScaleH = 2,
  parameter int ScaleW = 2
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

  if (Width < 1 || Lanes < 1 || K < 1 || H < 1 || W < 1 || ScaleH < 1 || ScaleW < 1) begin : g_check
    $error("mx_upsample: Width = %0d, Lanes = %0d, K = %0d, H = %0d, W = %0d, ScaleH = %0d; %s",
           Width, Lanes, K, H, W, ScaleH, "expected at least 1 each");
  end

  localparam int Beats     = mx_pkg::ceil_div(K, Lanes);
  localparam int RowBeats  = W * Beats;
  localparam int Depth     = 2 * RowBeats;  // one row is sent while the next one comes
  localparam int AddrBits  = mx_pkg::index_bits(Depth);
  localparam int BeatBits  = mx_pkg::index_bits(Beats);
  localparam int FrameBits = mx_pkg::index_bits(H * RowBeats);
  localparam StyleName = (Depth > 64 && Depth * Lanes * Width > 4096) ? "block" : "distributed";

  (* ram_style = StyleName *) logic [Lanes*Width-1:0] mem [Depth];

  logic [FrameBits-1:0]               in_beat_q;
  logic [AddrBits-1:0]                write_q;
  logic                               put, in_end;
  logic                               write_row_q, read_row_q;
  logic [1:0]                         full_q;
  logic [BeatBits-1:0]                beat_q;
  logic [mx_pkg::index_bits(W)-1:0]   x_q;
  logic [mx_pkg::index_bits(H)-1:0]   y_q;
  logic [mx_pkg::index_bits(ScaleW)-1:0] across_q;
  logic [mx_pkg::index_bits(ScaleH)-1:0] down_q;
  logic [AddrBits-1:0]                read_q;
  logic                               en, get, beat_end, across_end, x_end, down_end, last;
  logic                               valid_q, last_q;
  logic [Lanes*Width-1:0]             data_q;

  assign s_axis_tready = !full_q[write_row_q];
  assign put           = s_axis_tvalid && s_axis_tready;
  assign in_end        = in_beat_q == FrameBits'(H * RowBeats - 1);

  assign en         = !valid_q || m_axis_tready;
  assign get        = en && full_q[read_row_q];
  assign beat_end   = int'(beat_q) == Beats - 1;
  assign across_end = int'(across_q) == ScaleW - 1;
  assign x_end      = int'(x_q) == W - 1;
  assign down_end   = int'(down_q) == ScaleH - 1;
  assign last       = beat_end && across_end && x_end && down_end && int'(y_q) == H - 1;

  always_ff @(posedge aclk) begin
    if (put) mem[write_q] <= s_axis_tdata;
    if (en) begin
      data_q <= mem[read_q];
      last_q <= last;
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      in_beat_q   <= '0;
      write_q     <= '0;
      write_row_q <= 1'b0;
      read_row_q  <= 1'b0;
      full_q      <= '0;
      beat_q      <= '0;
      x_q         <= '0;
      y_q         <= '0;
      across_q    <= '0;
      down_q      <= '0;
      read_q      <= '0;
      valid_q     <= 1'b0;
      error_o     <= 1'b0;
    end else begin
      if (put) begin
        in_beat_q <= in_end ? '0 : in_beat_q + 1'b1;
        write_q   <= (write_q == AddrBits'(Depth - 1)) ? '0 : write_q + 1'b1;
        if (write_q == AddrBits'(RowBeats - 1) || write_q == AddrBits'(Depth - 1)) begin
          full_q[write_row_q] <= 1'b1;
          write_row_q         <= !write_row_q;
        end
        if (s_axis_tlast != in_end) error_o <= 1'b1;
      end
      if (en) valid_q <= get;
      if (get) begin
        beat_q <= beat_end ? '0 : beat_q + 1'b1;
        read_q <= read_q + 1'b1;
        if (beat_end) begin
          across_q <= across_end ? '0 : across_q + 1'b1;
          if (!across_end) read_q <= read_q - AddrBits'(Beats - 1);
          else begin
            x_q <= x_end ? '0 : x_q + 1'b1;
            if (x_end) begin
              down_q <= down_end ? '0 : down_q + 1'b1;
              if (!down_end) read_q <= read_row_q ? AddrBits'(RowBeats) : '0;
              else begin
                read_q             <= read_row_q ? '0 : AddrBits'(RowBeats);
                full_q[read_row_q] <= 1'b0;
                read_row_q         <= !read_row_q;
                y_q                <= int'(y_q) == H - 1 ? '0 : y_q + 1'b1;
              end
            end
          end
        end
      end
    end
  end

  assign m_axis_tvalid = valid_q;
  assign m_axis_tdata  = data_q;
  assign m_axis_tlast  = last_q;

endmodule
