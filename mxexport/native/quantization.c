/* The operators of exported files as kernels for onnxruntime: what their function bodies compute, bit for bit.

   The arithmetic is that of mxexport/numbers/numerics.py. Scales come from integer bits. Elements are rounded by adding
   and subtracting the power of two whose last bit weighs one step of the element grid: nearest, ties to even. */

#include <math.h>
#include <stdlib.h>

#include "bits.h"
#include "groups.h"
#include "operators.h"

typedef struct Job Job;

/* One node's work, in pieces that may run at once. */
struct Job {
    const Kernel *k;
    View v;
    const float *x, *scale, *zero; /* zero: NULL where there is none */
    const uint8_t *codes;
    float *y;
    void (*work)(const Job *, int64_t first, int64_t last);
    int64_t tasks;
};

static void task(void *data, size_t number) {
    const Job *j = data;
    int64_t all = pieces(&j->v), i = (int64_t)number;
    j->work(j, all * i / j->tasks, all * (i + 1) / j->tasks);
}

static Status *in_parallel(Job *j, void *context) {
    Api api = j->k->api;
    int64_t elements = j->v.outer * j->v.length * j->v.inner;
    if (!elements) return NULL;
    j->tasks = smaller(smaller(elements / LARGE + 1, pieces(&j->v)), MOST_TASKS);
    if (j->tasks > 1)
        return CALL(api, KernelContext_ParallelFor, void *, void (*)(void *, size_t), size_t, size_t, void *)(context, task, (size_t)j->tasks, 0, j);
    task(j, 0);
    return NULL;
}

#define PIECES(p, j, begin, end)                                    \
    Piece p = piece(&(j)->v, begin);                                \
    for (int64_t number = begin; number < end; number++, next(&(j)->v, &p))

/* --- scales ---------------------------------------------------------------------------------------------------- */

/* The largest magnitude of every column of a piece, as bits. */
INLINE void maxima(const Job *j, const Piece *p, int32_t *amax) {
    const float *x = j->x + p->at;
    if (j->v.inner == 1) {
        amax[0] = p->rows == 32 ? largest_magnitude(x, 32) : largest_magnitude(x, p->rows);
        return;
    }
    for (int64_t i = 0; i < p->cols; i++) amax[i] = bits_of(x[i]) & MAGNITUDE;
    for (int64_t r = 1; r < p->rows; r++) keep_larger(amax, (const int32_t *)x + r * j->v.inner, p->cols);
}

/* code = clamp(((A + round_bias) >> 23) - emax, code_min, code_max); 2**(code - 127 - frac_bits), NaN of what is not finite */
static void mx_scale(const Job *j, int64_t begin, int64_t end) {
    const Kernel *k = j->k;
    const int32_t emax = (int32_t)k->emax, bias = (int32_t)k->round_bias, frac = (int32_t)k->frac_bits;
    const int32_t low = (int32_t)k->code_min, high = (int32_t)k->code_max;
    int32_t amax[COLUMNS];
    PIECES(p, j, begin, end) {
        float *y = j->y + p.scale_at;
        maxima(j, &p, amax);
        for (int64_t i = 0; i < p.cols; i++) {
            int32_t a = amax[i] < INF_BITS ? amax[i] : 0, code = ((a + bias) >> 23) - emax;
            code = code > low ? code : low;
            code = code < high ? code : high;
            y[i] = amax[i] < INF_BITS ? power_of_two(code - 127 - frac) : NAN;
        }
    }
}

INLINE void range(const Job *j, const Piece *p, float *low, float *high) { /* 0 counts, NaN does not */
    const float *x = j->x + p->at;
    for (int64_t i = 0; i < p->cols; i++) low[i] = high[i] = 0;
    for (int64_t r = 0; r < p->rows; r++, x += j->v.inner)
        for (int64_t i = 0; i < p->cols; i++) {
            low[i] = x[i] < low[i] ? x[i] : low[i];
            high[i] = x[i] > high[i] ? x[i] : high[i];
        }
}

