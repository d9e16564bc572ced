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

  // Whether mx_mul shifts the product of two minifloats in steps, the exponents in binary.
  function automatic bit shifts_in_steps(int a_exp, int a_man, int w_exp, int w_man);
    return a_exp >= 2 && w_exp >= 2 && !fits_table(a_exp, a_man, w_exp, w_man);
  endfunction

  // Bits of the sum of two exponents that count from 1.
  function automatic int exponent_sum_bits(int a_exp, int w_exp);
    return $clog2((1 << a_exp) + (1 << w_exp) - 1);
  endfunction

  // Whether mx_mul leaves the sign to the adders behind it: where its last level of LUTs has no input free.
  function automatic bit sign_pending(int a_exp, int a_man, int w_exp, int w_man);
    int sum_bits;
    if (!shifts_in_steps(a_exp, a_man, w_exp, w_man)) return 1;
    if (a_exp == 2 && w_exp == 2) return 0;
    sum_bits = exponent_sum_bits(a_exp, w_exp);
    return sum_bits == 5 && ceil_div(a_man + w_man + 5, 4) > 2;
  endfunction

  // Cycles of mx_mul: product of the mantissas and shift, each in one or two.
  function automatic int mul_latency(int a_exp, int a_man, int w_exp, int w_man);
    int exp;
    exp = (a_exp > w_exp) ? a_exp : w_exp;
    if (fits_table(a_exp, a_man, w_exp, w_man) || exp == 0) return 1;
    if (a_exp == 0 || w_exp == 0) return (exp > 2) ? 3 : 2;
    if (shifts_in_steps(a_exp, a_man, w_exp, w_man)) return (exponent_sum_bits(a_exp, w_exp) == 6) ? 3 : 2;
    return (exponent_span(a_exp) + exponent_span(w_exp) > 3) ? 2 : 1;
  endfunction

  // Terms that an adder of mx_tree takes, at level 1 and on; what a level has of them, its number of levels,
  // and the bits of a term.
  function automatic int tree_step(bit pending, int level);
    return (pending && level == 1) ? 2 : 3;
  endfunction

  function automatic int tree_terms(int terms, bit pending, int level);
    int left;
    left = terms;
    for (int l = 1; l <= level; l++) left = ceil_div(left, tree_step(pending, l));
    return left;
  endfunction

  function automatic int tree_levels(int terms, bit pending);
    int level;
    level = 0;
    while (tree_terms(terms, pending, level) > 1) level++;
    return level;
  endfunction

  function automatic int tree_bits(int terms, int width, bit pending, int level);
    int added;
    added = 1;
    for (int l = 1; l <= level; l++) added = added * tree_step(pending, l);
    return width + $clog2((added < terms) ? added : terms);
  endfunction

  // Cycles of mx_dot_booth: two lanes a cycle in a chain of up to four, the chains, the digits.
  function automatic int booth_latency(int w_bits, int simd);
    int length;
    int digits;
    length = (simd < 4) ? simd : 4;
    digits = ceil_div(w_bits, 2);
    return ((length > 2) ? 2 : 1) + tree_levels(simd / length, 0) + int'(digits > 1) + int'(digits > 3);
  endfunction

  // Cycles of mx_dot: the product and the adder tree, or the Booth rows of integers in LUTs.
  function automatic int dot_latency(int a_exp, int a_man, int w_exp, int w_man, int simd, bit use_dsp);
    if (a_exp == 0 && w_exp == 0 && !use_dsp) return booth_latency(element_bits(w_exp, w_man), simd);
    return mul_latency(a_exp, a_man, w_exp, w_man) + tree_levels(simd, sign_pending(a_exp, a_man, w_exp, w_man));
  endfunction

  // Whether elements of so many binades are encoded by mx_encode_wide.
  function automatic bit encodes_wide(int binades);
    return binades > 5;
  endfunction

  // Cycles of mx_encode_lane: its registers, then mx_encode or mx_encode_wide.
  function automatic int encode_latency(int binades);
    return encodes_wide(binades) ? 5 : 3;
  endfunction

  // The lowest scale code that a block of wide integers gets, and the highest: magnitudes have `bits` bits, and a scale
  // rule that rounds takes all ones into the next binade (a magnitude with a sign beside it has all ones only below
  // its highest bit).
  function automatic int lowest_scale(int lsb_exp, int emax, int code_min, int code_max);
    return clip(lsb_exp + 127 - emax, code_min, code_max);
  endfunction

  function automatic int highest_scale(int lsb_exp, int emax, int bits, bit signs, int round_bias, int code_min,
                                       int code_max);
    int top;
    top = (signs || round_bias == 0) ? bits - 1 : bits;
    return clip(lsb_exp + 127 - emax + top, code_min, code_max);
  endfunction

  // Rows that take turns at one shifter and accumulator of mx_matmul: a block sum lasts for block_beats cycles.
  function automatic int rows_in_turn(int pe, int block_beats);
    return ceil_div(pe, ceil_div(pe, (block_beats < 8) ? block_beats : 8));
  endfunction

  // Bits that mx_dot_pair keeps for the lower of two packed sums, and how many products these hold.
  function automatic int pair_low(int a_bits, int w_bits);
    return (a_bits + w_bits <= 16) ? 25 - w_bits : 19;
  endfunction

  function automatic int pair_field(int a_bits, int w_bits);
    int most;
    most = 1 << (pair_low(a_bits, w_bits) + 1 - a_bits - w_bits);
    return (most < 16) ? most : 16;
  endfunction

  // Cycles of mx_dot_pair: a cascade of up to four DSP slices, then packed sums, then those of either row.
  function automatic int pair_latency(int a_bits, int w_bits, int simd);
    int field;
    int length;
    field  = pair_field(a_bits, w_bits);
    if (simd < field) field = simd;
    length = (field < 4) ? field : 4;
    return length + 2 + $clog2(field / length) + tree_levels(simd / field, 0);
  endfunction

  // Cycles of mx_dot_three: a cascade of up to four DSP slices with three products each, then the tree of these.
  function automatic int three_latency(int simd);
    int chains;
    chains = ceil_div(ceil_div(simd, 3), 4);
    return ceil_div(ceil_div(simd, 3), chains) + 2 + tree_levels(chains, 0);
  endfunction

  // Digits of a signed integer, the uppermost with one bit more than the others.
  function automatic int wide_digits(int bits, int step);
    return (bits <= step + 1) ? 1 : ceil_div(bits - 1, step);
  endfunction

  // Whether mx_wide_mul takes digits of 17 bits of its first factor and of 26 of the second; else the other way.
  function automatic bit wide_mul_short(int a_bits, int b_bits);
    return wide_digits(a_bits, 17) * wide_digits(b_bits, 26) <= wide_digits(a_bits, 26) * wide_digits(b_bits, 17);
  endfunction

  // Cycles of mx_wide_mul: products of digits, then their sum.
  function automatic int wide_mul_latency(int a_bits, int b_bits);
    if (wide_mul_short(a_bits, b_bits))
      return 1 + tree_levels(wide_digits(a_bits, 17) * wide_digits(b_bits, 26), 0);
    return 1 + tree_levels(wide_digits(a_bits, 26) * wide_digits(b_bits, 17), 0);
  endfunction

  // Cycles of mx_divide, of `width` bits and `shift` that are added below.
  function automatic int divide_latency(int width, int shift);
    return 4 + wide_mul_latency(width + 1, width + shift + 2);
  endfunction

  // Cycles of mx_hard_swish: v, its product with v + 3, a third of it, the rest, the result.
  function automatic int hard_swish_latency(int fraction);
    int whole;
    whole = fraction + 5;
    return 3 + wide_mul_latency(fraction + 4, fraction + 4) + wide_mul_latency(whole + 1, whole + 3);
  endfunction

  // Bits of a positive constant as a signed factor.
  function automatic int factor_bits(int factor);
    return $clog2(factor + 1) + 1;
  endfunction

  // A number without its lowest one, and the place of that.
  function automatic int upper_ones(int factor);
    return factor & (factor - 1);
  endfunction

  function automatic int lowest_one(int factor);
    return $clog2(factor - upper_ones(factor));
  endfunction

  // Whether mx_times is a shift, or a sum of two: constants of one or two ones.
  function automatic bit times_adds(int factor);
    return upper_ones(upper_ones(factor)) == 0;
  endfunction

  // Cycles of mx_times.
  function automatic int times_latency(int width, int factor);
    return times_adds(factor) ? 1 : wide_mul_latency(width, factor_bits(factor));
  endfunction

  // Bits of the sum of k signed values of `width` bits, and of their squares.
  function automatic int norm_sum_bits(int width, int k);
    return width + $clog2(k);
  endfunction

  function automatic int norm_square_bits(int width, int k);
    return 2 * width + $clog2(k);
  endfunction

  // Cycles in which mx_norm_statistics multiplies its two sums.
  function automatic int norm_multiply_latency(int width, int k, int center);
    int square;
    int times;
    square = wide_mul_latency(norm_sum_bits(width, k), norm_sum_bits(width, k));
    times  = times_latency(norm_square_bits(width, k), k);
    return (center != 0 && square > times) ? square : times;
  endfunction

  // Cycles of mx_norm_statistics, from the last beat of a vector.
  function automatic int norm_statistics_latency(int width, int k, int lanes, int center, int slope_width, int low);
    return 9 + wide_mul_latency(width, width) + sum_latency(lanes) + norm_multiply_latency(width, k, center)
           + wide_mul_latency(slope_width, low + 1);
  endfunction

  // Beats that mx_norm holds: those of a vector, and what comes while its statistics are found.
  function automatic int norm_depth(int width, int k, int lanes, int center, int slope_width, int low);
    return 1 << $clog2(ceil_div(k, lanes) + norm_statistics_latency(width, k, lanes, center, slope_width, low) + 3);
  endfunction

  // Vectors that have a beat in a FIFO of `depth` beats and its register, and one that comes in.
  function automatic int norm_results(int depth, int beats);
    return 1 << $clog2((depth + 1) / beats + 3);
  endfunction

  // Cycles of mx_softmax_top: a register, one for each level of pairs, and the largest so far.
  function automatic int softmax_top_latency(int lanes);
    return 2 + $clog2(lanes);
  endfunction

  // Cycles of mx_softmax_exp; `low`: bits of a step within a chord.
  function automatic int softmax_exp_latency(int factor, int distance_bits, int low, int slope_width);
    return 7 + wide_mul_latency(distance_bits + 1, factor_bits(factor)) + wide_mul_latency(slope_width, low + 1);
  endfunction

  // Cycles of mx_sum: one register for every two levels of its tree.
  function automatic int sum_latency(int terms);
    return ($clog2(terms) + 1) / 2;
  endfunction

  // Beats of `pixels` pixels from the first tap of a window, shifted by the padding, to its last one.
  function automatic int taps_lag(int w, int span_h, int span_w, int pad_top, int pad_left, int pixels);
    return ceil_div((span_h - 1 - pad_top) * w + span_w - 1 - pad_left, pixels);
  endfunction

  // Whether mx_rom takes block RAM of its own choice.
  function automatic bit rom_large(int depth, int width, int block_depth);
    return depth >= block_depth && depth * width > 4096;
  endfunction

  // Whether mx_ram takes block RAM.
  function automatic bit ram_large(int depth, int width);
    return depth > 64 && depth * width > 4096;
  endfunction

  // Words of a ROM that go into its first piece: all of them, or the largest power of two where the rest is so
  // small that memories of its own save block RAMs.
  function automatic int rom_piece(int depth);
    int piece;
    int rest;
    piece = 1 << ($clog2(depth + 1) - 1);
    rest  = depth - piece;
    if (rest > 0 && (piece >= 512 && rest <= 64 || piece >= 1024 && rest <= piece / 2 + 64)) return piece;
    return depth;
  endfunction

  // x times a constant, of sums: a product would take a DSP block in some tools.
  function automatic int times(int x, int factor);
    int sum;
    sum = 0;
    for (int i = 0; i < 31; i++) if (factor[i]) sum = sum + (x << i);
    return sum;
  endfunction

  // Bits of an index 0..count-1, at least one.
  function automatic int index_bits(int count);
    return (count > 1) ? $clog2(count) : 1;
  endfunction

  // Of a zero that a module then refuses: 1.
  function automatic int ceil_div(int a, int b);
    return (b == 0) ? 1 : (a + b - 1) / b;
  endfunction

  // Beats of a bus that `words` words take, as mx_gear reads them.
  function automatic int bus_beats(int bus, int width, int words);
    return (width >= bus) ? words * ceil_div(width, bus) : ceil_div(words, bus / width);
  endfunction

  function automatic int clip(int x, int lo, int hi);
    return (x < lo) ? lo : (x > hi) ? hi : x;
  endfunction

endpackage
