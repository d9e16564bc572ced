// mx_matmul with weights that come through a port: once into memory, or again for every Tile vectors (operator MXMatMul).
//
// Equation:  that of mx_matmul, with the weights, scales and biases that came.
// Frames:    s0_axis and m_axis as those of mx_matmul. s1_axis: Folds = ceil(Rows/Pe) times the words of a fold
//            (mx_fed_words), TLAST on the last beat: a load.
// Tile:      0: a load is kept in memory for all frames behind it. N: a load serves N vectors, one fold of them after
//            the other, so that no more than the weights of two folds are held; a frame takes Vectors/N loads.
// Latency:   that of mx_matmul where Tile <= 1. Else results go out once a tile is done: Folds * Tile times the beats of
//            a vector behind the first, and 2 cycles.
// Rounding:  none.
// Handshake: AXI4-Stream. Vectors wait until weights have come. Where Tile = 0, a load that comes later replaces the
//            weights between two frames: it is taken once the frames inside are done, and none begins meanwhile.
//            error_o is sticky: a TLAST of either input came where no frame or load ends, or was missing where one does.
module mx_matmul_fed #(
  parameter int K           = 32,  // elements of a row
  parameter int Vectors     = 1,   // vectors of a frame (pixels, tokens)
  parameter int Rows        = 4,
  parameter int Group       = 32,  // elements that share a scale, power of two
  parameter int Pe          = 1,
  parameter int Simd        = 8,   // divides Group, or is whole groups: a divisor of a row's
  parameter int AExpBits    = 2,   // activation element; 0: integer
  parameter int AManBits    = 1,
  parameter int WExpBits    = 2,   // weight element
  parameter int WManBits    = 1,
  parameter int AccWidth    = 32,
  parameter int ScaleOffset = 254,
  parameter int ShiftMax    = 0,   // largest x_scale + w_scale - ScaleOffset of a non-zero block
  parameter bit HasBias     = 0,
  parameter int UseDsp      = -1,  // 0: LUTs, 1: DSP blocks, 2: in threes, -1: DSP blocks if both are integers
  parameter bit Pair        = 0,   // rows go in pairs, two products of linear values per DSP block (mx_dot_pair)
  parameter int Bus         = 128,
  parameter int Tile        = 0,   // divides Vectors
  parameter bit Ultra       = 0,   // weights that are kept, or results of a tile, lie in UltraRAM
  localparam int ABits  = mx_pkg::element_bits(AExpBits, AManBits),
  localparam int WBits  = mx_pkg::element_bits(WExpBits, WManBits),
  localparam int Across = (Simd > Group) ? Simd / Group : 1,  // blocks of a beat
  localparam int Part   = Simd / Across                       // elements of each
) (
  input  logic                    aclk,
  input  logic                    aresetn,

  input  logic                    s0_axis_tvalid,
  output logic                    s0_axis_tready,
  input  logic [Across-1:0][8+Part*ABits-1:0] s0_axis_tdata,  // {scale, elements}, lane 0 in the low bits
  input  logic                    s0_axis_tlast,

  input  logic                    s1_axis_tvalid,
  output logic                    s1_axis_tready,
  input  logic [Bus-1:0]          s1_axis_tdata,
  input  logic                    s1_axis_tlast,

  output logic                    m_axis_tvalid,
  input  logic                    m_axis_tready,
  output logic [Pe*AccWidth-1:0]  m_axis_tdata,
  output logic                    m_axis_tlast,

  output logic                    error_o
);

  if (K < 1 || Vectors < 1 || Rows < 1 || Pe < 1 || Simd < 1 || Group < 1 || (Group & (Group - 1)) != 0 ||
      Group % Part != 0 || Simd != Across * Part || mx_pkg::ceil_div(K, Group) % Across != 0) begin : g_check_shape
    $error("mx_matmul_fed: K = %0d, Rows = %0d, Group = %0d, Pe = %0d, Simd = %0d; expected %s", K, Rows, Group, Pe,
           Simd, "K, Vectors, Rows, Pe >= 1, Group a power of two, Simd its divisor or whole groups that divide a row");
  end
  if (Bus < 1 || Tile < 0 || Tile > 0 && Vectors % Tile != 0) begin : g_check_tile
    $error("mx_matmul_fed: Bus = %0d, Vectors = %0d, Tile = %0d; expected Bus >= 1, Tile 0 or a divisor of Vectors",
           Bus, Vectors, Tile);
  end

  localparam int Blocks     = mx_pkg::ceil_div(K, Group);
  localparam int BlockBeats = Group / Part;
  localparam int Places     = Blocks / Across;             // of blocks one after the other, in a vector
  localparam int Beats      = Places * BlockBeats;         // of a vector
  localparam int Folds      = mx_pkg::ceil_div(Rows, Pe);

  localparam int BeatBits   = mx_pkg::index_bits(Beats);
  localparam int ShiftBits  = mx_pkg::index_bits(ShiftMax + 1);
  localparam int PartBeat   = ShiftBits + Part * ABits;

  localparam int WStored    = Pair ? mx_pkg::linear_bits(WExpBits, WManBits) : WBits;
  localparam int Turns      = mx_pkg::rows_in_turn(Pe, BlockBeats);
  localparam int Groups     = mx_pkg::ceil_div(Pe, Turns);  // of rows; missing rows are zero
  localparam int Width      = Pe * Simd * WStored;
  localparam int ScaleWords = Places * Turns;               // of a fold
  localparam int ScaleWidth = Groups * Across * ShiftBits;  // of what is kept

  // Weights from block RAM pass a register before products in LUTs.
  localparam bit InDsp      = Pair || (AExpBits == 0 && WExpBits == 0 && UseDsp != 0);
  localparam bit Late       = Tile == 0 && !InDsp && mx_pkg::ram_large(Folds * Beats, Width);

  logic en, admit, x_valid, weights_there, unused;

  // Vectors: check TLAST, keep as many as a load serves for all folds.

  logic                            s0_ready, replayed_valid, first_vector, last_vector, a_error;
  logic [BeatBits-1:0]             beat;
  logic [Across-1:0][PartBeat-1:0] x, x_in;

  assign s0_axis_tready = s0_ready && admit;

  mx_frame_walk #(.Pixels(Vectors), .Beats(Beats)) u_walk (
    .aclk, .aresetn, .step_i(s0_axis_tvalid && s0_axis_tready), .last_i(s0_axis_tlast),
    .beat_o(beat), .first_pixel_o(first_vector), .last_pixel_o(last_vector), .error_o(a_error)
  );

  for (genvar b = 0; b < Across; b++) begin : g_in
    assign x_in[b] = {ShiftBits'(s0_axis_tdata[b][Part*ABits+:8]), s0_axis_tdata[b][Part*ABits-1:0]};
  end

  mx_replay #(.Width(Across * PartBeat), .Beats((Tile > 1 ? Tile : 1) * Beats), .Times(Folds)) u_replay (
    .aclk, .aresetn,
    .s_axis_tvalid(s0_axis_tvalid && admit), .s_axis_tready(s0_ready), .s_axis_tdata(x_in),
    .m_axis_tvalid(replayed_valid), .m_axis_tready(en && weights_there), .m_axis_tdata(x)
  );

  assign x_valid = replayed_valid && weights_there;

  // Words of weights, scales and biases.

  logic                                  bus_valid, bus_ready, bus_last;
  logic [Bus-1:0]                        bus;
  logic                                  weight_valid, weight_ready, scale_valid, scale_ready, bias_valid, bias_ready;
  logic [Width-1:0]                      weight;
  logic [Groups-1:0][Across-1:0][7:0]    scale_codes;
  logic [Groups-1:0][Across-1:0][ShiftBits-1:0] scale;
  logic [Groups*AccWidth-1:0]            bias;

  mx_skid #(.Width(Bus)) u_bus (
    .aclk, .aresetn,
    .s_axis_tvalid(s1_axis_tvalid), .s_axis_tready(s1_axis_tready), .s_axis_tdata(s1_axis_tdata),
    .s_axis_tlast(s1_axis_tlast),
    .m_axis_tvalid(bus_valid), .m_axis_tready(bus_ready), .m_axis_tdata(bus), .m_axis_tlast(bus_last)
  );

  logic words_valid, words_ready;

  mx_fed_words #(
    .Bus(Bus), .Beats(Beats), .Width(Width), .ScaleWords(ScaleWords), .ScaleWidth(8 * Groups * Across),
    .BiasWords(Turns), .BiasWidth(Groups * AccWidth), .HasBias(HasBias)
  ) u_words (
    .aclk, .aresetn,
    .s_axis_tvalid(words_valid), .s_axis_tready(words_ready), .s_axis_tdata(bus),
    .weight_valid_o(weight_valid), .weight_ready_i(weight_ready), .weight_o(weight),
    .scale_valid_o(scale_valid), .scale_ready_i(scale_ready), .scale_o(scale_codes),
    .bias_valid_o(bias_valid), .bias_ready_i(bias_ready), .bias_o(bias)
  );

  for (genvar g = 0; g < Groups; g++) begin : g_scale
    for (genvar b = 0; b < Across; b++) begin : g_block
      assign scale[g][b] = scale_codes[g][b][ShiftBits-1:0];
    end
  end

  // A load ends with its TLAST.

  localparam int LoadBeats = Folds * (mx_pkg::bus_beats(Bus, 8 * Groups * Across, ScaleWords)
      + mx_pkg::bus_beats(Bus, Width, Beats) + (HasBias ? mx_pkg::bus_beats(Bus, Groups * AccWidth, Turns) : 0));

  logic load_end, b_error_q;

  mx_count #(.Count(LoadBeats)) u_load (.aclk, .aresetn, .step_i(words_valid && words_ready), .last_o(load_end));

  always_ff @(posedge aclk) begin
    if (!aresetn) b_error_q <= 1'b0;
    else if (words_valid && words_ready && bus_last != load_end) b_error_q <= 1'b1;
  end

  // As mx_products takes them: one cycle behind the beat, or the step, that they belong to.

  logic                                         scale_step, bias_step, late_error_q;
  logic [Pe-1:0][Simd-1:0][WStored-1:0]         w_q;
  logic [Groups-1:0][Across-1:0][ShiftBits-1:0] scale_q;
  logic [Groups-1:0][AccWidth-1:0]              bias_q;

  logic                   y_valid, y_ready, y_last;
  logic [Pe*AccWidth-1:0] y;

  if (Tile == 0) begin : g_load
    localparam int AddrBits  = mx_pkg::index_bits(Folds * Beats);
    localparam int ScaleAddr = mx_pkg::index_bits(Folds * ScaleWords);
    localparam int BiasAddr  = mx_pkg::index_bits(Folds * Turns);

    logic [AddrBits-1:0]  write_q, read_q;
    logic [ScaleAddr-1:0] scale_write_q, scale_read_q;
    logic                 loading_q, loaded_q;  // beats of a load come; its last word is written
    logic                 write_end, read_end, scale_write_end, scale_read_end, between, begins, ends, again;
    logic [7:0]           inside_q;  // frames that have begun and are not out

    assign write_end       = write_q == AddrBits'(Folds * Beats - 1);
    assign read_end        = read_q == AddrBits'(Folds * Beats - 1);
    assign scale_write_end = scale_write_q == ScaleAddr'(Folds * ScaleWords - 1);
    assign scale_read_end  = scale_read_q == ScaleAddr'(Folds * ScaleWords - 1);

    assign between       = first_vector && beat == '0;
    assign admit         = !between || loaded_q && !bus_valid && inside_q != '1;
    assign begins        = s0_axis_tvalid && s0_axis_tready && between;
    assign ends          = m_axis_tvalid && m_axis_tready && m_axis_tlast;
    assign weights_there = 1'b1;
    assign again         = bus_valid && loaded_q && inside_q == '0 && between;
    assign words_valid   = bus_valid && loading_q;
    assign bus_ready     = words_ready && loading_q;
    assign weight_ready  = 1'b1;
    assign scale_ready   = 1'b1;
    assign bias_ready    = 1'b1;
    assign late_error_q  = 1'b0;

    always_ff @(posedge aclk) begin
      if (!aresetn) begin
        write_q       <= '0;
        read_q        <= '0;
        scale_write_q <= '0;
        scale_read_q  <= '0;
        loading_q     <= 1'b1;
        loaded_q      <= 1'b0;
        inside_q      <= '0;
      end else begin
        if (weight_valid) write_q <= write_end ? '0 : write_q + 1'b1;
        if (scale_valid) scale_write_q <= scale_write_end ? '0 : scale_write_q + 1'b1;
        if (en && x_valid) read_q <= read_end ? '0 : read_q + 1'b1;
        if (en && scale_step) scale_read_q <= scale_read_end ? '0 : scale_read_q + 1'b1;
        inside_q <= inside_q + 8'(begins) - 8'(ends);
        if (again) loading_q <= 1'b1;
        else if (words_valid && words_ready && load_end) loading_q <= 1'b0;
        if (weight_valid && write_end) loaded_q <= 1'b1;
        else if (again) loaded_q <= 1'b0;
      end
    end

    mx_ram #(.Width(Width), .Depth(Folds * Beats), .Ultra(Ultra)) u_weights (
      .aclk, .write_i(weight_valid), .write_addr_i(write_q), .data_i(weight),
      .en_i(en), .addr_i(read_q), .data_o(w_q)
    );
    mx_ram #(.Width(ScaleWidth), .Depth(Folds * ScaleWords)) u_scales (
      .aclk, .write_i(scale_valid), .write_addr_i(scale_write_q), .data_i(scale),
      .en_i(en), .addr_i(scale_read_q), .data_o(scale_q)
    );

    if (HasBias) begin : g_bias
      logic [BiasAddr-1:0] bias_write_q, bias_read_q;
      always_ff @(posedge aclk) begin
        if (!aresetn) begin
          bias_write_q <= '0;
          bias_read_q  <= '0;
        end else begin
          if (bias_valid) bias_write_q <= (bias_write_q == BiasAddr'(Folds * Turns - 1)) ? '0 : bias_write_q + 1'b1;
          if (en && bias_step) begin
            bias_read_q <= (bias_read_q == BiasAddr'(Folds * Turns - 1)) ? '0 : bias_read_q + 1'b1;
          end
        end
      end
      mx_ram #(.Width(Groups * AccWidth), .Depth(Folds * Turns)) u_bias (
        .aclk, .write_i(bias_valid), .write_addr_i(bias_write_q), .data_i(bias),
        .en_i(en), .addr_i(bias_read_q), .data_o(bias_q)
      );
    end else begin : g_no_bias
      assign bias_q = '0;
    end
  end else begin : g_stream
    // Scales and biases of a fold come before its weights, so they are there when the weights are.
    logic                                         scale_there, bias_there;
    logic [Width-1:0]                             w;
    logic [Groups-1:0][Across-1:0][ShiftBits-1:0] s;

    assign admit       = 1'b1;
    assign words_valid = bus_valid;
    assign bus_ready   = words_ready;

    mx_fed_queue #(.Width(Width), .Words(Beats), .Times(Tile), .Buffered(0)) u_weights (
      .aclk, .aresetn,
      .s_axis_tvalid(weight_valid), .s_axis_tready(weight_ready), .s_axis_tdata(weight),
      .m_axis_tvalid(weights_there), .m_axis_tready(en && x_valid), .m_axis_tdata(w)
    );
    mx_fed_queue #(.Width(ScaleWidth), .Words(ScaleWords), .Times(Tile)) u_scales (
      .aclk, .aresetn,
      .s_axis_tvalid(scale_valid), .s_axis_tready(scale_ready), .s_axis_tdata(scale),
      .m_axis_tvalid(scale_there), .m_axis_tready(en && scale_step), .m_axis_tdata(s)
    );

    always_ff @(posedge aclk) begin
      if (en) begin
        w_q     <= w;
        scale_q <= s;
      end
    end

    if (HasBias) begin : g_bias
      logic [Groups*AccWidth-1:0] b;
      mx_fed_queue #(.Width(Groups * AccWidth), .Words(Turns), .Times(Tile)) u_bias (
        .aclk, .aresetn,
        .s_axis_tvalid(bias_valid), .s_axis_tready(bias_ready), .s_axis_tdata(bias),
        .m_axis_tvalid(bias_there), .m_axis_tready(en && bias_step), .m_axis_tdata(b)
      );
      always_ff @(posedge aclk) if (en) bias_q <= b;
    end else begin : g_no_bias
      assign bias_ready = 1'b0;
      assign bias_there = 1'b1;
      assign bias_q     = '0;
    end

    always_ff @(posedge aclk) begin
      if (!aresetn) late_error_q <= 1'b0;
      else if (en && (scale_step && !scale_there || bias_step && !bias_there)) late_error_q <= 1'b1;
    end
  end

  mx_products #(
    .Places(Places), .Folds(Folds), .Vectors(Vectors), .Group(Group), .Pe(Pe), .Simd(Simd), .AExpBits(AExpBits),
    .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits), .AccWidth(AccWidth), .ScaleOffset(ScaleOffset),
    .ShiftMax(ShiftMax), .UseDsp(UseDsp), .Pair(Pair), .Late(Late)
  ) u_products (
    .aclk, .aresetn,
    .en_o(en), .x_valid_i(x_valid), .x_i(x), .w_i(w_q),
    .scale_step_o(scale_step), .w_scale_i(scale_q), .bias_step_o(bias_step), .bias_i(bias_q),
    .m_axis_tvalid(y_valid), .m_axis_tready(y_ready), .m_axis_tdata(y), .m_axis_tlast(y_last)
  );

  if (Tile > 1 && Folds > 1) begin : g_order
    mx_fed_order #(.Width(Pe * AccWidth), .Tile(Tile), .Folds(Folds), .Tiles(Vectors / Tile), .Ultra(Ultra)) u_order (
      .aclk, .aresetn,
      .s_axis_tvalid(y_valid), .s_axis_tready(y_ready), .s_axis_tdata(y),
      .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast
    );
  end else begin : g_straight
    assign {m_axis_tvalid, m_axis_tdata, m_axis_tlast} = {y_valid, y, y_last};
    assign y_ready = m_axis_tready;
  end

  assign error_o = a_error || b_error_q || late_error_q;

endmodule
