// Address of memories that hold the words of several layers, one after the other, for frames that take turns: the words
// of layer 0 for the first frame, of layer 1 for the next, and of layer 0 again behind the last layer.
//
// Equation:  addr_o = layer * Words + word, both counted by step_i: words 0 to Words - 1, Passes times in a frame.
// Latency:   addr_o is a register.
module mx_layer_words #(
  parameter int Words  = 4,
  parameter int Passes = 1,
  parameter int Layers = 1,
  localparam int AddrBits = mx_pkg::index_bits(Layers * Words)
) (
  input  logic                aclk,
  input  logic                aresetn,

  input  logic                step_i,
  output logic [AddrBits-1:0] addr_o
);

  if (Words < 1 || Passes < 1 || Layers < 1) begin : g_check
    $error("mx_layer_words: Words = %0d, Passes = %0d, Layers = %0d; expected at least 1 each", Words, Passes, Layers);
  end

  if (Layers == 1) begin : g_one
    always_ff @(posedge aclk) begin
      if (!aresetn) addr_o <= '0;
      else if (step_i) addr_o <= (addr_o == AddrBits'(Words - 1)) ? '0 : addr_o + 1'b1;
    end
  end else begin : g_several
    logic end_of_pass, end_of_frame, end_of_layers;

    mx_count #(.Count(Words)) u_words (.aclk, .aresetn, .step_i, .last_o(end_of_pass));
    mx_count #(.Count(Passes)) u_passes (
      .aclk, .aresetn, .step_i(step_i && end_of_pass), .last_o(end_of_frame)
    );
    mx_count #(.Count(Layers)) u_layers (
      .aclk, .aresetn, .step_i(step_i && end_of_pass && end_of_frame), .last_o(end_of_layers)
    );

    always_ff @(posedge aclk) begin
      if (!aresetn) addr_o <= '0;
      else if (step_i) begin
        if (!end_of_pass) addr_o <= addr_o + 1'b1;
        else if (!end_of_frame) addr_o <= addr_o - AddrBits'(Words - 1);
        else addr_o <= end_of_layers ? '0 : addr_o + 1'b1;
      end
    end
  end

endmodule
