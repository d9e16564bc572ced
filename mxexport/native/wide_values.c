/* Operators that make a wide integer of one or two, place by place, with constants of the channel or of the place. */

#include "integers.h"
#include "operators.h"

/* Elements from `begin` on, `count` of them, of which one period of constants goes by: `constant` and `more` start with it. */
typedef struct {
    const Kernel *k;
    const int64_t *x, *other, *constant, *more;
    int64_t *y, count;
} Run;

#define EACH(r) for (int64_t i = 0; i < (r)->count; i++)

static void eltwise(const Run *r) {
    if (r->k->relu) EACH(r) r->y[i] = most(r->x[i], 0);
    else EACH(r) r->y[i] = r->x[i];
}

static void clip(const Run *r) {
    const int64_t low = r->k->low, high = r->k->high;
    EACH(r) r->y[i] = least(most(r->x[i], low), high);
}

static void leaky_relu(const Run *r) {
    const int64_t slope = r->k->slope, shift = r->k->shift;
    EACH(r) r->y[i] = r->x[i] < 0 ? shifted_evenly(times(r->x[i], slope), shift) : r->x[i];
}

static void hard_swish(const Run *r) {
    const int64_t shift = r->k->shift, three = left(3, r->k->fraction);
    EACH(r) {
        const int64_t value = left(r->x[i], shift), near = clamped(value, -three, three);
        r->y[i] = divided_evenly(near * (near + three), 2 * three) + most(minus(value, three), 0);
    }
}

static void add(const Run *r) {
    const int64_t a = r->k->a_shift, b = r->k->b_shift;
    EACH(r) r->y[i] = plus(left(r->x[i], a), left(r->other[i], b));
}

static void multiply(const Run *r) {
    const int64_t shift = r->k->shift;
    EACH(r) r->y[i] = shifted_evenly(times(r->x[i], r->other[i]), shift);
}

static void affine(const Run *r) {
    const int64_t shift = r->k->shift;
    EACH(r) r->y[i] = shifted_evenly(plus(times(r->x[i], r->constant[i]), r->more[i]), shift);
}

static void gain(const Run *r) {
    const int64_t shift = r->k->shift;
    EACH(r) r->y[i] = shifted_evenly(times(r->x[i], r->constant[i]), shift);
}

static void offset(const Run *r) {
    const int64_t shift = r->k->x_shift;
    EACH(r) r->y[i] = plus(left(r->x[i], shift), r->constant[i]);
}

/* --- over a tensor --------------------------------------------------------------------------------------------- */

enum { RUN = 4096 };

typedef struct {
    Work w; /* first */
    void (*run)(const Run *);
    const int64_t *other, *constant, *more;
    int64_t period; /* of the constants; 0 where there are none */
} Values;

static void part_of_values(Work *w, int64_t first, int64_t last) { /* pieces: RUN elements */
    const Values *v = (const Values *)w;
    const int64_t *x = w->in[0].data, end = least(last * RUN, w->count);
    int64_t *y = w->out[0];
    for (int64_t at = first * RUN; at < end;) {
        const int64_t place = v->period ? at % v->period : 0, length = v->period ? least(end - at, v->period - place) : end - at;
        const Run r = {.k = w->k, .x = x + at, .other = v->other ? v->other + at : NULL, .constant = v->constant ? v->constant + place : NULL,
                       .more = v->more ? v->more + place : NULL, .y = y + at, .count = length};
        v->run(&r);
        at += length;
    }
}

static Status *each(Values *v, void *context) {
    v->w.part = part_of_values;
    v->w.shape[0] = v->w.in[0];
    v->w.count = size_of(&v->w.in[0]);
    Status *status = make_outputs(&v->w, context, 1);
    return status ? status : share(&v->w, context, ceil_div(v->w.count, RUN), RUN, "");
}

static Status *alone(void *kernel, void *context, void (*run)(const Run *)) {
    Values v = {.w = {.k = kernel}, .run = run};
    Status *status = read_inputs(&v.w, context, 1);
    return status ? status : each(&v, context);
}

