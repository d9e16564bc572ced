/* MXMatMul, MXProduct and MXDepthwise: exact products of MX blocks, accumulated in int64.

   A block's sum of products is a whole number. It is added up in float32 or float64 where no sum of a block can reach
   2**24 or 2**51, which is exact in any order and what processors do fastest, and in int64 elsewhere. */

#include <stdlib.h>

#include "elements.h"
#include "windows.h"

#ifdef __AVX512F__
#define VECTOR 64
#else
#define VECTOR 32
#endif
enum { CHUNK = 64, ROWS = 4, TILES = 8, ROWS_OF_A_PIECE = 128 };
static const char OUTSIDE[] = "mxexport.ops: scale codes ask for a shift outside 0 to 62 (below scale_offset, or too large), or memory is short";

/* Some rows of a product with a few of its columns. Steps are in elements, from one row to the next. */
typedef struct {
    const uint8_t *x_codes, *x_scale, *w_codes, *w_scale;
    int64_t x_step, x_scale_step, w_step, w_scale_step, y_step;
    int64_t rows, cols, length, blocks, group, scale_offset;
    const int64_t *x_values, *w_values, *bias; /* bias: NULL where there is none */
    int64_t *y;
} Panel;

/* A whole double up to 2**51, by the bits of its sum with 1.5 * 2**52: what vectors of any processor can do. */
INLINE int64_t whole_double(double x) {
    const double moved = x + 0x1.8p52;
    int64_t bits;
    memcpy(&bits, &moved, sizeof bits);
    return bits - INT64_C(0x4338000000000000);
}

#define JOINED(a, b) a##b
#define T float
#define NAME(part) JOINED(float_, part)
#define WHOLE(x) ((int64_t)(int32_t)(x))
#include "product_panel.h"
#undef T
#undef NAME
#undef WHOLE
#define T double
#define NAME(part) JOINED(double_, part)
#define WHOLE(x) whole_double(x)
#include "product_panel.h"
#undef T
#undef NAME
#undef WHOLE
#define T uint64_t /* wraps as int64 does, and C says so */
#define NAME(part) JOINED(whole_, part)
#define WHOLE(x) ((int64_t)(x))
#include "product_panel.h"
#undef T
#undef NAME
#undef WHOLE

/* Y[n, t, h, r] of A [frames, tokens, heads, length] and B [frames, rows, shared, length]. */
typedef struct {
    Work w; /* first */
    int64_t frames, tokens, heads, rows, shared, length, blocks;
    const int64_t *bias;
    int (*panel)(const Panel *);
    int64_t columns;
} Product;

static void part_of_product(Work *w, int64_t first, int64_t last) {
    const Product *d = (const Product *)w;
    const Kernel *k = w->k;
    const int64_t panels = ceil_div(d->rows, d->columns), chunks = ceil_div(d->tokens, ROWS_OF_A_PIECE);
    const uint8_t *a = w->in[0].data, *a_scale = w->in[1].data, *b = w->in[2].data, *b_scale = w->in[3].data;
    for (int64_t i = first; i < last; i++) {
        const int64_t column = i % panels * d->columns, token = i / panels % chunks * ROWS_OF_A_PIECE;
        const int64_t head = i / panels / chunks % d->heads, frame = i / panels / chunks / d->heads;
        const int64_t row_a = (frame * d->tokens + token) * d->heads + head;
        const int64_t row_b = (frame * d->rows + column) * d->shared + head / (d->heads / d->shared);
        const Panel p = {
            .x_codes = a + row_a * d->length, .x_scale = a_scale + row_a * d->blocks, .w_codes = b + row_b * d->length,
            .w_scale = b_scale + row_b * d->blocks, .x_step = d->heads * d->length, .x_scale_step = d->heads * d->blocks,
            .w_step = d->shared * d->length, .w_scale_step = d->shared * d->blocks, .y_step = d->heads * d->rows,
            .rows = least(d->tokens - token, ROWS_OF_A_PIECE), .cols = least(d->rows - column, d->columns), .length = d->length,
            .blocks = d->blocks, .group = k->group_size, .scale_offset = k->scale_offset, .x_values = k->values[0],
            .w_values = k->values[1], .bias = d->bias ? d->bias + column : NULL, .y = (int64_t *)w->out[0] + row_a * d->rows + column};
        if (d->panel(&p)) atomic_store(&w->odd, 1);
    }
}

