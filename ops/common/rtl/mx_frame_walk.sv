// Places in frames of pixels: which beat of a pixel comes, and whether its pixel is the first or last.
//
// Equation:  beats are counted, Beats to a pixel and Pixels to a frame.
// Handshake: step_i moves on by one beat, which last_i ends a frame with or not; error_o is sticky:
//            last_i came where no frame ends, or was missing where one does.
module mx_frame_walk #(
  parameter int Pixels = 4,
  parameter int Beats  = 1,
  localparam int BeatBits = mx_pkg::index_bits(Beats)
) (
  input  logic                aclk,
  input  logic                aresetn,

  input  logic                step_i,
  input  logic                last_i,
  output logic [BeatBits-1:0] beat_o,
  output logic                first_pixel_o,
  output logic                last_pixel_o,
  output logic                error_o
);

  if (Pixels < 1 || Beats < 1) begin : g_check
    $error("mx_frame_walk: Pixels = %0d, Beats = %0d; expected at least 1 each", Pixels, Beats);
  end

  localparam int PixelBits = mx_pkg::index_bits(Pixels);

  logic [PixelBits-1:0] pixel_q;
  logic                 beat_end;

  assign beat_end      = beat_o == BeatBits'(Beats - 1);
  assign first_pixel_o = pixel_q == '0;
  assign last_pixel_o  = pixel_q == PixelBits'(Pixels - 1);

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      beat_o  <= '0;
      pixel_q <= '0;
      error_o <= 1'b0;
    end else if (step_i) begin
      beat_o <= beat_end ? '0 : beat_o + 1'b1;
      if (beat_end) pixel_q <= last_pixel_o ? '0 : pixel_q + 1'b1;
      if (last_i != (beat_end && last_pixel_o)) error_o <= 1'b1;
    end
  end

endmodule
