// Softmax of vectors of wide integers (operator WideSoftmax).
//
// Equation:  y = e / sum(e) with e = exp(x - max), of the entries whose mask is 1; see mx_softmax_rows.
// Latency:   that of mx_softmax_rows.
// Handshake: AXI4-Stream; s_axis_tready depends on registers only. Vectors are counted.
// Memories:  $readmemh files: values and slopes word i = segment i; mask word (row, beat) field l = entry beat*Lanes + l.
module mx_softmax #(
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

  output logic                      m_axis_tvalid,
  input  logic                      m_axis_tready,
  output logic [Lanes*OutWidth-1:0] m_axis_tdata,
  output logic                      m_axis_tlast
);

  if (K < 1 || Lanes < 1) begin : g_check
    $error("mx_softmax: K = %0d, Lanes = %0d; expected positive ones", K, Lanes);
  end

  mx_softmax_rows #(
    .Width(Width), .K(K), .Lanes(Lanes), .Factor(Factor), .Drop(Drop), .DistanceBits(DistanceBits), .Fraction(Fraction),
    .SegmentBits(SegmentBits), .ExpBits(ExpBits), .ReciprocalBits(ReciprocalBits), .OutBits(OutBits),
    .SlopeWidth(SlopeWidth), .MaskRows(MaskRows), .MaskRepeat(MaskRepeat), .ValuesFile(ValuesFile),
    .SlopesFile(SlopesFile), .MaskFile(MaskFile)
  ) u_rows (
    .aclk, .aresetn, .s_axis_tvalid, .s_axis_tready, .s_axis_tdata, .s_axis_tlast, .keys_i('1),
    .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast
  );

endmodule