static void groupwise_scale(const Job *j, int64_t begin, int64_t end) {
    int32_t amax[COLUMNS];
    float low[COLUMNS], high[COLUMNS];
    PIECES(p, j, begin, end) {
        float *y = j->y + p.scale_at;
        maxima(j, &p, amax);
        if (j->k->asymmetric) range(j, &p, low, high);
        for (int64_t i = 0; i < p.cols; i++) {
            float width = j->k->asymmetric ? high[i] - low[i] : float_of(amax[i]), scale = width / j->k->levels;
            int finite = amax[i] < INF_BITS && (bits_of(scale) & MAGNITUDE) < INF_BITS;
            y[i] = !finite ? NAN : scale == 0 ? 1 : scale;
        }
    }
}

static void groupwise_zero_point(const Job *j, int64_t begin, int64_t end) {
    int32_t amax[COLUMNS];
    float low[COLUMNS], high[COLUMNS];
    const float levels = j->k->levels;
    PIECES(p, j, begin, end) {
        float *y = j->y + p.scale_at;
        const float *scale = j->scale + p.scale_at;
        maxima(j, &p, amax);
        range(j, &p, low, high);
        for (int64_t i = 0; i < p.cols; i++) {
            float z = low[i] == 0 ? 0 : rintf(-low[i] / scale[i]);
            z = z > 0 ? z : 0;
            z = z < levels ? z : levels;
            y[i] = (bits_of(scale[i]) & MAGNITUDE) >= INF_BITS ? 0 : amax[i] > INF_BITS ? NAN : z;
        }
    }
}

static void magnitudes(const Job *j, int64_t begin, int64_t end) {
    int32_t amax[COLUMNS];
    PIECES(p, j, begin, end) {
        maxima(j, &p, amax);
        memcpy(j->y + p.scale_at, amax, p.cols * sizeof *amax);
    }
}

/* --- elements -------------------------------------------------------------------------------------------------- */

/* Where all scales of a piece are powers of two with a normal reciprocal, x / scale is x * factor, correctly rounded
   both ways, and much faster. */
INLINE int factors(const float *restrict scale, float *restrict factor, int64_t count) {
    const uint32_t one = 1 << 23; /* of the exponent field, which is 1 .. 253 for these */
    uint32_t odd = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)bits_of(scale[i]), reciprocal = 254 * one - bits;
        odd |= (bits & MANTISSA) | ((bits | (bits - one) | (reciprocal - one)) & (uint32_t)SIGN);
        factor[i] = float_of((int32_t)reciprocal);
    }
    return !odd;
}

INLINE float divided(float x, float scale, float factor, int by_factor) { /* zeros stay under a scale of zero */
    if (by_factor) return x * factor;
    float quotient = x / scale;
    return x == 0 && scale == scale ? x : quotient;
}

typedef struct {
    float low, high;
} Range;

INLINE void int_row(const float *restrict x, float *restrict y, const float *restrict s, const float *restrict f, const float *restrict z, int stride,
                    int64_t count, Range range, int by_factor) {
    const float magic = 12582912.0f; /* 1.5 * 2**23 */
    for (int64_t i = 0; i < count; i++) {
        float zero = z ? z[i * stride] : 0, q = divided(x[i], s[i * stride], f[i * stride], by_factor) + zero;
        q = q < range.low ? range.low : q;
        q = q > range.high ? range.high : q;
        q = (q + magic) - magic;
        y[i] = (q - zero) * s[i * stride] + 0.0f;
    }
}

typedef struct {
    int32_t lowest, shift; /* of the magnitude's binade, and from it to the grid's */
    float max_val;
    int is_signed, clears_zero;
} Minifloat;

INLINE float rounded(float v, Minifloat m) {
    int32_t sign = bits_of(v) & SIGN;
    float magnitude = float_of(bits_of(v) & MAGNITUDE), kept = magnitude < m.max_val ? magnitude : m.max_val;
    int32_t binade = bits_of(kept) & INF_BITS;
    float grid = float_of((binade > m.lowest ? binade : m.lowest) + m.shift), r = (kept + grid) - grid;
    if (!m.is_signed) r = sign ? 0 : r, sign = 0;
    if (m.clears_zero) sign = r > 0 ? sign : 0;
    float q = float_of(bits_of(r) | sign);
    return magnitude == magnitude ? q : v;
}

