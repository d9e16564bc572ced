/* WideNorm, WideSoftmax, WideMaskedSoftmax and WideActivation: functions read from tables of chords.

   The arithmetic is that of mxexport/numbers/normalization.py, softmax.py and mxexport/ops/wide_activation.py. */

#include "integers.h"
#include "operators.h"

static int has(const Tensor *t, int64_t length) { return t->rank == 1 && t->dims[0] == length; }

/* Rows of the last axis: outer, count. */
static Status *rows_of(Work *w) {
    const Tensor *x = &w->in[0];
    if (!x->rank) return wrong(w->k, "mxexport.ops: X has no axis");
    w->count = x->dims[x->rank - 1], w->outer = product_of(x->dims, x->rank - 1);
    w->shape[0] = *x;
    return NULL;
}

/* --- normalization --------------------------------------------------------------------------------------------- */

static const char NO_ROOT[] = "WideNorm: a variance of 2**62 or more, or tables that are too short";

/* 1/sqrt(variance) = root * 2**-(half + root_bits); 0 where the table has no such entry. */
static int inverse_root(const Kernel *k, const int64_t *roots, const int64_t *slopes, int64_t variance, int64_t *half, int64_t *root) {
    if (variance < 1) return 0;
    *half = floor_log2(variance) >> 1;
    const int64_t drop = 2 * *half - k->root_bits, mantissa = drop > 0 ? right(variance, drop) : left(variance, -drop);
    const int64_t low = k->root_bits - k->segment_bits, segment = (mantissa >> low) - left(1, k->segment_bits);
    if (segment < 0 || segment >= 3 << k->segment_bits) return 0;
    *root = plus(roots[segment], half_up(times(slopes[segment], mantissa & (left(1, low) - 1)), low));
    return 1;
}

static void part_of_norm(Work *w, int64_t first, int64_t last) {
    const Kernel *k = w->k;
    const int64_t length = w->count, *gain = w->in[1].data, *offset = w->in[2].data;
    for (int64_t row = first; row < last; row++) {
        const int64_t *x = (const int64_t *)w->in[0].data + row * length;
        int64_t *y = (int64_t *)w->out[0] + row * length, total = 0, squares = 0, half = 0, root = 0;
        for (int64_t i = 0; i < length; i++) total = plus(total, x[i]), squares = plus(squares, times(x[i], x[i]));
        total *= k->center;
        const int64_t variance = plus(minus(times(squares, length), times(total, total)), k->epsilon);
        if (!inverse_root(k, w->in[3].data, w->in[4].data, variance, &half, &root)) {
            atomic_store(&w->odd, 1);
            return;
        }
        const int64_t drop = half - k->fraction, down = most(drop, 0), up = most(-drop, 0);
        for (int64_t i = 0; i < length; i++) {
            const int64_t deviation = left(minus(times(x[i], length), total), up), moved = half_up(deviation, down);
            const int64_t value = half_up(times(moved, root), k->root_bits);
            y[i] = shifted_evenly(plus(times(value, gain[i]), offset[i]), k->shift);
        }
    }
}

static Status *compute_norm(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_norm};
    Status *status = read_inputs(&w, context, 5);
    if (!status) status = rows_of(&w);
    if (status) return status;
    if (!has(&w.in[1], w.count) || !has(&w.in[2], w.count)) return wrong(w.k, "WideNorm: gain and offset are not one for each channel");
    const int64_t words = 3 << w.k->segment_bits;
    if (!has(&w.in[3], words) || !has(&w.in[4], words)) return wrong(w.k, "WideNorm: roots and slopes are not 3 * 2**segment_bits long");
    status = make_outputs(&w, context, 1);
    return status || !w.count ? status : share(&w, context, w.outer, w.count * 4, NO_ROOT);
}

static Status *prepare_norm(Kernel *k) {
    if (k->shift < 1) return wrong(k, "WideNorm: shift is below 1");
    return k->root_bits <= k->segment_bits ? wrong(k, "WideNorm: root_bits is not above segment_bits") : NULL;
}

/* --- softmax --------------------------------------------------------------------------------------------------- */

#define NOBODY (-(INT64_C(1) << 62))

typedef struct {
    Work w; /* first */
    const int64_t *x, *keys, *values, *slopes; /* keys: NULL where no stream says who takes part */
    const Tensor *mask;
    int64_t strides[MAX_RANK]; /* of the mask along X's axes, 0 where it repeats */
} Softmax;

