// Constant functions of the MX element formats and of memory styles.
//
// An element format is two numbers: ExpBits and ManBits. ExpBits = 0 names a two's complement
// integer with ManBits fraction bits (MX int8: 0, 6); otherwise a sign-magnitude minifloat with
// subnormals. The *linear* value of a code is the whole number of smallest element steps it stands
// for; Inf and NaN codes read as plain numbers (as in mxexport.numbers.fixedpoint.linear_table).
package mx_pkg;

  // Bits of one element code.
  function automatic int element_bits(int exp_bits, int man_bits);
    return (exp_bits == 0) ? man_bits + 2 : 1 + exp_bits + man_bits;
  endfunction

  // Largest left shift of the mantissa in the linear value.
  function automatic int exponent_span(int exp_bits);
    return (exp_bits == 0) ? 0 : (1 << exp_bits) - 2;
  endfunction

  // Bits of the signed linear value.
  function automatic int linear_bits(int exp_bits, int man_bits);
    return man_bits + 2 + exponent_span(exp_bits);
  endfunction

  // Bits of the signed product of two linear values: only (-2**n) * (-2**m) of two integers needs
  // the last bit, and only integers have such codes.
  function automatic int product_bits(int a_exp, int a_man, int w_exp, int w_man);
    return linear_bits(a_exp, a_man) + linear_bits(w_exp, w_man)
           - ((a_exp == 0 && w_exp == 0) ? 0 : 1);
  endfunction

  // Linear magnitude of the magnitude bits (sign removed) of a minifloat code.
  function automatic int linear_magnitude(int exp_bits, int man_bits, int code);
    int field;
    int mantissa;
    field    = (code >> man_bits) & ((1 << exp_bits) - 1);
    mantissa = code & ((1 << man_bits) - 1);
    return (field == 0) ? mantissa : (mantissa + (1 << man_bits)) << (field - 1);
  endfunction

  // A product of two minifloats is one LUT6 per bit when both magnitudes have six bits in all.
  function automatic bit fits_table(int a_exp, int a_man, int w_exp, int w_man);
    return a_exp > 0 && w_exp > 0 && a_exp + a_man + w_exp + w_man <= 6;
  endfunction

  typedef logic [63:0][15:0] product_table_t;

  // Products of linear magnitudes, addressed by {w, a}.
  function automatic product_table_t product_table(int a_exp, int a_man, int w_exp, int w_man);
    product_table_t entries;
    for (int i = 0; i < 64; i++) begin
      entries[i] = 16'(linear_magnitude(a_exp, a_man, i & ((1 << (a_exp + a_man)) - 1))
                       * linear_magnitude(w_exp, w_man, i >> (a_exp + a_man)));
    end
    return entries;
  endfunction

  // Cycles of mx_mul: a mantissa product that is shifted far is registered before the shift.
  function automatic int mul_latency(int a_exp, int a_man, int w_exp, int w_man);
    if (fits_table(a_exp, a_man, w_exp, w_man)) return 1;
    return (exponent_span(a_exp) + exponent_span(w_exp) > 3) ? 2 : 1;
  endfunction

  // Cycles of mx_dot: the product, then one register for every two levels of the adder tree.
  function automatic int dot_latency(int a_exp, int a_man, int w_exp, int w_man, int simd);
    return mul_latency(a_exp, a_man, w_exp, w_man) + ($clog2(simd) + 1) / 2;
  endfunction

  // Products of integers whose sum mx_dot_pair keeps within 19 bits.
  function automatic int pair_field(int a_bits, int w_bits);
    return (a_bits + w_bits <= 16) ? 16 : 8;
  endfunction

  // Cycles of mx_dot_pair: a cascade of up to four DSP slices, then binary sums, then two packed ones.
  function automatic int pair_latency(int a_bits, int w_bits, int simd);
    int most;
    int length;
    most   = pair_field(a_bits, w_bits);
    length = (simd < 4) ? simd : 4;
    return length + 2 + $clog2(((simd < most) ? simd : most) / length) + ((simd > most) ? 1 : 0);
  endfunction

  // Cycles of mx_sum: one register for every two levels of its tree.
  function automatic int sum_latency(int terms);
    return ($clog2(terms) + 1) / 2;
  endfunction

  // Beats of `pixels` pixels from the first tap of a window, shifted by the padding, to its last one.
  function automatic int taps_lag(int w, int span_h, int span_w, int pad_top, int pad_left, int pixels);
    return ceil_div((span_h - 1 - pad_top) * w + span_w - 1 - pad_left, pixels);
  endfunction

  // Bits of an index 0..count-1, at least one.
  function automatic int index_bits(int count);
    return (count > 1) ? $clog2(count) : 1;
  endfunction

  function automatic int ceil_div(int a, int b);
    return (a + b - 1) / b;
  endfunction

  function automatic int clip(int x, int lo, int hi);
    return (x < lo) ? lo : (x > hi) ? hi : x;
  endfunction

endpackage