/* The grid of a format with a large range or 23 bits of mantissa is no float32: these go one by one, in float64. */
static float rounded_wide(float v, const Kernel *k) {
    if (v != v) return v;
    double magnitude = fabs((double)v), kept = magnitude < k->max_val ? magnitude : k->max_val;
    int exponent = kept == 0 ? -200 : ilogb(kept), lowest = 1 - (int)k->exponent_bias;
    int step = (exponent > lowest ? exponent : lowest) - (int)k->mantissa_bits;
    float r = (float)ldexp(rint(ldexp(kept, -step)), step);
    int negative = bits_of(v) < 0;
    if (!k->is_signed) return negative ? 0 : r;
    return copysignf(r, negative && (k->signed_zero || r > 0) ? -1 : 1);
}

INLINE void float_row(const float *restrict x, float *restrict y, const float *restrict s, const float *restrict f, int stride, int64_t count, Minifloat m,
                      int by_factor) {
    for (int64_t i = 0; i < count; i++) y[i] = rounded(divided(x[i], s[i * stride], f[i * stride], by_factor), m) * s[i * stride];
}

static void wide_row(const float *x, float *y, const float *s, int stride, int64_t count, const Kernel *k) {
    for (int64_t i = 0; i < count; i++) y[i] = rounded_wide(divided(x[i], s[i * stride], 0, 0), k) * s[i * stride];
}

/* Rows of a piece through ROW(x, y, scales, factors, stride, count, by_factor), which the compiler unrolls for each case. */
#define ROWS(j, begin, end, ROW)                                                                      \
    float factor[COLUMNS];                                                                            \
    PIECES(p, j, begin, end) {                                                                        \
        const float *x = (j)->x + p.at, *s = (j)->scale + p.scale_at, *z = (j)->zero ? (j)->zero + p.scale_at : NULL; \
        float *y = (j)->y + p.at;                                                                     \
        int fast = factors(s, factor, p.cols);                                                        \
        (void)z;                                                                                      \
        if ((j)->v.inner == 1) {                                                                      \
            if (fast && p.rows == 32) ROW(x, y, 0, 32, 1);                                            \
            else if (fast) ROW(x, y, 0, p.rows, 1);                                                   \
            else ROW(x, y, 0, p.rows, 0);                                                             \
        } else                                                                                        \
            for (int64_t r = 0; r < p.rows; r++, x += (j)->v.inner, y += (j)->v.inner) {              \
                if (fast) ROW(x, y, 1, p.cols, 1);                                                    \
                else ROW(x, y, 1, p.cols, 0);                                                         \
            }                                                                                         \
    }

static void groupwise_quant(const Job *j, int64_t begin, int64_t end) {
    const Kernel *k = j->k;
    const float codes = (float)(1 << k->bit_width);
    const Range range = {k->is_signed ? (float)(k->narrow != 0) - codes / 2 : 0, k->is_signed ? codes / 2 - 1 : codes - 1};
#define ROW(x, y, stride, count, by_factor) int_row(x, y, s, factor, NULL, stride, count, range, by_factor)
#define ROW_ZERO(x, y, stride, count, by_factor) int_row(x, y, s, factor, z, stride, count, range, by_factor)
    if (j->zero) {
        ROWS(j, begin, end, ROW_ZERO)
    } else {
        ROWS(j, begin, end, ROW)
    }
#undef ROW_ZERO
#undef ROW
}

INLINE int exponent_of(float value) { return (bits_of(value) >> 23) - 127; }

static void mx_float_quant(const Job *j, int64_t begin, int64_t end) {
    const Kernel *k = j->k;
    const Minifloat m = {(int32_t)(128 - k->exponent_bias) << 23, (int32_t)(23 - k->mantissa_bits) << 23, k->max_val, k->is_signed != 0, !k->signed_zero};
    const int64_t highest = exponent_of(k->max_val) > 1 - k->exponent_bias ? exponent_of(k->max_val) : 1 - k->exponent_bias;
    if (k->mantissa_bits > 22 || highest + 23 - k->mantissa_bits > 127) {
#define ROW(x, y, stride, count, by_factor) wide_row(x, y, s, stride, count, k)
        ROWS(j, begin, end, ROW)
#undef ROW
    } else if (m.is_signed && !m.clears_zero) {
        const Minifloat plain = {m.lowest, m.shift, m.max_val, 1, 0};
#define ROW(x, y, stride, count, by_factor) float_row(x, y, s, factor, stride, count, plain, by_factor)
        ROWS(j, begin, end, ROW)
#undef ROW
    } else {
#define ROW(x, y, stride, count, by_factor) float_row(x, y, s, factor, stride, count, m, by_factor)
        ROWS(j, begin, end, ROW)
#undef ROW
    }
}

