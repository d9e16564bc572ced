/* MXQuantize, MXQuantizeTokens and MXDequantize: wide integers to MX blocks and back, by integers only.

   The arithmetic is that of mxexport/numbers/fixedpoint.py. */

#include "elements.h"

static const char BELOW[] = "MXDequantize: a scale code lies below scale_offset, or more than 62 above it";

/* --- one block ------------------------------------------------------------------------------------------------- */

/* The scale code of a block by its largest magnitude. */
static int64_t scale_code(const Kernel *k, int64_t amax) {
    if (!amax) return k->code_min;
    const int64_t top = floor_log2(amax), down = most(top - 23, 0);
    const int64_t fraction = left(amax >> down, most(23 - top, 0)), sticky = (amax & (left(1, down) - 1)) != 0;
    const int64_t carry = right(((fraction - (1 << 23)) | sticky) + k->round_bias, 23);
    return clamped(top + k->lsb_exp + 127 + carry - k->emax, k->code_min, k->code_max);
}

/* rne(magnitude * 2**-shift) */
INLINE int64_t round_shift(int64_t magnitude, int64_t shift) {
    if (shift > 62) return 0;
    return shift > 0 ? shifted_evenly(magnitude, shift) : left(magnitude, least(-shift, 62));
}

/* The code of x * 2**exponent, to nearest even, saturated. */
INLINE uint8_t element_code(const Kernel *k, int64_t x, int64_t exponent, int is_float) {
    const int64_t magnitude = magnitude_of(x), own = floor_log2(magnitude) + exponent, lowest = 1 - k->exponent_bias;
    const int64_t binade = is_float ? most(own, lowest) : 0;
    if (!magnitude) return 0;
    int64_t code = k->max_code;
    if (own <= k->emax + 1) {
        code = round_shift(magnitude, binade - k->mantissa_bits - exponent);
        if (is_float) code = plus(code, left(binade - lowest, k->mantissa_bits));
        code = least(code, k->max_code);
    }
    if (is_float) return (uint8_t)(code | (x < 0 ? left(1, k->exponent_bits + k->mantissa_bits) : 0));
    return (uint8_t)((x < 0 ? -code : code) & (left(1, 2 + k->mantissa_bits) - 1));
}

/* A block of `count` numbers, `step` apart; returns its scale code. */
static uint8_t quantize_block(const Kernel *k, const int64_t *x, int64_t step, int64_t count, uint8_t *codes, int64_t code_step) {
    int64_t amax = 0;
    for (int64_t i = 0; i < count; i++) amax = most(amax, magnitude_of(x[i * step]));
    const int64_t scale = scale_code(k, amax), exponent = k->lsb_exp + 127 - scale;
    if (k->exponent_bits)
        for (int64_t i = 0; i < count; i++) codes[i * code_step] = element_code(k, x[i * step], exponent, 1);
    else
        for (int64_t i = 0; i < count; i++) codes[i * code_step] = element_code(k, x[i * step], exponent, 0);
    return (uint8_t)scale;
}

/* --- MXQuantize ------------------------------------------------------------------------------------------------ */

static void part_of_quantize(Work *w, int64_t first, int64_t last) {
    const int64_t *x = w->in[0].data, group = w->k->group_size, blocks = ceil_div(w->count, group), inner = w->inner;
    uint8_t *codes = w->out[0], *scale = w->out[1];
    for (int64_t i = first; i < last; i++) {
        const int64_t begin = i / inner % blocks * group, at = (i / inner / blocks * w->count + begin) * inner + i % inner;
        scale[i] = quantize_block(w->k, x + at, inner, least(group, w->count - begin), codes + at, inner);
    }
}

static Status *compute_quantize(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_quantize};
    Status *status = read_inputs(&w, context, 1);
    if (!status) status = along_axis(w.k, &w.in[0], &w.outer, &w.count, &w.inner, &w.shape[1]);
    if (status) return status;
    w.shape[0] = w.in[0];
    status = make_outputs(&w, context, 2);
    return status ? status : share(&w, context, size_of(&w.shape[1]), least(w.k->group_size, w.count) * 4, "");
}

/* --- MXQuantizeTokens ------------------------------------------------------------------------------------------ */

