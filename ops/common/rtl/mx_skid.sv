// Stream register: breaks every combinational path (valid, data and ready) of an AXI4-Stream.
//
// Equation:  output stream = input stream.
// Latency:   1 cycle; one beat per cycle sustained. Two beats of storage: the second (skid)
//            register catches the beat that arrives in the cycle in which the output stalls.
// Handshake: AXI4-Stream; s_axis_tready and all outputs come from registers.
module mx_skid #(
  parameter int Width = 8
) (
  input  logic             aclk,
  input  logic             aresetn,

  input  logic             s_axis_tvalid,
  output logic             s_axis_tready,
  input  logic [Width-1:0] s_axis_tdata,
  input  logic             s_axis_tlast,

  output logic             m_axis_tvalid,
  input  logic             m_axis_tready,
  output logic [Width-1:0] m_axis_tdata,
  output logic             m_axis_tlast
);

  if (Width < 1) begin : g_check
    $error("mx_skid: Width = %0d; expected at least 1", Width);
  end

  logic [Width:0] out_q, skid_q;
  logic           out_valid_q, skid_valid_q;
  logic           advance;

  assign advance       = !out_valid_q || m_axis_tready;
  assign s_axis_tready = !skid_valid_q;

  always_ff @(posedge aclk) begin
    if (!aresetn) begin
      out_valid_q  <= 1'b0;
      skid_valid_q <= 1'b0;
    end else if (advance) begin
      out_valid_q  <= skid_valid_q || s_axis_tvalid;
      skid_valid_q <= 1'b0;
    end else begin
      skid_valid_q <= skid_valid_q || s_axis_tvalid;
    end
  end

  always_ff @(posedge aclk) begin
    if (advance) out_q <= skid_valid_q ? skid_q : {s_axis_tlast, s_axis_tdata};
    if (s_axis_tready) skid_q <= {s_axis_tlast, s_axis_tdata};
  end

  assign m_axis_tvalid                = out_valid_q;
  assign {m_axis_tlast, m_axis_tdata} = out_q;

endmodule
