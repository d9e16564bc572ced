/* Operators that move wide integers and MX blocks, or pick among them: windows, frames, channels, rows of a table. */

#include "elements.h"
#include "windows.h"

static Status *four_axes(const Kernel *k, const Tensor *x) { return x->rank == 4 ? NULL : wrong(k, "mxexport.ops: expected X [N, H, W, C]"); }
static Status *some_axis(const Kernel *k, const Tensor *x) { return x->rank ? NULL : wrong(k, "mxexport.ops: X has no axis"); }

static void copy(int64_t *y, const int64_t *x, int64_t count) {
    if (count) memcpy(y, x, (size_t)count * sizeof *x);
}

/* --- windows --------------------------------------------------------------------------------------------------- */

typedef struct {
    Work w; /* first */
    Window window;
    int64_t channels, blocks;
} Sliding;

static Status *read_sliding(Sliding *s, void *context, size_t inputs) {
    Status *status = read_inputs(&s->w, context, inputs);
    if (!status) status = slide(s->w.k, &s->w.in[0], &s->window);
    s->channels = s->w.in[0].dims[3];
    return status;
}

/* Whether X_scale has one code for each block of the channels of X_codes. */
static Status *pixel_blocks(const Work *w, int64_t *blocks) {
    *blocks = ceil_div(w->in[0].dims[3], w->k->group_size);
    return one_per_block(&w->in[0], &w->in[1], w->k->group_size) ? NULL : wrong(w->k, "mxexport.ops: X_scale does not have one code for each block");
}

static void part_of_window(Work *w, int64_t first, int64_t last) {
    const Sliding *s = (const Sliding *)w;
    const int64_t places = s->blocks * w->k->group_size;
    const uint8_t *x = w->in[0].data, *scale = w->in[1].data;
    uint8_t *codes = (uint8_t *)w->out[0] + first * s->window.taps * places, *scales = (uint8_t *)w->out[1] + first * s->window.taps * s->blocks;
    for (int64_t i = first; i < last; i++)
        for (int64_t tap = 0; tap < s->window.taps; tap++, codes += places, scales += s->blocks) {
            const int64_t pixel = pixel_of(&s->window, i, tap), there = pixel < 0 ? 0 : s->channels;
            if (pixel < 0) {
                memset(scales, (int)w->k->code_min, (size_t)s->blocks);
            } else {
                memcpy(codes, x + pixel * s->channels, (size_t)s->channels);
                memcpy(scales, scale + pixel * s->blocks, (size_t)s->blocks);
            }
            memset(codes + there, 0, (size_t)(places - there));
        }
}

static Status *compute_window(void *kernel, void *context) {
    Sliding s = {.w = {.k = kernel, .part = part_of_window}};
    Status *status = read_sliding(&s, context, 2);
    if (!status) status = pixel_blocks(&s.w, &s.blocks);
    if (status) return status;
    s.w.shape[0] = windows_of(&s.window, s.window.taps * s.blocks * s.w.k->group_size);
    s.w.shape[1] = windows_of(&s.window, s.window.taps * s.blocks);
    status = make_outputs(&s.w, context, 2);
    return status || !s.blocks ? status : share(&s.w, context, pixels_of(&s.window), s.w.shape[0].dims[3] / 8, "");
}

static void part_of_max(Work *w, int64_t first, int64_t last) {
    const Sliding *s = (const Sliding *)w;
    const int64_t outside = -(INT64_C(1) << 62);
    for (int64_t i = first; i < last; i++) {
        int64_t *y = (int64_t *)w->out[0] + i * s->channels;
        for (int64_t c = 0; c < s->channels; c++) y[c] = INT64_MIN;
        for (int64_t tap = 0; tap < s->window.taps; tap++) {
            const int64_t pixel = pixel_of(&s->window, i, tap), *x = (const int64_t *)w->in[0].data + pixel * s->channels;
            if (pixel < 0)
                for (int64_t c = 0; c < s->channels; c++) y[c] = most(y[c], outside);
            else
                for (int64_t c = 0; c < s->channels; c++) y[c] = most(y[c], x[c]);
        }
    }
}