/* --- packed codes ---------------------------------------------------------------------------------------------- */

INLINE int code_bits(const Kernel *k) { return (int)(k->bit_width ? k->bit_width : 1 + k->exponent_bits + k->mantissa_bits); }

static void fill_table(Kernel *k) {
    const int bits = code_bits(k), half = 1 << (bits - 1), hidden = 1 << k->mantissa_bits;
    for (int c = 0; c < CODES; c++) {
        int code = c & (2 * half - 1), magnitude = code & (half - 1), field = magnitude / hidden;
        if (k->bit_width) {
            k->table[c] = (float)(k->is_signed && code >= half ? code - 2 * half : code);
            continue;
        }
        int exponent = (field > 1 ? field : 1) - (int)(k->exponent_bias + k->mantissa_bits);
        float value = ldexpf((float)(magnitude % hidden + (field ? hidden : 0)), exponent);
        if (magnitude > k->max_code) value = INFINITY;
        if (magnitude > k->max_code + k->has_inf || (!k->signed_zero && code == half)) value = NAN;
        k->table[c] = code >= half ? -value : value;
    }
}

/* Y = (value - zero) * scale; integers then add 0, which clears -0, and minifloats add -0, which changes nothing */
static void dequantize(const Job *j, int64_t begin, int64_t end) {
    const Kernel *k = j->k;
    const int bits = code_bits(k), mask = (1 << bits) - 1;
    const int64_t bytes = (k->group_size * bits + 7) / 8, inner = j->v.inner;
    const float *table = k->table, addend = k->bit_width ? 0.0f : -0.0f;
    PIECES(p, j, begin, end) {
        const float *s = j->scale + p.scale_at, *z = j->zero ? j->zero + p.scale_at : NULL;
        const uint8_t *codes = j->codes + p.group * bytes * inner + p.chunk * COLUMNS;
        float *y = j->y + p.at;
        if (inner == 1 && (bits == 8 || bits == 4)) {
            const float scale = *s, zero = z ? *z : 0;
            if (bits == 8)
                for (int64_t r = 0; r < p.rows; r++) y[r] = (table[codes[r]] - zero) * scale + addend;
            else
                for (int64_t r = 0; r < p.rows; r++) y[r] = (table[codes[r >> 1] >> 4 * (r & 1) & 15] - zero) * scale + addend;
            continue;
        }
        for (int64_t r = 0; r < p.rows; r++, y += inner) {
            const int64_t bit = r * bits;
            const int shift = bit & 7, two = shift + bits > 8;
            const uint8_t *q = codes + (bit >> 3) * inner;
            for (int64_t i = 0; i < p.cols; i++) {
                int code = q[i] >> shift;
                if (two) code |= q[i + inner] << (8 - shift);
                y[i] = (table[code & mask] - (z ? z[i] : 0)) * s[i] + addend;
            }
        }
    }
}

/* --- the operators: their shapes, and who does the work -------------------------------------------------------- */

/* The view of a tensor by the node's axis, and the shape of its contracted tensors. */
static Status *contract(const Kernel *k, const Tensor *t, View *v, Tensor *contracted) {
    int64_t outer, count, inner;
    Status *status = along_axis(k, t, &outer, &count, &inner, contracted);
    if (!status) *v = view_of(outer, count, inner, k->group_size);
    return status;
}

static Status *one_per_group(const Kernel *k, const Tensor *found, const Tensor *contracted) {
    return same_shape(found, contracted) ? NULL : wrong(k, "mxexport.ops: scales or zero points do not have one entry per group");
}

/* MXScale, GroupwiseScale, GroupwiseZeroPoint and the magnitudes of NVFP4Scale: one number per group. */
static Status *per_group(const Kernel *k, void *context, void (*work)(const Job *, int64_t, int64_t), int has_scale, float **made, int64_t *count) {
    Tensor x = {0}, scale = {0}, contracted = {0};
    Job j = {.k = k, .work = work};
    Status *status = read_input(k->api, context, 0, &x);
    if (!status && has_scale) status = read_input(k->api, context, 1, &scale);
    if (!status) status = contract(k, &x, &j.v, &contracted);
    if (!status && has_scale) status = one_per_group(k, &scale, &contracted);
    if (!status) status = make_output(k->api, context, 0, &contracted, &j.y);
    if (status) return status;
    j.x = x.data, j.scale = scale.data;
    if (made) *made = j.y, *count = size_of(&contracted);
    return in_parallel(&j, context);
}