/* [outer, count (tokens), heads, channels] to [outer, channels, heads, count] */
static void part_of_tokens(Work *w, int64_t first, int64_t last) {
    const Tensor *t = &w->in[0];
    const int64_t *x = t->data, group = w->k->group_size, tokens = w->count, blocks = ceil_div(tokens, group);
    const int64_t channels = t->dims[t->rank - 1], heads = w->inner / channels;
    uint8_t *codes = w->out[0], *scale = w->out[1];
    for (int64_t i = first; i < last; i++) {
        const int64_t begin = i % blocks * group, row = i / blocks, head = row % heads, channel = row / heads % channels;
        const int64_t frame = row / w->inner, at = (frame * tokens + begin) * w->inner + head * channels + channel;
        scale[i] = quantize_block(w->k, x + at, w->inner, least(group, tokens - begin), codes + row * tokens + begin, 1);
    }
}

static Status *compute_tokens(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_tokens};
    const Tensor *x = &w.in[0];
    Status *status = read_inputs(&w, context, 1);
    if (status) return status;
    if (x->rank < 3 || x->rank > 4) return wrong(w.k, "MXQuantizeTokens: expected X [N, T, C] or [N, T, H, C]");
    w.outer = x->dims[0], w.count = x->dims[1], w.inner = product_of(x->dims + 2, x->rank - 2);
    w.shape[0] = *x;
    for (size_t i = 1; i < x->rank; i++) w.shape[0].dims[i] = x->dims[x->rank - i];
    w.shape[1] = w.shape[0];
    w.shape[1].dims[x->rank - 1] = ceil_div(w.count, w.k->group_size);
    status = make_outputs(&w, context, 2);
    return status ? status : share(&w, context, size_of(&w.shape[1]), least(w.k->group_size, w.count) * 4, "");
}

/* --- MXDequantize ---------------------------------------------------------------------------------------------- */

static void part_of_dequantize(Work *w, int64_t first, int64_t last) { /* pieces: rows of `inner` */
    const int64_t blocks = ceil_div(w->count, w->k->group_size), inner = w->inner, *values = w->k->values[0];
    int odd = 0;
    for (int64_t row = first; row < last; row++) {
        const uint8_t *codes = (const uint8_t *)w->in[0].data + row * inner;
        const uint8_t *scale = (const uint8_t *)w->in[1].data + (row / w->count * blocks + row % w->count / w->k->group_size) * inner;
        int64_t *y = (int64_t *)w->out[0] + row * inner;
        for (int64_t i = 0; i < inner; i++) {
            const int64_t shift = scale[i] - w->k->scale_offset, value = values[codes[i]];
            const int fits = shift >= 0 && shift <= 62;
            odd |= !fits && value;
            y[i] = fits ? left(value, shift) : 0;
        }
    }
    if (odd) atomic_store(&w->odd, 1);
}

static Status *compute_dequantize(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_dequantize};
    Tensor contracted;
    Status *status = read_inputs(&w, context, 2);
    if (!status) status = along_axis(w.k, &w.in[0], &w.outer, &w.count, &w.inner, &contracted);
    if (status) return status;
    if (!same_shape(&w.in[1], &contracted)) return wrong(w.k, "MXDequantize: scale_codes does not have one code for each block");
    w.shape[0] = w.in[0];
    status = make_outputs(&w, context, 1);
    return status ? status : share(&w, context, w.outer * w.count, w.inner, BELOW);
}

/* --- the table ------------------------------------------------------------------------------------------------- */

static Status *prepare_codes(Kernel *k) {
    Status *status = grouped(k);
    if (!status) status = fits_a_byte(k, k->exponent_bits, k->mantissa_bits);
    if (!status) fill_linear(k->values[0], k->exponent_bits, k->mantissa_bits);
    return status;
}

#define QUANTIZER \
    "group_size", "lsb_exp", "exponent_bits", "mantissa_bits", "exponent_bias", "max_code", "emax", "round_bias", "code_min", "code_max"

Operator CODERS[] = {
    {{0}, "MXQuantize", compute_quantize, prepare_codes, {INT64}, {UINT8, UINT8}, 0, {QUANTIZER, "axis"}},
    {{0}, "MXQuantizeTokens", compute_tokens, prepare_codes, {INT64}, {UINT8, UINT8}, 0, {QUANTIZER}},
    {{0}, "MXDequantize", compute_dequantize, prepare_codes, {UINT8, UINT8}, {INT64}, 0,
     {"axis", "group_size", "exponent_bits", "mantissa_bits", "scale_offset"}},
    {{0}, NULL, NULL, NULL, {0}, {0}, 0, {NULL}},
};