static void part_of_average(Work *w, int64_t first, int64_t last) {
    const Sliding *s = (const Sliding *)w;
    for (int64_t i = first; i < last; i++) {
        int64_t *y = (int64_t *)w->out[0] + i * s->channels;
        for (int64_t c = 0; c < s->channels; c++) y[c] = 0;
        for (int64_t tap = 0; tap < s->window.taps; tap++) {
            const int64_t pixel = pixel_of(&s->window, i, tap);
            if (pixel < 0) continue;
            const int64_t *x = (const int64_t *)w->in[0].data + pixel * s->channels;
            for (int64_t c = 0; c < s->channels; c++) y[c] = plus(y[c], x[c]);
        }
        for (int64_t c = 0; c < s->channels; c++) y[c] = divided_evenly(left(y[c], w->k->shift), w->k->divisor);
    }
}

static Status *pool(void *kernel, void *context, void (*part)(Work *, int64_t, int64_t)) {
    Sliding s = {.w = {.k = kernel, .part = part}};
    Status *status = read_sliding(&s, context, 1);
    if (status) return status;
    s.w.shape[0] = windows_of(&s.window, s.channels);
    status = make_outputs(&s.w, context, 1);
    return status || !s.channels ? status : share(&s.w, context, pixels_of(&s.window), s.window.taps * s.channels, "");
}

static Status *compute_max_pool(void *kernel, void *context) { return pool(kernel, context, part_of_max); }
static Status *compute_average_pool(void *kernel, void *context) { return pool(kernel, context, part_of_average); }

/* --- pixels that stand elsewhere ------------------------------------------------------------------------------- */

/* Where rows or columns of a result come from: place `at` of it, -1 for none. */
typedef struct {
    Work w; /* first */
    int64_t size[2], out[2], channels, blocks;
    int64_t (*source)(const Kernel *, int axis, int64_t at, int64_t size);
} Frames;

static int64_t source_pixel(const Frames *f, int64_t number) {
    const Kernel *k = f->w.k;
    const int64_t column = f->source(k, 1, number % f->out[1], f->size[1]), row = f->source(k, 0, number / f->out[1] % f->out[0], f->size[0]);
    return row < 0 || column < 0 ? -1 : (number / f->out[1] / f->out[0] * f->size[0] + row) * f->size[1] + column;
}

static int64_t within(int64_t at, int64_t size) { return at < 0 || at >= size ? -1 : at; }
static int64_t padded_from(const Kernel *k, int axis, int64_t at, int64_t size) { return within(at - k->pads.dims[axis], size); }
static int64_t repeated_from(const Kernel *k, int axis, int64_t at, int64_t size) { return (void)size, at / k->scales.dims[axis]; }
static int64_t inserted_from(const Kernel *k, int axis, int64_t at, int64_t size) {
    return at % k->steps.dims[axis] ? -1 : within(at / k->steps.dims[axis], size);
}

static void part_of_frames(Work *w, int64_t first, int64_t last) {
    const Frames *f = (const Frames *)w;
    for (int64_t i = first; i < last; i++) {
        const int64_t pixel = source_pixel(f, i), *x = w->in[0].data;
        int64_t *y = (int64_t *)w->out[0] + i * f->channels;
        if (pixel >= 0) copy(y, x + pixel * f->channels, f->channels);
        else memset(y, 0, (size_t)f->channels * sizeof *y);
    }
}

static void part_of_insert(Work *w, int64_t first, int64_t last) {
    const Frames *f = (const Frames *)w;
    for (int64_t i = first; i < last; i++) {
        const int64_t pixel = source_pixel(f, i);
        uint8_t *codes = (uint8_t *)w->out[0] + i * f->channels, *scales = (uint8_t *)w->out[1] + i * f->blocks;
        if (pixel < 0) {
            memset(codes, 0, (size_t)f->channels);
            memset(scales, (int)w->k->code_min, (size_t)f->blocks);
        } else {
            memcpy(codes, (const uint8_t *)w->in[0].data + pixel * f->channels, (size_t)f->channels);
            memcpy(scales, (const uint8_t *)w->in[1].data + pixel * f->blocks, (size_t)f->blocks);
        }
    }
}