/* Where a row's part of the mask begins. */
static const uint8_t *mask_of(const Softmax *s, int64_t row) {
    int64_t at = 0;
    for (size_t axis = s->w.in[0].rank - 1; axis-- > 0; row /= s->w.in[0].dims[axis]) at += row % s->w.in[0].dims[axis] * s->strides[axis];
    return (const uint8_t *)s->mask->data + at;
}

INLINE int64_t exponential(const Softmax *s, int64_t gap) {
    const Kernel *k = s->w.k;
    const int64_t distance = least(right(gap, k->drop), left(1, k->distance_bits) - 1), t = half_up(times(distance, k->factor), 16);
    const int64_t whole = least(right(t, k->fraction), k->exp_bits + 2), below = t & (left(1, k->fraction) - 1);
    const int64_t low = k->fraction - k->segment_bits, segment = below >> low;
    return half_up(plus(s->values[segment], half_up(times(s->slopes[segment], below & (left(1, low) - 1)), low)), whole);
}

static void part_of_softmax(Work *w, int64_t first, int64_t last) {
    const Softmax *s = (const Softmax *)w;
    const Kernel *k = w->k;
    const int64_t length = w->count, bits = k->exp_bits + k->reciprocal_bits, per_frame = w->inner;
    for (int64_t row = first; row < last; row++) {
        const int64_t *x = s->x + row * length, *keys = s->keys ? s->keys + row / per_frame * length : NULL;
        const int64_t step = s->strides[w->in[0].rank - 1];
        const uint8_t *mask = mask_of(s, row);
        int64_t *y = (int64_t *)w->out[0] + row * length, top = INT64_MIN, total = 0;
#define TAKES_PART(i) (mask[(i) * step] && (!keys || (keys[i] > 0) == (k->keep != 0)))
        for (int64_t i = 0; i < length; i++) top = most(top, TAKES_PART(i) ? x[i] : NOBODY);
        for (int64_t i = 0; i < length; i++) {
            y[i] = TAKES_PART(i) ? exponential(s, minus(top, least(x[i], top))) : 0;
            total = plus(total, y[i]);
        }
#undef TAKES_PART
        const int64_t reciprocal = left(1, bits) / most(total, 1);
        for (int64_t i = 0; i < length; i++) y[i] = half_up(times(y[i], reciprocal), bits - k->out_bits);
    }
}

static Status *broadcast(Softmax *s) {
    const Tensor *x = &s->w.in[0], *m = s->mask;
    if (m->rank > x->rank) return wrong(s->w.k, "mxexport.ops: the mask has more axes than X");
    const size_t missing = x->rank - m->rank;
    for (size_t axis = x->rank, stride = 1; axis-- > missing;) {
        const int64_t length = m->dims[axis - missing];
        if (length != 1 && length != x->dims[axis]) return wrong(s->w.k, "mxexport.ops: the mask does not broadcast to X");
        s->strides[axis] = length == 1 ? 0 : (int64_t)stride;
        stride *= (size_t)length;
    }
    return NULL;
}

static Status *softmax(Softmax *s, void *context, int keyed) {
    Work *w = &s->w;
    Status *status = read_inputs(w, context, 4 + (size_t)keyed);
    if (!status) status = rows_of(w);
    if (status) return status;
    const Tensor *x = &w->in[0], *keys = &w->in[1], *values = &w->in[1 + keyed], *slopes = &w->in[2 + keyed];
    s->mask = &w->in[3 + keyed];
    if (!has(values, 1 << w->k->segment_bits) || !has(slopes, 1 << w->k->segment_bits))
        return wrong(w->k, "mxexport.ops: values and slopes are not 2**segment_bits long");
    if (keyed && (x->rank < 2 || keys->rank != 2 || keys->dims[0] != x->dims[0] || keys->dims[1] != w->count))
        return wrong(w->k, "WideMaskedSoftmax: expected keys [N, T] for X [N, ..., T]");
    if ((status = broadcast(s))) return status;
    s->x = x->data, s->keys = keyed ? keys->data : NULL, s->values = values->data, s->slopes = slopes->data;
    w->part = part_of_softmax;
    w->inner = keyed ? product_of(x->dims + 1, x->rank - 2) : 1;
    status = make_outputs(w, context, 1);
    return status || !w->count ? status : share(w, context, w->outer, w->count * 8, "");
}

