// Registers of a design on AXI4-Lite: what it is, and counters of frames, of waiting and of what went wrong.
//
// Words:     0 "MXEX", 1 Identity, 2 bit 0: error_i, 3 write 1: clear all counters, 4 how many counters there are;
//            from 8 on the counters: of every input frames taken and cycles in which a beat waited, of every output
//            frames given and cycles in which a beat waited, then those of counters_i. Others read as 0.
//            5 and 6 are written: the lower half of base_o, then the upper half, with which go_o rises.
// Equation:  a counter reads as what it has counted since it was cleared, modulo 2**32.
// Handshake: AXI4-Lite, one read and one write at a time; every address answers OKAY.
module mx_registers #(
  parameter int Inputs   = 1,
  parameter int Outputs  = 1,
  parameter int Counters = 1,   // of counters_i
  parameter int Identity = 0
) (
  input  logic                    aclk,
  input  logic                    aresetn,

  input  logic                    s_axilite_awvalid,
  output logic                    s_axilite_awready,
  input  logic [11:0]             s_axilite_awaddr,
  input  logic                    s_axilite_wvalid,
  output logic                    s_axilite_wready,
  input  logic [31:0]             s_axilite_wdata,
  input  logic [3:0]              s_axilite_wstrb,
  output logic                    s_axilite_bvalid,
  input  logic                    s_axilite_bready,
  output logic [1:0]              s_axilite_bresp,
  input  logic                    s_axilite_arvalid,
  output logic                    s_axilite_arready,
  input  logic [11:0]             s_axilite_araddr,
  output logic                    s_axilite_rvalid,
  input  logic                    s_axilite_rready,
  output logic [31:0]             s_axilite_rdata,
  output logic [1:0]              s_axilite_rresp,

  input  logic [Inputs-1:0]       in_valid_i,
  input  logic [Inputs-1:0]       in_ready_i,
  input  logic [Inputs-1:0]       in_last_i,
  input  logic [Outputs-1:0]      out_valid_i,
  input  logic [Outputs-1:0]      out_ready_i,
  input  logic [Outputs-1:0]      out_last_i,
  input  logic [Counters*32-1:0]  counters_i,
  input  logic                    error_i,

  output logic [63:0]             base_o,
  output logic                    go_o
);

  localparam int First = 8;  // word of the first counter
  localparam int Ends  = Inputs + Outputs;
  localparam int Words = 2 * Ends + Counters;

  if (Inputs < 1 || Outputs < 1 || Counters < 0 || First + Words > 1024) begin : g_check
    $error("mx_registers: Inputs = %0d, Outputs = %0d, Counters = %0d; expected at least one of each end, 1024 words",
           Inputs, Outputs, Counters);
  end

  logic [Ends-1:0]        valid, ready, last;
  logic [Ends-1:0][31:0]  frames_q, waits_q;
  logic [Words-1:0][31:0] counted, cleared_q;
  logic                   clear, write, read;
  logic [9:0]             write_word, read_word;
  logic [31:0]            value;

  assign valid = {out_valid_i, in_valid_i};
  assign ready = {out_ready_i, in_ready_i};
  assign last  = {out_last_i, in_last_i};

  for (genvar i = 0; i < Ends; i++) begin : g_end
    always_ff @(posedge aclk) begin
      if (!aresetn) begin
        frames_q[i] <= '0;
        waits_q[i]  <= '0;
      end else begin
        if (valid[i] && ready[i] && last[i]) frames_q[i] <= frames_q[i] + 1'b1;
        if (valid[i] && !ready[i]) waits_q[i] <= waits_q[i] + 1'b1;
      end
    end
    assign counted[2*i]   = frames_q[i];
    assign counted[2*i+1] = waits_q[i];
  end
  if (Counters > 0) begin : g_counters
    assign counted[Words-1:2*Ends] = counters_i;
  end

  // Write: address and data may come in any order; both are taken together.
  assign write             = s_axilite_awvalid && s_axilite_wvalid && !s_axilite_bvalid;
  assign write_word        = s_axilite_awaddr[11:2];
  assign s_axilite_awready = write;
  assign s_axilite_wready  = write;
  assign s_axilite_bresp   = 2'b00;
  assign clear             = write && write_word == 10'd3 && s_axilite_wstrb[0] && s_axilite_wdata[0];

  always_ff @(posedge aclk) begin
    if (!aresetn) go_o <= 1'b0;
    else if (write && write_word == 10'd6) go_o <= 1'b1;
    if (write && write_word == 10'd5) base_o[31:0] <= s_axilite_wdata;
    if (write && write_word == 10'd6) base_o[63:32] <= s_axilite_wdata;
  end

  // Read.
  assign read              = s_axilite_arvalid && !s_axilite_rvalid;
  assign read_word         = s_axilite_araddr[11:2];
  assign s_axilite_arready = read;
  assign s_axilite_rresp   = 2'b00;

  always_comb begin
    value = '0;
    case (read_word)
      10'd0:   value = "MXEX";
      10'd1:   value = 32'(Identity);
      10'd2:   value = 32'(error_i);
      10'd4:   value = 32'(Words);
      default: value = '0;
    endcase
    for (int i = 0; i < Words; i++) if (read_word == 10'(First + i)) value = counted[i] - cleared_q[i];
  end

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      s_axilite_bvalid <= 1'b0;
      s_axilite_rvalid <= 1'b0;
      cleared_q        <= '0;
    end else begin
      if (write) s_axilite_bvalid <= 1'b1;
      else if (s_axilite_bready) s_axilite_bvalid <= 1'b0;
      if (read) s_axilite_rvalid <= 1'b1;
      else if (s_axilite_rready) s_axilite_rvalid <= 1'b0;
      if (clear) cleared_q <= counted;
    end
    if (read) s_axilite_rdata <= value;
  end

  logic unused;
  assign unused = ^{s_axilite_awaddr[1:0], s_axilite_araddr[1:0], s_axilite_wstrb[3:1], s_axilite_wdata[31:1],
                    counters_i};

endmodule
