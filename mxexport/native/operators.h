/* What every operator's kernel is made of: the attributes of its node, its entry in a table, and work shared by threads.

   The tables of the C files beside this one are registered by registration.c. */
#ifndef MXEXPORT_OPERATORS_H
#define MXEXPORT_OPERATORS_H

#include <stdatomic.h>

#include "bits.h"
#include "onnxruntime_abi.h"

enum { CODES = 256, LARGE = 1 << 15, MOST_TASKS = 256 }; /* LARGE: elements worth a task of their own */

/* Whole numbers among attributes, with the widest range that an operator has of each: kernels rely on it where memory or
   shifts do. ANY: what the operators themselves look at. */
#define ANY INT64_MIN, INT64_MAX
#define NUMBERS(X) \
    X(axis, ANY) X(group_size, ANY) X(emax, ANY) X(round_bias, ANY) X(frac_bits, ANY) X(code_min, 0, 254) X(code_max, 0, 254) \
    X(asymmetric, 0, 1) X(bit_width, ANY) X(is_signed, 0, 1) X(narrow, 0, 1) X(exponent_bits, 0, 8) X(mantissa_bits, 0, 23) \
    X(exponent_bias, -126, 127) X(signed_zero, 0, 1) X(max_code, 0, 255) X(has_inf, 0, 1) \
    X(x_exponent_bits, 0, 7) X(x_mantissa_bits, 0, 7) X(w_exponent_bits, 0, 7) X(w_mantissa_bits, 0, 7) \
    X(a_exponent_bits, 0, 7) X(a_mantissa_bits, 0, 7) X(b_exponent_bits, 0, 7) X(b_mantissa_bits, 0, 7) \
    X(scale_offset, 0, 508) X(lsb_exp, -1000, 1000) X(relu, 0, 1) X(low, ANY) X(high, ANY) X(slope, 0, (1 << 24) - 1) \
    X(shift, -62, 62) X(a_shift, 0, 62) X(b_shift, 0, 62) X(x_shift, 0, 62) X(divisor, 1, INT32_MAX) X(channels, 1, INT32_MAX) \
    X(keep, 0, 1) X(center, 0, 1) X(epsilon, 1, INT64_MAX) X(segment_bits, 1, 8) X(root_bits, 2, 24) X(fraction, 1, 24) \
    X(position_bits, 1, 24) X(octaves, 2, 16) X(sides, 1, 2) X(gate, 0, 2) X(offset, 0, 1 << 30) X(limit, 0, 1 << 30) \
    X(low_limit, 0, 1 << 30) X(factor, 1, INT32_MAX) X(drop, 0, 62) X(distance_bits, 1, 31) X(exp_bits, 8, 24) \
    X(reciprocal_bits, 8, 32) X(out_bits, 4, 31)
/* Lists of them, with the range of their members. */
#define LENGTH(least) least, INT32_MAX
#define LISTS(X) \
    X(shape, 0, INT64_MAX) X(kernel_shape, LENGTH(1)) X(strides, LENGTH(1)) X(pads, LENGTH(0)) X(dilations, LENGTH(1)) X(steps, LENGTH(1)) \
    X(more, LENGTH(0)) X(frame, LENGTH(1)) X(start, LENGTH(0)) X(size, LENGTH(1)) X(scales, LENGTH(1))
#define FLOATS(X) X(max_val) X(levels)

/* What an operator needs of its node, read once. */
typedef struct Kernel Kernel;
struct Kernel {
    Api api;
#define MEMBER(name, ...) int64_t name;
    NUMBERS(MEMBER)
#undef MEMBER
#define MEMBER(name, ...) Tensor name;
    LISTS(MEMBER)
#undef MEMBER
#define MEMBER(name) float name;
    FLOATS(MEMBER)
#undef MEMBER
    float table[CODES];       /* the values of all codes */
    int64_t values[2][CODES]; /* the same as whole multiples of the smallest step, of up to two operands */
};

enum { MOST_ATTRIBUTES = 14, MOST_INPUTS = 5, MOST_OUTPUTS = 2 };

typedef struct {
    CustomOp op; /* first: onnxruntime hands it back */
    const char *name;
    Status *(*compute)(void *kernel, void *context);
    Status *(*prepare)(Kernel *); /* looks at attributes, fills tables; NULL: nothing to do */
    int inputs[MOST_INPUTS], outputs[MOST_OUTPUTS]; /* types; 0 behind the last one */
    size_t optional;                                /* of the inputs, the last ones */
    const char *attributes[MOST_ATTRIBUTES];
} Operator;

