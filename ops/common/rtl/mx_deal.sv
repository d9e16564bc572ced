// Deals one stream out to two, beats counted: First to output 0, the Rest to output 1, and so on anew. A chain of them
// brings what many units want through one port.
//
// Equation:  output 0 = beats 0 .. First - 1 of every First + Rest, output 1 = the others.
// Latency:   1 cycle; one beat per cycle sustained.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. TLAST of output 0 marks the last of its First beats,
//            that of output 1 is the input's. error_o is sticky: s_axis_tlast came elsewhere than on the last of
//            First + Rest beats, or was missing there. Output i has bit i and field i.
module mx_deal #(
  parameter int Width = 8,
  parameter int First = 1,
  parameter int Rest  = 1
) (
  input  logic               aclk,
  input  logic               aresetn,

  input  logic               s_axis_tvalid,
  output logic               s_axis_tready,
  input  logic [Width-1:0]   s_axis_tdata,
  input  logic               s_axis_tlast,

  output logic [1:0]         m_axis_tvalid,
  input  logic [1:0]         m_axis_tready,
  output logic [2*Width-1:0] m_axis_tdata,
  output logic [1:0]         m_axis_tlast,

  output logic               error_o
);

  if (Width < 1 || First < 1 || Rest < 1) begin : g_check
    $error("mx_deal: Width = %0d, First = %0d, Rest = %0d; expected at least 1 each", Width, First, Rest);
  end

  logic             valid, last, take, first_end, rest_end;
  logic [Width-1:0] data;
  logic             rest_q;  // whether the rest comes

  mx_skid #(.Width(Width)) u_skid (
    .aclk, .aresetn,
    .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast,
    .m_axis_tvalid(valid), .m_axis_tready(m_axis_tready[rest_q]), .m_axis_tdata(data), .m_axis_tlast(last)
  );

  assign take          = valid && m_axis_tready[rest_q];
  assign m_axis_tvalid = {valid && rest_q, valid && !rest_q};
  assign m_axis_tdata  = {2{data}};
  assign m_axis_tlast  = {last, first_end};

  mx_count #(.Count(First)) u_first (.aclk, .aresetn, .step_i(take && !rest_q), .last_o(first_end));
  mx_count #(.Count(Rest)) u_rest (.aclk, .aresetn, .step_i(take && rest_q), .last_o(rest_end));

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      rest_q  <= 1'b0;
      error_o <= 1'b0;
    end else if (take) begin
      if (rest_q ? rest_end : first_end) rest_q <= !rest_q;
      if (last != (rest_q && rest_end)) error_o <= 1'b1;
    end
  end

endmodule
