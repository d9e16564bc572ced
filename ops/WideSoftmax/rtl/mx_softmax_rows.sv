// Softmax of vectors of wide integers, of the entries that take part: one table, one product and one division for each.
//
// Equation:  e[i] = 2**ExpBits * 2**-t[i] with t[i] = (max - x[i]) * Factor in steps of 2**-Fraction, where the mask has a
//            one and keys_i too, else 0; y[i] = e[i] / sum(e) with OutBits fraction bits.
// Frames:    vectors of ceil(K/Lanes) beats in and out, Vectors of them; vector v takes row (v / MaskRepeat) % MaskRows of
//            the mask.
// Latency:   from the last beat of a vector its maximum, its exponentials beat by beat, their sum, the division, and the
//            product (latencies.softmax_latency); one beat per cycle sustained, but no more than one vector in ReciprocalBits + 2 cycles: the division is one bit a cycle.
// Rounding:  as the operator says: distances and the reciprocal are cut off, all else is half up.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. Vectors are counted.
// Memories:  $readmemh files: values and slopes word i = segment i; mask word (row, beat) field l = entry beat*Lanes + l.
module mx_softmax_rows #(
  parameter int Width          = 16,
  parameter int K              = 8,
  parameter int Lanes          = 1,
  parameter int Factor         = 23637,
  parameter int Drop           = 0,
  parameter int DistanceBits   = 16,
  parameter int Fraction       = 10,
  parameter int SegmentBits    = 4,
  parameter int ExpBits        = 16,
  parameter int ReciprocalBits = 17,
  parameter int OutBits        = 15,
  parameter int SlopeWidth     = 17,
  parameter int MaskRows       = 1,
  parameter int MaskRepeat     = 1,
  parameter string ValuesFile = "",
  parameter string SlopesFile = "",
  parameter string MaskFile   = "",
  localparam int OutWidth = OutBits + 2
) (
  input  logic                      aclk,
  input  logic                      aresetn,

  input  logic                      s_axis_tvalid,
  output logic                      s_axis_tready,
  input  logic [Lanes*Width-1:0]    s_axis_tdata,
  input  logic                      s_axis_tlast,
  input  logic [Lanes-1:0]          keys_i,  // of the beat that stands at the input

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast
);

  if (Width < 2 || K < 1 || Lanes < 1 || (Lanes & (Lanes - 1)) != 0 || Factor < 1 || Fraction <= SegmentBits ||
      OutBits >= ExpBits + ReciprocalBits || MaskRows < 1 || MaskRepeat < 1) begin : g_check
    $error("mx_softmax_rows: Width = %0d, K = %0d, Lanes = %0d, Fraction = %0d, MaskRows = %0d, MaskRepeat = %0d; %s",
           Width, K, Lanes, Fraction, MaskRows, MaskRepeat,
           "expected positive ones, a power of two of lanes, long segments");
  end

  localparam int Beats     = mx_pkg::ceil_div(K, Lanes);
  localparam int BeatBits  = mx_pkg::index_bits(Beats);
  localparam int SumBits   = ExpBits + 1 + $clog2(K);
  localparam int ExpStages = 1 + mx_pkg::softmax_exp_latency(Factor, DistanceBits, Fraction - SegmentBits, SlopeWidth);
  localparam int TopStages = mx_pkg::softmax_top_latency(Lanes);
  localparam int Depth     = 1 << $clog2(Beats + TopStages + 4);
  localparam int Behind    = ExpStages + mx_pkg::sum_latency(Lanes) + ReciprocalBits + 10;
  localparam int ExpDepth  = 1 << $clog2(Beats + Behind);
  localparam int Tops      = mx_pkg::norm_results(Depth, Beats);
  localparam int Sums      = mx_pkg::norm_results(ExpDepth, Beats);

  // --- vectors wait until their maximum is known ---------------------------------------------------------------------

  logic                        put, in_last, x_valid, x_last, top_found, top_valid, issue, out_last;
  logic                        unused_top, unused_top_last;
  logic [BeatBits-1:0]         in_beat_q, beat_q;
  logic [Lanes-1:0]            masked, kept, x_kept;
  logic [Lanes-1:0][Width-1:0] x;
  logic signed [Width-1:0]     found, top;

  assign put     = s_axis_tvalid && s_axis_tready;
  assign kept    = masked & keys_i;
  assign in_last = in_beat_q == BeatBits'(Beats - 1);

  mx_softmax_mask #(
    .K(K), .Lanes(Lanes), .Rows(MaskRows), .Repeat(MaskRepeat), .File(MaskFile)
  ) u_mask (
    .aclk, .aresetn, .next_i(put), .kept_o(masked)
  );

  mx_fifo #(.Width(Lanes * (Width + 1)), .Depth(Depth)) u_vectors (
    .aclk, .aresetn,
    .s_axis_tvalid, .s_axis_tready, .s_axis_tdata({kept, s_axis_tdata}), .s_axis_tlast,
    .m_axis_tvalid(x_valid), .m_axis_tready(issue), .m_axis_tdata({x_kept, x}), .m_axis_tlast(x_last)
  );

  mx_softmax_top #(.Width(Width), .Lanes(Lanes)) u_top (
    .aclk, .aresetn, .valid_i(put), .data_i(s_axis_tdata), .kept_i(kept), .last_i(in_last),
    .valid_o(top_found), .top_o(found)
  );

  // Room for that of every vector that has a beat in u_vectors.
  mx_fifo #(.Width(Width), .Depth(Tops)) u_tops (
    .aclk, .aresetn,
    .s_axis_tvalid(top_found), .s_axis_tready(unused_top), .s_axis_tdata(found), .s_axis_tlast(1'b0),
    .m_axis_tvalid(top_valid), .m_axis_tready(issue && out_last), .m_axis_tdata(top), .m_axis_tlast(unused_top_last)
  );

  // --- exponentials; no more are on their way than u_exps has room for --------------------------------------------------

  localparam int RoomBits = $clog2(ExpDepth + 1);

  logic [ExpStages:1]            valid_q, last_q, end_q;
  logic [Lanes-1:0][Width-1:0]   x_q;
  logic [Lanes-1:0]              kept_q;
  logic signed [Width-1:0]       top_q;
  logic [Lanes-1:0][ExpBits:0]   e, held;
  logic [RoomBits-1:0]           used_q;
  logic                          room_q, take, unused_exp, e_valid, e_last;

  assign issue    = x_valid && top_valid && room_q;
  assign out_last = beat_q == BeatBits'(Beats - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      in_beat_q <= '0;
      beat_q    <= '0;
      valid_q   <= '0;
      used_q    <= '0;
      room_q    <= 1'b1;
    end else begin
      if (put) in_beat_q <= in_last ? '0 : in_beat_q + 1'b1;
      if (issue) beat_q <= out_last ? '0 : beat_q + 1'b1;
      valid_q <= {valid_q[ExpStages-1:1], issue};
      used_q  <= used_q + RoomBits'(issue) - RoomBits'(take);
      room_q  <= used_q < RoomBits'(ExpDepth - 1) || (used_q == RoomBits'(ExpDepth - 1) && !issue);
    end
    last_q <= {last_q[ExpStages-1:1], x_last};
    end_q  <= {end_q[ExpStages-1:1], out_last};
    x_q    <= x;
    kept_q <= x_kept;
    top_q  <= top;
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_exp
    mx_softmax_exp #(
      .Width(Width), .Factor(Factor), .Drop(Drop), .DistanceBits(DistanceBits), .Fraction(Fraction),
      .SegmentBits(SegmentBits), .ExpBits(ExpBits), .SlopeWidth(SlopeWidth), .ValuesFile(ValuesFile),
      .SlopesFile(SlopesFile)
    ) u_exp (
      .aclk, .value_i(x_q[i]), .top_i(top_q), .kept_i(kept_q[i]), .exp_o(e[i])
    );
  end

  mx_fifo #(.Width(Lanes * (ExpBits + 1)), .Depth(ExpDepth)) u_exps (
    .aclk, .aresetn,
    .s_axis_tvalid(valid_q[ExpStages]), .s_axis_tready(unused_exp), .s_axis_tdata(e), .s_axis_tlast(last_q[ExpStages]),
    .m_axis_tvalid(e_valid), .m_axis_tready(take), .m_axis_tdata(held), .m_axis_tlast(e_last)
  );

  // --- their sum, and its reciprocal ------------------------------------------------------------------------------------

  localparam int Added = mx_pkg::sum_latency(Lanes);

  logic [Lanes-1:0][SumBits-1:0] terms;
  logic [SumBits-1:0]            lane_sum, sum_q, sum;
  logic [Added:0]                added, ended;
  logic                          fresh_q, done_q, sum_valid, sum_ready, unused_sum, unused_sum_last;
  logic                          r_found, r_valid, unused_r, unused_r_last, share_last;
  logic [ReciprocalBits:0]       r_new, r;

  for (genvar i = 0; i < Lanes; i++) begin : g_term
    assign terms[i] = SumBits'(e[i]);
  end
  mx_sum #(.Terms(Lanes), .Width(SumBits)) u_sum (.aclk, .en_i(1'b1), .terms_i(terms), .sum_o(lane_sum));

  assign added[0] = valid_q[ExpStages];
  assign ended[0] = end_q[ExpStages];
  for (genvar k = 1; k <= Added; k++) begin : g_added
    always_ff @(posedge aclk) begin
      if (!aresetn) added[k] <= 1'b0;
      else added[k] <= added[k-1];
      ended[k] <= ended[k-1];
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      fresh_q <= 1'b1;
      done_q  <= 1'b0;
    end else begin
      if (added[Added]) fresh_q <= ended[Added];
      done_q <= added[Added] && ended[Added];
    end
    if (added[Added]) sum_q <= (fresh_q ? '0 : sum_q) + lane_sum;
  end

  mx_fifo #(.Width(SumBits), .Depth(Sums)) u_sums (
    .aclk, .aresetn,
    .s_axis_tvalid(done_q), .s_axis_tready(unused_sum), .s_axis_tdata(sum_q), .s_axis_tlast(1'b0),
    .m_axis_tvalid(sum_valid), .m_axis_tready(sum_ready), .m_axis_tdata(sum), .m_axis_tlast(unused_sum_last)
  );

  mx_softmax_reciprocal #(.SumBits(SumBits), .ExpBits(ExpBits), .ReciprocalBits(ReciprocalBits)) u_reciprocal (
    .aclk, .aresetn, .valid_i(sum_valid), .ready_o(sum_ready), .sum_i(sum), .valid_o(r_found), .reciprocal_o(r_new)
  );

  mx_fifo #(.Width(ReciprocalBits + 1), .Depth(Sums)) u_reciprocals (
    .aclk, .aresetn,
    .s_axis_tvalid(r_found), .s_axis_tready(unused_r), .s_axis_tdata(r_new), .s_axis_tlast(1'b0),
    .m_axis_tvalid(r_valid), .m_axis_tready(take && share_last), .m_axis_tdata(r), .m_axis_tlast(unused_r_last)
  );

  // --- shares out -------------------------------------------------------------------------------------------------------

  localparam int Multiply = mx_pkg::wide_mul_latency(ExpBits + 2, ReciprocalBits + 2);
  localparam int Stages   = Multiply + 2;
  localparam int Cut      = ExpBits + ReciprocalBits - OutBits;
  localparam int Product  = ExpBits + ReciprocalBits + 4;

  logic [Stages:1]             out_valid_q, out_last_q;
  logic [Lanes-1:0][ExpBits:0] e_q;
  logic [ReciprocalBits:0]     r_q;
  logic [BeatBits-1:0]         share_q;
  logic                        en;

  assign en            = !out_valid_q[Stages] || m_axis_tready;
  assign take          = en && e_valid && r_valid;
  assign share_last    = share_q == BeatBits'(Beats - 1);
  assign m_axis_tvalid = out_valid_q[Stages];
  assign m_axis_tlast  = out_last_q[Stages];

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      out_valid_q <= '0;
      share_q     <= '0;
    end else if (en) begin
      out_valid_q <= {out_valid_q[Stages-1:1], take};
      if (take) share_q <= share_last ? '0 : share_q + 1'b1;
    end
    if (en) begin
      out_last_q <= {out_last_q[Stages-1:1], e_last};
      e_q        <= held;
      r_q        <= r;
    end
  end

  for (genvar i = 0; i < Lanes; i++) begin : g_share
    logic signed [Product-1:0] product;
    logic [OutWidth-1:0]       share_out_q;

    mx_wide_mul #(.ABits(ExpBits + 2), .BBits(ReciprocalBits + 2)) u_mul (
      .aclk, .en_i(en), .a_i({1'b0, e_q[i]}), .b_i({1'b0, r_q}), .product_o(product)
    );
    always_ff @(posedge aclk) begin
      if (en) share_out_q <= OutWidth'((product + (Product'(1) << (Cut - 1))) >>> Cut);
    end
    assign m_axis_tdata[i*OutWidth+:OutWidth] = share_out_q;
  end

  logic unused;
  assign unused = &{unused_top, unused_top_last, unused_exp, unused_sum, unused_sum_last, unused_r, unused_r_last};

endmodule