static int64_t largest(const int64_t *values) {
    int64_t found = 0;
    for (int c = 0; c < CODES; c++) found = most(found, magnitude_of(values[c]));
    return found;
}

static Status *multiply(Product *d, void *context) {
    const Kernel *k = d->w.k;
    Status *status = make_outputs(&d->w, context, 1);
    if (status) return status;
    const double bound = (double)largest(k->values[0]) * (double)largest(k->values[1]) * (double)least(k->group_size, d->length);
    d->panel = bound < 0x1p24 ? float_panel : bound < 0x1p51 ? double_panel : whole_panel;
    d->columns = bound < 0x1p24 ? float_COLUMNS : bound < 0x1p51 ? double_COLUMNS : whole_COLUMNS;
    d->w.part = part_of_product;
    if (!d->heads || !d->rows) return NULL;
    const int64_t pieces = d->frames * d->heads * ceil_div(d->tokens, ROWS_OF_A_PIECE) * ceil_div(d->rows, d->columns);
    return share(&d->w, context, pieces, d->length * d->columns, OUTSIDE);
}

static Status *compute_matmul(void *kernel, void *context) {
    const Kernel *k = kernel;
    Product d = {.w = {.k = k}, .frames = 1, .heads = 1, .shared = 1};
    const Tensor *x = &d.w.in[0], *weights = &d.w.in[2], *bias = &d.w.in[4];
    Status *status = read_inputs(&d.w, context, 5);
    if (status) return status;
    if (x->rank < 1 || weights->rank != 2 || weights->dims[1] != x->dims[x->rank - 1] || bias->rank != 1 || bias->dims[0] != weights->dims[0])
        return wrong(k, "MXMatMul: expected X_codes [..., K], W_codes [O, K] and bias [O]");
    if (!one_per_block(x, &d.w.in[1], k->group_size) || !one_per_block(weights, &d.w.in[3], k->group_size))
        return wrong(k, "MXMatMul: scales do not have one code for each block");
    d.length = weights->dims[1], d.rows = weights->dims[0], d.tokens = product_of(x->dims, x->rank - 1);
    d.blocks = ceil_div(d.length, k->group_size);
    d.bias = bias->data;
    d.w.shape[0] = *x;
    d.w.shape[0].dims[x->rank - 1] = d.rows;
    return multiply(&d, context);
}

static Status *compute_product(void *kernel, void *context) {
    const Kernel *k = kernel;
    Product d = {.w = {.k = k}};
    const Tensor *a = &d.w.in[0], *b = &d.w.in[2];
    Status *status = read_inputs(&d.w, context, 4);
    if (status) return status;
    if (a->rank < 3 || a->rank > 4 || b->rank < 3 || b->rank > a->rank || a->dims[0] != b->dims[0] || a->dims[a->rank - 1] != b->dims[b->rank - 1])
        return wrong(k, "MXProduct: expected A_codes [N, T, H, K] and B_codes [N, R, G, K], or [N, T, K] and [N, R, K]");
    if (!one_per_block(a, &d.w.in[1], k->group_size) || !one_per_block(b, &d.w.in[3], k->group_size))
        return wrong(k, "MXProduct: scales do not have one code for each block");
    d.frames = a->dims[0], d.tokens = a->dims[1], d.rows = b->dims[1], d.length = a->dims[a->rank - 1];
    d.heads = a->rank == 4 ? a->dims[2] : 1, d.shared = b->rank == 4 ? b->dims[2] : 1;
    d.blocks = ceil_div(d.length, k->group_size);
    if (d.heads && (!d.shared || d.heads % d.shared)) return wrong(k, "MXProduct: the heads of A are no multiple of those of B");
    d.w.shape[0] = *a;
    d.w.shape[0].dims[a->rank - 1] = d.rows;
    return multiply(&d, context);
}

/* --- depthwise convolution ------------------------------------------------------------------------------------- */

typedef struct {
    Work w; /* first */
    Window window;
    int64_t channels, blocks;
} Depthwise;

/* Adds what a tap brings to the sums of a pixel. */
static int add_tap(const Kernel *k, const uint8_t *x, const uint8_t *scale, const uint8_t *w, const uint8_t *w_scale, int64_t channels, int64_t *y) {
    int odd = 0;
    for (int64_t begin = 0; begin < channels; begin += least(k->group_size, channels - begin), scale++)
        for (int64_t c = begin, end = begin + least(k->group_size, channels - begin); c < end; c++) {
            const int64_t product = times(k->values[0][x[c]], k->values[1][w[c]]), shift = *scale + w_scale[c] - k->scale_offset;
            const int fits = shift >= 0 && shift <= 62;
            odd |= !fits && product;
            y[c] = plus(y[c], fits ? left(product, shift) : 0);
        }
    return odd;
}