static Status *read_frames(Frames *f, void *context, size_t inputs) {
    const Tensor *x = &f->w.in[0];
    Status *status = read_inputs(&f->w, context, inputs);
    if (!status) status = four_axes(f->w.k, x);
    if (status) return status;
    f->size[0] = x->dims[1], f->size[1] = x->dims[2], f->channels = x->dims[3];
    return NULL;
}

static Status *write_frames(Frames *f, void *context, size_t outputs) {
    for (size_t i = 0; i < outputs; i++)
        f->w.shape[i] = (Tensor){.dims = {f->w.in[0].dims[0], f->out[0], f->out[1], i ? f->blocks : f->channels}, .rank = 4};
    Status *status = make_outputs(&f->w, context, outputs);
    const int64_t pixels = f->w.in[0].dims[0] * f->out[0] * f->out[1];
    return status || !f->channels ? status : share(&f->w, context, pixels, f->channels, "");
}

static Status *compute_pad(void *kernel, void *context) {
    Frames f = {.w = {.k = kernel, .part = part_of_frames}, .source = padded_from};
    Status *status = read_frames(&f, context, 1);
    if (status) return status;
    for (int i = 0; i < 2; i++) f.out[i] = f.size[i] + f.w.k->pads.dims[i] + f.w.k->pads.dims[i + 2];
    return write_frames(&f, context, 1);
}

static Status *compute_upsample(void *kernel, void *context) {
    Frames f = {.w = {.k = kernel, .part = part_of_frames}, .source = repeated_from};
    Status *status = read_frames(&f, context, 1);
    if (status) return status;
    for (int i = 0; i < 2; i++) f.out[i] = f.size[i] * f.w.k->scales.dims[i];
    return write_frames(&f, context, 1);
}

static Status *compute_insert(void *kernel, void *context) {
    Frames f = {.w = {.k = kernel, .part = part_of_insert}, .source = inserted_from};
    Status *status = read_frames(&f, context, 2);
    if (!status) status = pixel_blocks(&f.w, &f.blocks);
    if (status) return status;
    for (int i = 0; i < 2; i++) f.out[i] = most((f.size[i] - 1) * f.w.k->steps.dims[i] + 1, 0) + f.w.k->more.dims[i];
    return write_frames(&f, context, 2);
}

/* --- parts of frames ------------------------------------------------------------------------------------------- */

static void part_of_slice(Work *w, int64_t first, int64_t last) { /* pieces: rows of channels kept */
    const Tensor *x = &w->in[0], *y = &w->shape[0];
    const size_t unused = 4 - x->rank, end = x->rank - 1;
    const int64_t *start = w->k->start.dims, length = y->dims[end];
    for (int64_t i = first; i < last; i++) {
        int64_t rest = i, at = start[end - 1 + unused], step = x->dims[end];
        for (size_t axis = end; axis-- > 0; step *= x->dims[axis]) {
            at += (rest % y->dims[axis] + (axis ? start[axis - 1 + unused] : 0)) * step;
            rest /= y->dims[axis];
        }
        copy((int64_t *)w->out[0] + i * length, (const int64_t *)x->data + at, length);
    }
}

static Status *compute_slice(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_slice};
    const Tensor *x = &w.in[0];
    Status *status = read_inputs(&w, context, 1);
    if (status) return status;
    if (x->rank < 2 || x->rank > 4) return wrong(w.k, "WideSlice: expected X [N, H, W, C], [N, T, C] or [N, C]");
    w.shape[0] = *x;
    for (size_t axis = 1; axis < x->rank; axis++) {
        const int64_t start = w.k->start.dims[axis + 3 - x->rank], size = w.k->size.dims[axis + 3 - x->rank];
        if (start + size > x->dims[axis]) return wrong(w.k, "WideSlice: start and size lie outside X");
        w.shape[0].dims[axis] = size;
    }
    status = make_outputs(&w, context, 1);
    return status ? status : share(&w, context, product_of(w.shape[0].dims, x->rank - 1), w.shape[0].dims[x->rank - 1], "");
}

static void part_of_reorder(Work *w, int64_t first, int64_t last) { /* pieces: channels of a frame */
    const int64_t pixels = w->count, channels = w->inner;
    for (int64_t i = first; i < last; i++) {
        const int64_t *x = (const int64_t *)w->in[0].data + i / channels * pixels * channels + i % channels;
        int64_t *y = (int64_t *)w->out[0] + i * pixels;
        for (int64_t p = 0; p < pixels; p++) y[p] = x[p * channels];
    }
}