static Status *compute_softmax(void *kernel, void *context) {
    Softmax s = {.w = {.k = kernel}};
    return softmax(&s, context, 0);
}

static Status *compute_masked_softmax(void *kernel, void *context) {
    Softmax s = {.w = {.k = kernel}};
    return softmax(&s, context, 1);
}

static Status *prepare_softmax(Kernel *k) {
    if (k->fraction <= k->segment_bits) return wrong(k, "mxexport.ops: fraction is not above segment_bits");
    return k->exp_bits + k->reciprocal_bits < k->out_bits ? wrong(k, "mxexport.ops: out_bits is more than exp_bits + reciprocal_bits") : NULL;
}

/* --- smooth functions ------------------------------------------------------------------------------------------ */

static const char NO_SEGMENT[] = "WideActivation: an input that overflows when it is moved up by shift";

static void part_of_activation(Work *w, int64_t begin, int64_t end_of_part) {
    const Kernel *k = w->k;
    const int64_t *x = w->in[0].data, *base = w->in[1].data, *slope = w->in[2].data;
    const int64_t first = k->segment_bits + k->position_bits, places = k->position_bits + k->octaves - 1, end = left(1, first + k->octaves);
    const int64_t down = most(-k->shift, 0), up = most(k->shift, 0), turned = (k->sides - 1) * (k->octaves + 1);
    int64_t *y = w->out[0];
    int odd = 0;
    for (int64_t i = begin; i < end_of_part; i++) {
        const int64_t value = half_up(left(magnitude_of(x[i]), up), down), negative = x[i] < 0;
        int64_t curve = negative ? k->low_limit : k->limit;
        if (value < 0) {
            odd = 1;
            continue;
        }
        if (value < end) {
            const int64_t octave = clamped(floor_log2(value) - first, 0, k->octaves - 1), near = left(value, k->octaves - 1 - octave);
            const int64_t segment = left(octave + (negative ? turned : 0), k->segment_bits) + (near >> places), place = near & (left(1, places) - 1);
            curve = plus(base[segment], half_up(times(slope[segment], place), places));
        }
        if (k->gate) y[i] = plus(negative ? 0 : value, k->gate == 2 ? curve : minus(0, curve));
        else y[i] = plus(k->offset, negative ? minus(0, curve) : curve);
    }
    if (odd) atomic_store(&w->odd, 1);
}

static Status *compute_activation(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_activation};
    Status *status = read_inputs(&w, context, 3);
    if (status) return status;
    const int64_t words = w.k->sides * (w.k->octaves + 1) << w.k->segment_bits;
    if (!has(&w.in[1], words) || !has(&w.in[2], words)) return wrong(w.k, "WideActivation: base and slope are not sides * (octaves + 1) * 2**segment_bits long");
    w.shape[0] = w.in[0];
    status = make_outputs(&w, context, 1);
    return status ? status : share(&w, context, size_of(&w.in[0]), 8, NO_SEGMENT);
}

#define SOFTMAX "factor", "drop", "distance_bits", "fraction", "segment_bits", "exp_bits", "reciprocal_bits", "out_bits"

Operator WIDE_FUNCTIONS[] = {
    {{0}, "WideNorm", compute_norm, prepare_norm, {INT64, INT64, INT64, INT64, INT64}, {INT64}, 0,
     {"center", "epsilon", "segment_bits", "root_bits", "fraction", "shift"}},
    {{0}, "WideSoftmax", compute_softmax, prepare_softmax, {INT64, INT64, INT64, UINT8}, {INT64}, 0, {SOFTMAX}},
    {{0}, "WideMaskedSoftmax", compute_masked_softmax, prepare_softmax, {INT64, INT64, INT64, INT64, UINT8}, {INT64}, 0, {SOFTMAX, "keep"}},
    {{0}, "WideActivation", compute_activation, NULL, {INT64, INT64, INT64}, {INT64}, 0,
     {"shift", "segment_bits", "position_bits", "octaves", "sides", "gate", "offset", "limit", "low_limit"}},
    {{0}, NULL, NULL, NULL, {0}, {0}, 0, {NULL}},
};