/* Each ends with an entry without a name. */
extern Operator QUANTIZATION[], PRODUCTS[], CODERS[], WIDE_VALUES[], WIDE_FUNCTIONS[], MOVERS[];

INLINE Status *wrong(const Kernel *k, const char *message) { return failed(k->api, INVALID_ARGUMENT, message); }

INLINE int same_shape(const Tensor *a, const Tensor *b) { return a->rank == b->rank && !memcmp(a->dims, b->dims, a->rank * sizeof *a->dims); }

INLINE int64_t product_of(const int64_t *dims, size_t count) {
    int64_t product = 1;
    for (size_t i = 0; i < count; i++) product *= dims[i];
    return product;
}

INLINE int64_t size_of(const Tensor *t) { return product_of(t->dims, t->rank); }

INLINE int64_t ceil_div(int64_t x, int64_t divisor) { return x / divisor + (x % divisor != 0); }

INLINE Status *grouped(const Kernel *k) { return k->group_size < 1 ? wrong(k, "mxexport.ops: group_size is below 1") : NULL; }

/* The lengths before, of and behind the node's axis, and the shape with one entry for each group of it. */
INLINE Status *along_axis(const Kernel *k, const Tensor *t, int64_t *outer, int64_t *count, int64_t *inner, Tensor *contracted) {
    const int64_t rank = (int64_t)t->rank, axis = k->axis < 0 ? k->axis + rank : k->axis;
    if (axis < 0 || axis >= rank) return wrong(k, "mxexport.ops: axis lies outside the tensor");
    Status *status = grouped(k);
    if (status) return status;
    *outer = product_of(t->dims, (size_t)axis), *count = t->dims[axis];
    *inner = product_of(t->dims + axis + 1, (size_t)(rank - axis - 1));
    *contracted = *t;
    contracted->dims[axis] = ceil_div(*count, k->group_size);
    return NULL;
}

/* Whether `scale` has one code for each block of the last axis of `codes`. */
INLINE int one_per_block(const Tensor *codes, const Tensor *scale, int64_t group_size) {
    Tensor contracted = *codes;
    contracted.dims[codes->rank - 1] = ceil_div(codes->dims[codes->rank - 1], group_size);
    return same_shape(scale, &contracted);
}

/* --- work of dataflow operators, in pieces that may run at once ---------------------------------------------------- */

typedef struct Work Work;
struct Work {
    const Kernel *k;
    void (*part)(Work *, int64_t first, int64_t last); /* of `pieces` */
    Tensor in[MOST_INPUTS];
    Tensor shape[MOST_OUTPUTS]; /* of the outputs */
    void *out[MOST_OUTPUTS];
    int64_t pieces, tasks;
    int64_t outer, count, inner; /* how the part reads its input: up to the operator */
    atomic_int odd;              /* set by a part that met what has no result */
};

INLINE Status *read_inputs(Work *w, void *context, size_t count) {
    Status *status = NULL;
    for (size_t i = 0; i < count && !status; i++) status = read_input(w->k->api, context, i, &w->in[i]);
    return status;
}

INLINE Status *make_outputs(Work *w, void *context, size_t count) {
    Status *status = NULL;
    for (size_t i = 0; i < count && !status; i++) status = make_output(w->k->api, context, i, &w->shape[i], &w->out[i]);
    return status;
}

static inline void one_task(void *data, size_t number) {
    Work *w = data;
    const int64_t i = (int64_t)number;
    w->part(w, w->pieces * i / w->tasks, w->pieces * (i + 1) / w->tasks);
}

/* All pieces, `cost` elements each; `message` where a part met what has no result. */
INLINE Status *share(Work *w, void *context, int64_t pieces, int64_t cost, const char *message) {
    if (pieces < 1) return NULL;
    const int64_t each = cost < LARGE ? cost + 1 : LARGE, wanted = pieces / (LARGE / each) + 1;
    w->pieces = pieces;
    w->tasks = wanted < pieces ? wanted : pieces;
    if (w->tasks > MOST_TASKS) w->tasks = MOST_TASKS;
    if (w->tasks > 1) {
        Status *status = CALL(w->k->api, KernelContext_ParallelFor, void *, void (*)(void *, size_t), size_t, size_t, void *)(
            context, one_task, (size_t)w->tasks, 0, w);
        if (status) return status;
    } else {
        one_task(w, 0);
    }
    return atomic_load(&w->odd) ? wrong(w->k, message) : NULL;
}

#endif
