/* Windows that slide over [N, H, W, C]: mxexport/numbers/spatial.taps. */
#ifndef MXEXPORT_WINDOWS_H
#define MXEXPORT_WINDOWS_H

#include "integers.h"
#include "operators.h"

#define WINDOW "kernel_shape", "strides", "pads"

typedef struct {
    int64_t frames, size[2], out[2], kernel[2], stride[2], before[2], dilation[2], taps;
} Window;

/* By the node's attributes; operators without dilations have 1. */
INLINE Status *slide(const Kernel *k, const Tensor *x, Window *v) {
    const int dilated = k->dilations.rank > 0;
    if (x->rank != 4 || k->kernel_shape.rank != 2 || k->strides.rank != 2 || k->pads.rank != 4 || (dilated && k->dilations.rank != 2))
        return wrong(k, "mxexport.ops: expected X [N, H, W, C], two numbers for height and width, and four for pads");
    v->frames = x->dims[0];
    for (int i = 0; i < 2; i++) {
        v->size[i] = x->dims[i + 1], v->kernel[i] = k->kernel_shape.dims[i], v->stride[i] = k->strides.dims[i];
        v->before[i] = k->pads.dims[i], v->dilation[i] = dilated ? k->dilations.dims[i] : 1;
        if (v->kernel[i] > 1 << 24 || v->stride[i] > 1 << 24 || v->dilation[i] > 1 << 24)
            return wrong(k, "mxexport.ops: windows, strides or dilations of more than 2**24 pixels");
        const int64_t span = (v->kernel[i] - 1) * v->dilation[i] + 1, after = k->pads.dims[i + 2];
        if (v->before[i] >= span || after >= span) return wrong(k, "mxexport.ops: pads reach as far as windows span");
        if (v->size[i] + v->before[i] + after < span) return wrong(k, "mxexport.ops: windows span more than the frame");
        v->out[i] = (v->size[i] + v->before[i] + after - span) / v->stride[i] + 1;
    }
    v->taps = v->kernel[0] * v->kernel[1];
    return NULL;
}

INLINE int64_t pixels_of(const Window *v) { return v->frames * v->out[0] * v->out[1]; }

INLINE Tensor windows_of(const Window *v, int64_t last) { return (Tensor){.dims = {v->frames, v->out[0], v->out[1], last}, .rank = 4}; }

/* The pixel that a tap of output pixel `number` reads, -1 outside the frame. */
INLINE int64_t pixel_of(const Window *v, int64_t number, int64_t tap) {
    const int64_t column = number % v->out[1], row = number / v->out[1] % v->out[0], frame = number / v->out[1] / v->out[0];
    const int64_t y = row * v->stride[0] - v->before[0] + tap / v->kernel[1] * v->dilation[0];
    const int64_t x = column * v->stride[1] - v->before[1] + tap % v->kernel[1] * v->dilation[1];
    return y < 0 || y >= v->size[0] || x < 0 || x >= v->size[1] ? -1 : (frame * v->size[0] + y) * v->size[1] + x;
}

#endif