static Status *compute_reorder(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_reorder};
    const Tensor *x = &w.in[0];
    Status *status = read_inputs(&w, context, 1);
    if (!status) status = four_axes(w.k, x);
    if (status) return status;
    w.count = x->dims[1] * x->dims[2], w.inner = x->dims[3];
    w.shape[0] = (Tensor){.dims = {x->dims[0], w.count * w.inner}, .rank = 2};
    status = make_outputs(&w, context, 1);
    return status ? status : share(&w, context, x->dims[0] * w.inner, w.count, "");
}

static Status *compute_reshape(void *kernel, void *context) {
    Work w = {.k = kernel};
    const Tensor *x = &w.in[0], *frame = &w.k->frame;
    Status *status = read_inputs(&w, context, 1);
    if (!status) status = some_axis(w.k, x);
    if (status) return status;
    if (frame->rank >= MAX_RANK || product_of(x->dims + 1, x->rank - 1) != size_of(frame)) return wrong(w.k, "WideReshape: frames of X are not as long as those of Y");
    w.shape[0] = (Tensor){.dims = {x->dims[0]}, .rank = frame->rank + 1};
    memcpy(w.shape[0].dims + 1, frame->dims, frame->rank * sizeof *frame->dims);
    status = make_outputs(&w, context, 1);
    if (!status) copy(w.out[0], x->data, size_of(x));
    return status;
}

/* --- channels -------------------------------------------------------------------------------------------------- */

static void part_of_concat(Work *w, int64_t first, int64_t last) {
    const Kernel *k = w->k;
    const int64_t a_length = w->count, b_length = w->inner;
    for (int64_t i = first; i < last; i++) {
        const int64_t *a = (const int64_t *)w->in[0].data + i * a_length, *b = (const int64_t *)w->in[1].data + i * b_length;
        int64_t *y = (int64_t *)w->out[0] + i * (a_length + b_length);
        for (int64_t c = 0; c < a_length; c++) y[c] = left(a[c], k->a_shift);
        for (int64_t c = 0; c < b_length; c++) y[a_length + c] = left(b[c], k->b_shift);
    }
}

static Status *compute_concat(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_concat};
    const Tensor *a = &w.in[0], *b = &w.in[1];
    Status *status = read_inputs(&w, context, 2);
    if (!status) status = some_axis(w.k, a);
    if (status) return status;
    const size_t before = a->rank - 1;
    if (b->rank != a->rank || memcmp(a->dims, b->dims, before * sizeof *a->dims)) return wrong(w.k, "WideConcat: A and B differ in more than channels");
    w.count = a->dims[before], w.inner = b->dims[before];
    w.shape[0] = *a;
    w.shape[0].dims[before] = w.count + w.inner;
    status = make_outputs(&w, context, 1);
    return status ? status : share(&w, context, product_of(a->dims, before), w.count + w.inner, "");
}

static void part_of_arg_max(Work *w, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
        const int64_t *x = (const int64_t *)w->in[0].data + i * w->count;
        int64_t found = 0;
        for (int64_t c = 1; c < w->count; c++) found = x[c] > x[found] ? c : found;
        ((int64_t *)w->out[0])[i] = found;
    }
}

static void part_of_keep(Work *w, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
        const int64_t kept = (((const int64_t *)w->in[0].data)[i] > 0) == (w->k->keep != 0);
        for (int64_t c = 0; c < w->count; c++) ((int64_t *)w->out[0])[i * w->count + c] = kept;
    }
}

static void part_of_embedding(Work *w, int64_t first, int64_t last) {
    const int64_t *x = w->in[0].data, *table = w->in[1].data, rows = w->in[1].dims[0];
    for (int64_t i = first; i < last; i++) copy((int64_t *)w->out[0] + i * w->count, table + clamped(x[i], 0, rows - 1) * w->count, w->count);
}