static Status *compute_mx_scale(void *kernel, void *context) { return per_group(kernel, context, mx_scale, 0, NULL, NULL); }
static Status *compute_groupwise_scale(void *kernel, void *context) { return per_group(kernel, context, groupwise_scale, 0, NULL, NULL); }
static Status *compute_zero_point(void *kernel, void *context) { return per_group(kernel, context, groupwise_zero_point, 1, NULL, NULL); }

/* scale = e4m3(amax / 6 * s_enc) * (1 / s_enc) with s_enc = min(6 * 448 / largest amax, 2**126), 1 for zeros */
static Status *compute_nvfp4_scale(void *kernel, void *context) {
    const Minifloat e4m3 = {(128 - 7) << 23, (23 - 3) << 23, 448, 1, 0};
    float *y = NULL, largest = 0;
    int64_t count = 0;
    Status *status = per_group(kernel, context, magnitudes, 0, &y, &count);
    if (status) return status;
    for (int64_t i = 0; i < count; i++) largest = (bits_of(y[i]) < INF_BITS && y[i] > largest) ? y[i] : largest;
    float encode = largest == 0 ? 1 : 6.0f * 448 / largest;
    encode = encode < 0x1p126f ? encode : 0x1p126f;
    const float tensor_scale = 1 / encode;
    for (int64_t i = 0; i < count; i++) y[i] = bits_of(y[i]) < INF_BITS ? rounded(y[i] / 6 * encode, e4m3) * tensor_scale : NAN;
    return NULL;
}

static Status *quantize(const Kernel *k, void *context, void (*work)(const Job *, int64_t, int64_t)) {
    Tensor x = {0}, scale = {0}, zero = {0}, contracted = {0};
    Job j = {.k = k, .work = work};
    Status *status = read_input(k->api, context, 0, &x);
    if (!status) status = read_input(k->api, context, 1, &scale);
    if (!status) status = read_input(k->api, context, 2, &zero);
    if (!status) status = contract(k, &x, &j.v, &contracted);
    if (!status) status = one_per_group(k, &scale, &contracted);
    if (!status && zero.data) status = one_per_group(k, &zero, &contracted);
    if (!status) status = make_output(k->api, context, 0, &x, &j.y);
    if (status) return status;
    j.x = x.data, j.scale = scale.data, j.zero = zero.data;
    return in_parallel(&j, context);
}

static Status *compute_groupwise_quant(void *kernel, void *context) { return quantize(kernel, context, groupwise_quant); }
static Status *compute_mx_float_quant(void *kernel, void *context) { return quantize(kernel, context, mx_float_quant); }

static Status *compute_dequantize(void *kernel, void *context) {
    const Kernel *k = kernel;
    Tensor codes = {0}, scale = {0}, zero = {0}, contracted = {0}, packed = {0};
    Job j = {.k = k, .work = dequantize};
    Status *status = read_input(k->api, context, 0, &codes);
    if (!status) status = read_input(k->api, context, 1, &scale);
    if (!status) status = read_input(k->api, context, 2, &zero);
    if (!status) status = contract(k, &k->shape, &j.v, &contracted);
    if (status) return status;
    packed = contracted;
    packed.dims[k->axis < 0 ? k->axis + (int64_t)packed.rank : k->axis] *= (k->group_size * code_bits(k) + 7) / 8;
    if (!same_shape(&codes, &packed)) return wrong(k, "mxexport.ops: packed codes do not have the bytes that shape and group_size ask for");
    status = one_per_group(k, &scale, &contracted);
    if (!status && zero.data) status = one_per_group(k, &zero, &contracted);
    if (!status) status = make_output(k->api, context, 0, &k->shape, &j.y);
    if (status) return status;
    j.codes = codes.data, j.scale = scale.data, j.zero = zero.data;
    return in_parallel(&j, context);
}

