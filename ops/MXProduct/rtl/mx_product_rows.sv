// The second operand of mx_product on its way into memory: beats of rows in, one write each of codes, and of scales
// at the last beat of a block.
//
// Layout:    row r of a head lies in memory r % Pe, its scales in memory (r % Pe) / Turns; addresses as
//            mx_bank_write counts them, with the codes of a beat or the scales of a beat's blocks a word, of scales
//            those of the Turns rows of a memory one after the other. In pairs, codes are linear values, of odd rows
//            less one where the even row's is negative, as mx_dot_pair wants them; where the last row is even,
//            its codes stand in for the odd one's.
// Latency:   writes come one cycle behind put_i, of codes in pairs two.
// Handshake: put_i takes a beat; end_o: it is the last one of a frame. written_o: codes and scales of a frame are
//            written to the end with this cycle. error_o is sticky: last_i came where no frame ends, or was missing
//            where one does.
module mx_product_rows #(
  parameter int Rows       = 4,
  parameter int Heads      = 1,
  parameter int Beats      = 4,  // of a row
  parameter int BlockBeats = 4,  // of the blocks of a beat
  parameter int Pe         = 1,
  parameter int Turns      = 1,
  parameter int Across     = 1,  // blocks of a beat
  parameter int Part       = 8,  // elements of each
  parameter int ExpBits    = 2,
  parameter int ManBits    = 1,
  parameter int ShiftBits  = 1,  // that are kept of a scale
  parameter bit Pair       = 0,
  localparam int Bits      = mx_pkg::element_bits(ExpBits, ManBits),
  localparam int Linear    = mx_pkg::linear_bits(ExpBits, ManBits),
  localparam int Stored    = Pair ? Linear : Bits,
  localparam int Simd      = Across * Part,
  localparam int Places    = Beats / BlockBeats,
  localparam int Folds     = mx_pkg::ceil_div(Rows, Pe),
  localparam int Groups    = mx_pkg::ceil_div(Pe, Turns),
  localparam int CodeBits  = mx_pkg::index_bits(2 * Heads * Folds * Beats),
  localparam int ScaleBits = mx_pkg::index_bits(2 * Heads * Folds * Places * Turns)
) (
  input  logic                                 aclk,
  input  logic                                 aresetn,

  input  logic                                 put_i,
  input  logic [Across-1:0][8+Part*Bits-1:0]   data_i,
  input  logic                                 last_i,
  output logic                                 end_o,
  output logic                                 written_o,

  output logic [Pe-1:0]                        code_write_o,
  output logic [CodeBits-1:0]                  code_addr_o,
  output logic [Simd-1:0][Stored-1:0]          codes_o,
  output logic [Groups-1:0]                    scale_write_o,
  output logic [ScaleBits-1:0]                 scale_addr_o,
  output logic [Across-1:0][ShiftBits-1:0]     scales_o,

  output logic                                 error_o
);

  if (Rows < 1 || Heads < 1 || BlockBeats < 1 || Beats % BlockBeats != 0 || Pe < 1 || Turns < 1 || Across < 1 ||
      Part < 1 || ShiftBits < 1 || ShiftBits > 8 || (Pair && Pe % 2 != 0)) begin : g_check
    $error("mx_product_rows: Rows = %0d, Beats = %0d, BlockBeats = %0d, Pe = %0d, ShiftBits = %0d; expected %s", Rows,
           Beats, BlockBeats, Pe, ShiftBits, "at least 1 each, whole blocks, at most 8 bits, pairs of rows");
  end

  // Where the beat belongs: beat of a row, head, row of a fold.

  localparam int TurnBits = mx_pkg::index_bits(Turns);

  logic [Pe-1:0]       lane_q;  // one of them: the row's place in its fold
  logic [TurnBits-1:0] turn_q;
  logic                part_end, row_end, head_last, rows_end, fold_end, last_row;

  mx_count #(.Count(BlockBeats)) u_part (.aclk, .aresetn, .step_i(put_i), .last_o(part_end));
  mx_count #(.Count(Beats)) u_beat (.aclk, .aresetn, .step_i(put_i), .last_o(row_end));
  mx_count #(.Count(Heads)) u_head (.aclk, .aresetn, .step_i(put_i && row_end), .last_o(head_last));
  mx_count #(.Count(Rows)) u_row (.aclk, .aresetn, .step_i(put_i && rows_end), .last_o(last_row));

  assign rows_end = row_end && head_last;  // of a row of all heads
  assign fold_end = lane_q[Pe-1];
  assign end_o    = rows_end && last_row;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      lane_q  <= Pe'(1);
      turn_q  <= '0;
      error_o <= 1'b0;
    end else if (put_i) begin
      if (last_i != end_o) error_o <= 1'b1;
      if (rows_end) begin
        lane_q <= last_row ? Pe'(1) : Pe'({lane_q, fold_end});
        turn_q <= (last_row || fold_end || turn_q == TurnBits'(Turns - 1)) ? '0 : turn_q + 1'b1;
      end
    end
  end

  logic [CodeBits-1:0]  code_addr;
  logic [ScaleBits-1:0] scale_addr;

  mx_bank_write #(.Words(Beats), .Heads(Heads), .Folds(Folds)) u_code_addr (
    .aclk, .aresetn, .step_i(put_i), .head_i(row_end), .row_i(head_last), .fold_i(fold_end), .frame_i(last_row),
    .addr_o(code_addr)
  );

  mx_bank_write #(.Words(Places), .Step(Turns), .Heads(Heads), .Folds(Folds)) u_scale_addr (
    .aclk, .aresetn, .step_i(put_i && part_end), .head_i(row_end), .row_i(head_last), .fold_i(fold_end),
    .frame_i(last_row), .addr_o(scale_addr)
  );

  // Scales.

  for (genvar g = 0; g < Groups; g++) begin : g_group
    localparam int Members = (Pe - g * Turns < Turns) ? Pe - g * Turns : Turns;
    always_ff @(posedge aclk) begin
      if (!aresetn) scale_write_o[g] <= 1'b0;
      else scale_write_o[g] <= put_i && part_end && |lane_q[g*Turns+:Members];
    end
  end

  always_ff @(posedge aclk) begin
    scale_addr_o <= scale_addr + ScaleBits'(turn_q);
    for (int b = 0; b < Across; b++) scales_o[b] <= ShiftBits'(data_i[b][Part*Bits+:8]);
  end

  // Codes, or their linear values.

  logic                        put_q, end_q;
  logic [Pe-1:0]               lanes_q;
  logic [CodeBits-1:0]         addr_q;
  logic [Simd-1:0][Stored-1:0] stored, stored_q;

  for (genvar b = 0; b < Across; b++) begin : g_block
    for (genvar i = 0; i < Part; i++) begin : g_element
      logic [Bits-1:0] code;
      assign code = data_i[b][i*Bits+:Bits];
      if (Pair && ExpBits != 0) begin : g_linear
        logic [Linear-1:0] magnitude;
        assign magnitude = Linear'(mx_pkg::linear_magnitude(ExpBits, ManBits, int'(code[Bits-2:0])));
        assign stored[b*Part+i] = code[Bits-1] ? -magnitude : magnitude;
      end else begin : g_code
        assign stored[b*Part+i] = code;
      end
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      put_q <= 1'b0;
      end_q <= 1'b0;
    end else begin
      put_q <= put_i;
      end_q <= put_i && end_o;
    end
    lanes_q  <= lane_q;
    addr_q   <= code_addr;
    stored_q <= stored;
  end

  if (Pair) begin : g_pair
    localparam int Signs    = Heads * Beats;  // beats of a row of all heads
    localparam int SignBits = mx_pkg::index_bits(Signs);

    (* ram_style = "distributed" *) logic [Simd-1:0] signs [Signs];
    logic [SignBits-1:0] sign_addr_q;
    logic [Simd-1:0]     signs_q;  // of the even row
    logic                odd_q;

    always_ff @(posedge aclk) begin
      if (!aresetn) sign_addr_q <= '0;
      else if (put_i) sign_addr_q <= rows_end ? '0 : sign_addr_q + 1'b1;
    end

    function automatic logic odd_of(logic [Pe-1:0] lanes);
      odd_of = 1'b0;
      for (int p = 1; p < Pe; p += 2) odd_of |= lanes[p];
    endfunction

    function automatic logic [Simd-1:0] signs_of(logic [Simd-1:0][Stored-1:0] values);
      for (int i = 0; i < Simd; i++) signs_of[i] = values[i][Stored-1];
    endfunction

    always_ff @(posedge aclk) begin
      if (put_i && !odd_of(lane_q)) signs[sign_addr_q] <= signs_of(stored);
      signs_q <= signs[sign_addr_q];
      odd_q   <= odd_of(lane_q);
    end

    always_ff @(posedge aclk) begin
      if (!aresetn) begin
        code_write_o <= '0;
        written_o    <= 1'b0;
      end else begin
        for (int p = 0; p < Pe; p++) code_write_o[p] <= put_q && (lanes_q[p] || p % 2 == 1 && lanes_q[p-p%2]);
        written_o <= end_q;
      end
      code_addr_o <= addr_q;
      for (int i = 0; i < Simd; i++) codes_o[i] <= stored_q[i] - Stored'(odd_q && signs_q[i]);
    end
  end else begin : g_single
    assign code_write_o = put_q ? lanes_q : '0;
    assign code_addr_o  = addr_q;
    assign codes_o      = stored_q;
    assign written_o    = end_q;
  end

endmodule
