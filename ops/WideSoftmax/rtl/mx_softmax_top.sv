// The largest entry that takes part, of one vector after the other.
//
// Equation:  top_o = max over the lanes with kept_i, and over beats up to last_i; the lowest number where there is none.
// Latency:   mx_pkg::softmax_top_latency(Lanes) cycles from the beat with last_i; one beat per cycle sustained. Nothing
//            holds it back: what comes out has to be taken.
module mx_softmax_top #(
  parameter int Width = 16,
  parameter int Lanes = 1    // power of two
) (
  input  logic                    aclk,
  input  logic                    aresetn,

  input  logic                    valid_i,
  input  logic [Lanes*Width-1:0]  data_i,
  input  logic [Lanes-1:0]        kept_i,
  input  logic                    last_i,

  output logic                    valid_o,
  output logic signed [Width-1:0] top_o
);

  if (Width < 2 || Lanes < 1 || (Lanes & (Lanes - 1)) != 0) begin : g_check
    $error("mx_softmax_top: Width = %0d, Lanes = %0d; expected a power of two of lanes", Width, Lanes);
  end

  localparam int Levels = $clog2(Lanes);
  localparam int Stages = mx_pkg::softmax_top_latency(Lanes);

  // Level by level: half as many as before, each the larger of two.
  logic [Levels:0][Lanes-1:0][Width-1:0] level;
  logic [Stages-1:1]                     valid_q, last_q;
  logic                                  fresh_q;

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    always_ff @(posedge aclk) begin
      level[0][i] <= kept_i[i] ? data_i[i*Width+:Width] : {1'b1, {(Width - 1) {1'b0}}};
    end
  end
  for (genvar k = 1; k <= Levels; k++) begin : g_level
    for (genvar i = 0; i < (Lanes >> k); i++) begin : g_pair
      always_ff @(posedge aclk) begin
        level[k][i] <= $signed(level[k-1][2*i]) > $signed(level[k-1][2*i+1]) ? level[k-1][2*i] : level[k-1][2*i+1];
      end
    end
    for (genvar i = Lanes >> k; i < Lanes; i++) begin : g_unused
      assign level[k][i] = '0;
    end
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      valid_q <= '0;
      fresh_q <= 1'b1;
      valid_o <= 1'b0;
    end else begin
      valid_q <= (Stages - 1)'({valid_q, valid_i});
      valid_o <= valid_q[Stages-1] && last_q[Stages-1];
      if (valid_q[Stages-1]) fresh_q <= last_q[Stages-1];
    end
    last_q <= (Stages - 1)'({last_q, last_i});
    if (valid_q[Stages-1] && (fresh_q || $signed(level[Levels][0]) > top_o)) top_o <= level[Levels][0];
  end

endmodule