static Status *of_two(void *kernel, void *context, void (*run)(const Run *)) {
    Values v = {.w = {.k = kernel}, .run = run};
    Status *status = read_inputs(&v.w, context, 2);
    if (status) return status;
    if (!same_shape(&v.w.in[0], &v.w.in[1])) return wrong(v.w.k, "mxexport.ops: A and B differ in shape");
    v.other = v.w.in[1].data;
    return each(&v, context);
}

/* Constants for every place of a frame, or for every channel: those behind axis `from` of X. */
static Status *with_constants(void *kernel, void *context, void (*run)(const Run *), size_t constants, int of_frame) {
    Values v = {.w = {.k = kernel}, .run = run};
    const Tensor *x = &v.w.in[0];
    Status *status = read_inputs(&v.w, context, 1 + constants);
    if (status) return status;
    if (!x->rank) return wrong(v.w.k, "mxexport.ops: X has no axis");
    const size_t from = of_frame ? 1 : x->rank - 1;
    Tensor expected = {.rank = x->rank - from};
    memcpy(expected.dims, x->dims + from, expected.rank * sizeof *x->dims);
    for (size_t i = 1; i <= constants; i++)
        if (!same_shape(&v.w.in[i], &expected)) return wrong(v.w.k, "mxexport.ops: constants do not have the shape of what they are for");
    v.constant = v.w.in[1].data, v.more = constants > 1 ? v.w.in[2].data : NULL;
    v.period = size_of(&expected);
    return each(&v, context);
}

static Status *compute_eltwise(void *k, void *context) { return alone(k, context, eltwise); }
static Status *compute_clip(void *k, void *context) { return alone(k, context, clip); }
static Status *compute_leaky_relu(void *k, void *context) { return alone(k, context, leaky_relu); }
static Status *compute_hard_swish(void *k, void *context) { return alone(k, context, hard_swish); }
static Status *compute_add(void *k, void *context) { return of_two(k, context, add); }
static Status *compute_multiply(void *k, void *context) { return of_two(k, context, multiply); }
static Status *compute_affine(void *k, void *context) { return with_constants(k, context, affine, 2, 0); }
static Status *compute_gain(void *k, void *context) { return with_constants(k, context, gain, 1, 1); }
static Status *compute_offset(void *k, void *context) { return with_constants(k, context, offset, 1, 1); }

static Status *right_only(Kernel *k) { return k->shift < 0 ? wrong(k, "mxexport.ops: shift is below 0") : NULL; }

Operator WIDE_VALUES[] = {
    {{0}, "Eltwise", compute_eltwise, NULL, {INT64}, {INT64}, 0, {"relu"}},
    {{0}, "WideClip", compute_clip, NULL, {INT64}, {INT64}, 0, {"low", "high"}},
    {{0}, "WideLeakyRelu", compute_leaky_relu, right_only, {INT64}, {INT64}, 0, {"slope", "shift"}},
    {{0}, "WideHardSwish", compute_hard_swish, right_only, {INT64}, {INT64}, 0, {"shift", "fraction"}},
    {{0}, "WideAdd", compute_add, NULL, {INT64, INT64}, {INT64}, 0, {"a_shift", "b_shift"}},
    {{0}, "WideMultiply", compute_multiply, right_only, {INT64, INT64}, {INT64}, 0, {"shift"}},
    {{0}, "WideAffine", compute_affine, right_only, {INT64, INT64, INT64}, {INT64}, 0, {"shift"}},
    {{0}, "WideGain", compute_gain, right_only, {INT64, INT64}, {INT64}, 0, {"shift"}},
    {{0}, "WideOffset", compute_offset, NULL, {INT64, INT64}, {INT64}, 0, {"x_shift"}},
    {{0}, NULL, NULL, NULL, {0}, {0}, 0, {NULL}},
};