static void part_of_depthwise(Work *w, int64_t first, int64_t last) {
    const Depthwise *d = (const Depthwise *)w;
    const uint8_t *x = w->in[0].data, *scale = w->in[1].data, *weights = w->in[2].data, *w_scale = w->in[3].data;
    const size_t bytes = (size_t)d->channels * sizeof(int64_t);
    for (int64_t i = first; i < last; i++) {
        int64_t *y = (int64_t *)w->out[0] + i * d->channels;
        if (bytes) memcpy(y, w->in[4].data, bytes);
        for (int64_t tap = 0; tap < d->window.taps; tap++) {
            const int64_t pixel = pixel_of(&d->window, i, tap), at = tap * d->channels;
            if (pixel < 0) continue;
            if (add_tap(w->k, x + pixel * d->channels, scale + pixel * d->blocks, weights + at, w_scale + at, d->channels, y))
                atomic_store(&w->odd, 1);
        }
    }
}

static Status *compute_depthwise(void *kernel, void *context) {
    const Kernel *k = kernel;
    Depthwise d = {.w = {.k = k, .part = part_of_depthwise}};
    const Tensor *x = &d.w.in[0], *weights = &d.w.in[2], *bias = &d.w.in[4];
    Status *status = read_inputs(&d.w, context, 5);
    if (!status) status = slide(k, x, &d.window);
    if (status) return status;
    d.channels = x->dims[3], d.blocks = ceil_div(d.channels, k->group_size);
    if (!one_per_block(x, &d.w.in[1], k->group_size)) return wrong(k, "MXDepthwise: X_scale does not have one code for each block");
    if (weights->rank != 2 || weights->dims[0] != d.window.taps || weights->dims[1] != d.channels || !same_shape(weights, &d.w.in[3]))
        return wrong(k, "MXDepthwise: W_codes and W_scale are not [taps, C]");
    if (bias->rank != 1 || bias->dims[0] != d.channels) return wrong(k, "MXDepthwise: bias is not [C]");
    d.w.shape[0] = windows_of(&d.window, d.channels);
    status = make_outputs(&d.w, context, 1);
    return status ? status : share(&d.w, context, pixels_of(&d.window), d.window.taps * d.channels, OUTSIDE);
}

/* --- the table ------------------------------------------------------------------------------------------------- */

static Status *prepare_elements(Kernel *k, int64_t x_exponent, int64_t x_mantissa, int64_t w_exponent, int64_t w_mantissa) {
    Status *status = grouped(k);
    if (!status) status = fits_a_byte(k, x_exponent, x_mantissa);
    if (!status) status = fits_a_byte(k, w_exponent, w_mantissa);
    if (status) return status;
    fill_linear(k->values[0], x_exponent, x_mantissa);
    fill_linear(k->values[1], w_exponent, w_mantissa);
    return NULL;
}

static Status *prepare_weighted(Kernel *k) { return prepare_elements(k, k->x_exponent_bits, k->x_mantissa_bits, k->w_exponent_bits, k->w_mantissa_bits); }
static Status *prepare_product(Kernel *k) { return prepare_elements(k, k->a_exponent_bits, k->a_mantissa_bits, k->b_exponent_bits, k->b_mantissa_bits); }

#define WEIGHTED "group_size", "scale_offset", "x_exponent_bits", "x_mantissa_bits", "w_exponent_bits", "w_mantissa_bits"
#define BLOCKS UINT8, UINT8, UINT8, UINT8

Operator PRODUCTS[] = {
    {{0}, "MXMatMul", compute_matmul, prepare_weighted, {BLOCKS, INT64}, {INT64}, 0, {WEIGHTED}},
    {{0}, "MXProduct", compute_product, prepare_product, {BLOCKS}, {INT64}, 0,
     {"group_size", "scale_offset", "a_exponent_bits", "a_mantissa_bits", "b_exponent_bits", "b_mantissa_bits"}},
    {{0}, "MXDepthwise", compute_depthwise, prepare_weighted, {BLOCKS, INT64}, {INT64}, 0, {WEIGHTED, WINDOW, "dilations"}},
    {{0}, NULL, NULL, NULL, {0}, {0}, 0, {NULL}},
};