/* A vector of `made` numbers for each vector of X, of `came`. */
static Status *vectors(Work *w, void *context, int64_t came, int64_t made, int64_t cost, const char *message) {
    const Tensor *x = &w->in[0];
    if (!x->rank || x->dims[x->rank - 1] != came || !came) return wrong(w->k, message);
    w->shape[0] = *x;
    w->shape[0].dims[x->rank - 1] = made;
    Status *status = make_outputs(w, context, 1);
    return status ? status : share(w, context, product_of(x->dims, x->rank - 1), cost, "");
}

static Status *compute_arg_max(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_arg_max};
    Status *status = read_inputs(&w, context, 1);
    if (status) return status;
    w.count = w.in[0].rank ? w.in[0].dims[w.in[0].rank - 1] : 0;
    return vectors(&w, context, w.count, 1, w.count, "WideArgMax: vectors of no channel");
}

static Status *compute_keep(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_keep};
    Status *status = read_inputs(&w, context, 1);
    w.count = w.k->channels;
    return status ? status : vectors(&w, context, 1, w.count, w.count, "WideKeep: expected X [..., 1], one key for each vector");
}

static Status *compute_embedding(void *kernel, void *context) {
    Work w = {.k = kernel, .part = part_of_embedding};
    Status *status = read_inputs(&w, context, 2);
    if (status) return status;
    if (w.in[1].rank != 2 || !w.in[1].dims[0]) return wrong(w.k, "WideEmbedding: expected a table [V, C] of a row or more");
    w.count = w.in[1].dims[1];
    return vectors(&w, context, 1, w.count, w.count, "WideEmbedding: expected X [..., 1]");
}

/* --- the table ------------------------------------------------------------------------------------------------- */

static Status *lengths(const Kernel *k, int fit) { return fit ? NULL : wrong(k, "mxexport.ops: an attribute has too few or too many numbers"); }
static Status *four_pads(Kernel *k) { return lengths(k, k->pads.rank == 4); }
static Status *two_scales(Kernel *k) { return lengths(k, k->scales.rank == 2); }
static Status *three_ranges(Kernel *k) { return lengths(k, k->start.rank == 3 && k->size.rank == 3); }
static Status *shift_up(Kernel *k) { return k->shift < 0 ? wrong(k, "WideAveragePool: shift is below 0") : NULL; }
static Status *two_steps(Kernel *k) {
    Status *status = grouped(k);
    return status ? status : lengths(k, k->steps.rank == 2 && k->more.rank == 2);
}
static Status *prepare_window(Kernel *k) { return grouped(k); }

Operator MOVERS[] = {
    {{0}, "MXWindow", compute_window, prepare_window, {UINT8, UINT8}, {UINT8, UINT8}, 0, {"group_size", "code_min", WINDOW, "dilations"}},
    {{0}, "MXInsert", compute_insert, two_steps, {UINT8, UINT8}, {UINT8, UINT8}, 0, {"group_size", "code_min", "steps", "more"}},
    {{0}, "WideMaxPool", compute_max_pool, NULL, {INT64}, {INT64}, 0, {WINDOW}},
    {{0}, "WideAveragePool", compute_average_pool, shift_up, {INT64}, {INT64}, 0, {WINDOW, "divisor", "shift"}},
    {{0}, "WidePad", compute_pad, four_pads, {INT64}, {INT64}, 0, {"pads"}},
    {{0}, "WideUpsample", compute_upsample, two_scales, {INT64}, {INT64}, 0, {"scales"}},
    {{0}, "WideSlice", compute_slice, three_ranges, {INT64}, {INT64}, 0, {"start", "size"}},
    {{0}, "WideReorder", compute_reorder, NULL, {INT64}, {INT64}, 0, {NULL}},
    {{0}, "WideReshape", compute_reshape, NULL, {INT64}, {INT64}, 0, {"frame"}},
    {{0}, "WideConcat", compute_concat, NULL, {INT64, INT64}, {INT64}, 0, {"a_shift", "b_shift"}},
    {{0}, "WideArgMax", compute_arg_max, NULL, {INT64}, {INT64}, 0, {NULL}},
    {{0}, "WideKeep", compute_keep, NULL, {INT64}, {INT64}, 0, {"channels", "keep"}},
    {{0}, "WideEmbedding", compute_embedding, NULL, {INT64, INT64}, {INT64}, 0, {NULL}},
    {{0}, NULL, NULL, NULL, {0}, {0}, 0, {NULL}},
};
