// Results fold by fold to results vector by vector, of Tile vectors at a time.
//
// Equation:  beat f*Tile + v of a tile goes out as beat v*Folds + f.
// Frames:    Tiles * Tile * Folds beats in and out, TLAST on the last.
// Latency:   2 cycles from the last beat of a tile to the first output beat. Two tiles are held, so one comes while the
//            other goes.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only.
module mx_fed_order #(
  parameter int Width = 32,
  parameter int Tile  = 2,
  parameter int Folds = 2,
  parameter int Tiles = 1,
  parameter bit Ultra = 0
) (
  input  logic             aclk,
  input  logic             aresetn,

  input  logic             s_axis_tvalid,
  output logic             s_axis_tready,
  input  logic [Width-1:0] s_axis_tdata,

  output logic             m_axis_tvalid,
  input  logic             m_axis_tready,
  output logic [Width-1:0] m_axis_tdata,
  output logic             m_axis_tlast
);

  if (Width < 1 || Tile < 1 || Folds < 1 || Tiles < 1) begin : g_check
    $error("mx_fed_order: Width = %0d, Tile = %0d, Folds = %0d, Tiles = %0d; expected at least 1 each", Width, Tile,
           Folds, Tiles);
  end

  localparam int Words    = Tile * Folds;
  localparam int AddrBits = mx_pkg::index_bits(2 * Words);

  typedef logic [AddrBits-1:0] addr_t;

  logic       put, vector_end, fold_end, en, get, get_end, tile_end;
  logic [1:0] full_q;
  logic       write_half_q, read_half_q, valid_q, last_q;
  addr_t      write_q, fold_q, read_q;  // fold_q: where the fold begins

  assign s_axis_tready = !full_q[write_half_q];
  assign put           = s_axis_tvalid && s_axis_tready;
  assign en            = !valid_q || m_axis_tready;
  assign get           = full_q[read_half_q] && en;

  mx_count #(.Count(Tile)) u_vector (.aclk, .aresetn, .step_i(put), .last_o(vector_end));
  mx_count #(.Count(Folds)) u_fold (.aclk, .aresetn, .step_i(put && vector_end), .last_o(fold_end));
  mx_count #(.Count(Words)) u_read (.aclk, .aresetn, .step_i(get), .last_o(get_end));
  mx_count #(.Count(Tiles)) u_tile (.aclk, .aresetn, .step_i(get && get_end), .last_o(tile_end));

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      full_q       <= '0;
      write_half_q <= 1'b0;
      read_half_q  <= 1'b0;
      valid_q      <= 1'b0;
      write_q      <= '0;
      fold_q       <= '0;
      read_q       <= '0;
    end else begin
      if (put && vector_end && fold_end) begin
        full_q[write_half_q] <= 1'b1;
        write_half_q         <= !write_half_q;
        write_q              <= write_half_q ? '0 : addr_t'(Words);
        fold_q               <= write_half_q ? '0 : addr_t'(Words);
      end else if (put && vector_end) begin
        write_q <= fold_q + 1'b1;
        fold_q  <= fold_q + 1'b1;
      end else if (put) begin
        write_q <= write_q + addr_t'(Folds);
      end
      if (get) read_q <= (read_q == addr_t'(2 * Words - 1)) ? '0 : read_q + 1'b1;
      if (get && get_end) begin
        full_q[read_half_q] <= 1'b0;
        read_half_q         <= !read_half_q;
      end
      if (en) valid_q <= get;
    end
    if (en) last_q <= get_end && tile_end;
  end

  mx_ram #(.Width(Width), .Depth(2 * Words), .Ultra(Ultra)) u_ram (
    .aclk, .write_i(put), .write_addr_i(write_q), .data_i(s_axis_tdata),
    .en_i(en), .addr_i(read_q), .data_o(m_axis_tdata)
  );

  assign m_axis_tvalid = valid_q;
  assign m_axis_tlast  = last_q;

endmodule
