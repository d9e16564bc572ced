// Which lanes of the beat that stands at the input take part: those of the vector, and of these where the mask has a one.
//
// Equation:  kept_o = word (row, beat) of File, without lanes beyond the K entries; row = (vector / Repeat) % Rows.
// Latency:   none: kept_o is that of the first beat after reset, and of the next one in the cycle behind next_i.
module mx_softmax_mask #(
  parameter int K      = 8,
  parameter int Lanes  = 1,
  parameter int Rows   = 1,
  parameter int Repeat = 1,
  parameter string File = ""
) (
  input  logic             aclk,
  input  logic             aresetn,
  input  logic             next_i,
  output logic [Lanes-1:0] kept_o
);

  if (K < 1 || Lanes < 1 || Rows < 1 || Repeat < 1) begin : g_check
    $error("mx_softmax_mask: K = %0d, Lanes = %0d, Rows = %0d, Repeat = %0d; expected positive ones", K, Lanes, Rows,
           Repeat);
  end

  localparam int Beats    = mx_pkg::ceil_div(K, Lanes);
  localparam int Words    = Rows * Beats;
  localparam int AddrBits = mx_pkg::index_bits(Words);
  localparam int BeatBits = mx_pkg::index_bits(Beats);
  localparam int TurnBits = mx_pkg::index_bits(Repeat);

  logic [AddrBits-1:0] first_q, first_d, addr_q, addr_d;
  logic [BeatBits-1:0] beat_q, beat_d;
  logic [TurnBits-1:0] turn_q, turn_d;
  logic                row_ends, last_turn, last_row;

  assign row_ends  = beat_q == BeatBits'(Beats - 1);
  assign last_turn = turn_q == TurnBits'(Repeat - 1);
  assign last_row  = addr_q == AddrBits'(Words - 1);

  always_comb begin
    beat_d  = beat_q;
    turn_d  = turn_q;
    addr_d  = addr_q;
    first_d = first_q;
    if (next_i) begin
      beat_d = row_ends ? '0 : beat_q + 1'b1;
      if (!row_ends) begin
        addr_d = addr_q + 1'b1;
      end else begin
        turn_d  = last_turn ? '0 : turn_q + 1'b1;
        addr_d  = !last_turn ? first_q : last_row ? '0 : addr_q + 1'b1;
        first_d = addr_d;
      end
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      beat_q  <= '0;
      turn_q  <= '0;
      addr_q  <= '0;
      first_q <= '0;
    end else begin
      beat_q  <= beat_d;
      turn_q  <= turn_d;
      addr_q  <= addr_d;
      first_q <= first_d;
    end
  end

  mx_rom #(.Width(Lanes), .Depth(Words), .BlockDepth(256), .File(File)) u_mask (
    .aclk, .en_i(1'b1), .addr_i(aresetn ? addr_d : '0), .data_o(kept_o)
  );

endmodule
