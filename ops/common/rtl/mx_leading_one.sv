// Position of the leading one, by fours.
//
// Equation:  top_o = floor(log2(data_i)), 0 where data_i is; zero_o = data_i == 0.
// Latency:   0 (combinational).
module mx_leading_one #(
  parameter int Width = 32,
  localparam int TopBits = mx_pkg::index_bits(Width)
) (
  input  logic [Width-1:0]   data_i,
  output logic [TopBits-1:0] top_o,
  output logic               zero_o
);

  if (Width < 1 || Width > 256) begin : g_check
    $error("mx_leading_one: Width = %0d; expected 1..256", Width);
  end

  localparam int Levels = (TopBits + 1) / 2;

  // Level 0 holds the bits, each level whether four of the level below hold a one, and where the highest one is.
  for (genvar l = 0; l <= Levels; l++) begin : g_level
    localparam int Count = mx_pkg::ceil_div(Width, 1 << (2 * l));
    logic [4*mx_pkg::ceil_div(Count, 4)-1:0]                         any;
    logic [4*mx_pkg::ceil_div(Count, 4)-1:0][((l > 0) ? 2 * l : 1)-1:0] top;

    if (l == 0) begin : g_in
      assign any = $bits(any)'(data_i);
      assign top = '0;
    end else begin : g_fours
      for (genvar i = 0; i < 4 * mx_pkg::ceil_div(Count, 4); i++) begin : g_four
        if (i < Count) begin : g_used
          logic [3:0] four;
          logic [1:0] high;
          assign four   = g_level[l-1].any[4*i+:4];
          assign high   = four[3] ? 2'd3 : four[2] ? 2'd2 : four[1] ? 2'd1 : 2'd0;
          assign any[i] = |four;
          if (l == 1) begin : g_first
            assign top[i] = high;
          end else begin : g_next
            assign top[i] = {high, g_level[l-1].top[4*i+int'(high)]};
          end
        end else begin : g_unused
          assign any[i] = 1'b0;
          assign top[i] = '0;
        end
      end
    end
  end

  assign top_o  = TopBits'(g_level[Levels].top[0]);
  assign zero_o = !g_level[Levels].any[0];

endmodule