/* MXScaleDequant and NVFP4ScaleDequant: a table, and a factor for the whole tensor. */
static Status *look_up(const Kernel *k, void *context, float factor) {
    Tensor codes = {0};
    float *y = NULL;
    Status *status = read_input(k->api, context, 0, &codes);
    if (!status) status = make_output(k->api, context, 0, &codes, &y);
    if (status) return status;
    const uint8_t *code = codes.data;
    for (int64_t i = 0, count = size_of(&codes); i < count; i++) y[i] = k->table[code[i]] * factor;
    return NULL;
}

static Status *compute_scale_dequant(void *kernel, void *context) { return look_up(kernel, context, 1); }

static Status *compute_nvfp4_scale_dequant(void *kernel, void *context) {
    const Kernel *k = kernel;
    Tensor factor = {0};
    Status *status = read_input(k->api, context, 1, &factor);
    if (status) return status;
    if (size_of(&factor) != 1) return wrong(k, "mxexport.ops: tensor_scale is not one number");
    return look_up(k, context, *(const float *)factor.data);
}

/* --- the table ------------------------------------------------------------------------------------------------- */

static Status *byte_codes(Kernel *k) {
    const int fit = k->bit_width >= 0 && k->bit_width <= 8 && (!k->shape.rank || code_bits(k) <= 8);
    return fit ? NULL : wrong(k, "mxexport.ops: codes of more than 8 bits");
}

static Status *values_of_codes(Kernel *k) {
    Status *status = byte_codes(k);
    if (!status && k->shape.rank) fill_table(k);
    return status;
}

static Status *values_of_scales(Kernel *k) {
    for (int c = 0; c < CODES; c++) k->table[c] = c == 255 ? NAN : power_of_two(c - 127 - (int32_t)k->frac_bits);
    return NULL;
}

static Status *values_of_nvfp4_scales(Kernel *k) {
    Kernel e4m3 = {.exponent_bits = 4, .mantissa_bits = 3, .exponent_bias = 7, .signed_zero = 1, .max_code = 126};
    fill_table(&e4m3);
    memcpy(k->table, e4m3.table, sizeof k->table);
    return NULL;
}

#define INT_ELEMENT "axis", "group_size", "bit_width", "signed"
#define FLOAT_ELEMENT "axis", "group_size", "exponent_bits", "mantissa_bits", "exponent_bias", "signed_zero"

Operator QUANTIZATION[] = {
    {{0}, "MXScale", compute_mx_scale, NULL, {FLOAT}, {FLOAT}, 0, {"axis", "group_size", "emax", "round_bias", "frac_bits", "code_min", "code_max"}},
    {{0}, "GroupwiseScale", compute_groupwise_scale, NULL, {FLOAT}, {FLOAT}, 0, {"axis", "group_size", "levels", "asymmetric"}},
    {{0}, "GroupwiseZeroPoint", compute_zero_point, NULL, {FLOAT, FLOAT}, {FLOAT}, 0, {"axis", "group_size", "levels"}},
    {{0}, "NVFP4Scale", compute_nvfp4_scale, NULL, {FLOAT}, {FLOAT}, 0, {"axis", "group_size"}},
    {{0}, "GroupwiseQuant", compute_groupwise_quant, byte_codes, {FLOAT, FLOAT, FLOAT}, {FLOAT}, 1, {INT_ELEMENT, "narrow"}},
    {{0}, "MXFloatQuant", compute_mx_float_quant, NULL, {FLOAT, FLOAT}, {FLOAT}, 0, {FLOAT_ELEMENT, "max_val", "signed"}},
    {{0}, "GroupwiseDequant", compute_dequantize, values_of_codes, {UINT8, FLOAT, FLOAT}, {FLOAT}, 1, {INT_ELEMENT, "shape"}},
    {{0}, "MXFloatDequant", compute_dequantize, values_of_codes, {UINT8, FLOAT}, {FLOAT}, 0, {FLOAT_ELEMENT, "max_code", "has_inf", "shape"}},
    {{0}, "MXScaleDequant", compute_scale_dequant, values_of_scales, {UINT8}, {FLOAT}, 0, {"frac_bits"}},
    {{0}, "NVFP4ScaleDequant", compute_nvfp4_scale_dequant, values_of_nvfp4_scales, {UINT8, FLOAT}, {FLOAT}, 0, {NULL}},
    {{0}, NULL, NULL, NULL, {0}, {0}, 0, {NULL}},
};
