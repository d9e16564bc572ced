/* MX quantize-dequantize in one pass: shared scale, elements and gradient mask while a group is in the cache.

   Compiled on the machine it runs on by mxexport/native/building.py. The arithmetic is that of mxexport/numbers/numerics.py, bit for bit:
   scales come from integer bits; elements are rounded by adding and subtracting the power of two whose last bit
   weighs one step of the element grid, which rounds to nearest even. Never compile this with -ffast-math.

   Groups along the last axis are rounded in units of x where float32 holds their grid (unscaled.h), which needs no
   multiplication; the others, and groups along other axes, in the element's range.

   Tensors are contiguous float32 [outer, length, inner]; groups of group_size run along `length`. A mask holds one
   bit per element in memory order, lowest bit first. The loops are written for the compiler to vectorize. */

#include <fenv.h>
#include <math.h>
#include <stdlib.h>

#include "bits.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#include "unscaled.h"

enum { WORD = 32 };

/* The fields of native.Format, in its order. */
typedef struct {
    int32_t emax, round_bias, frac_bits, code_min, code_max; /* of the shared scale, as in numerics.mx_scale */
    int32_t mantissa_bits, emin;                             /* of the element: its steps are 2^(max(e, emin) - mantissa_bits) */
    float max_val;                                           /* largest element */
    float limit;                                             /* largest magnitude that is not clipped */
    float zero;                                              /* added at the end: -0 keeps the sign of zero, +0 clears it */
    int32_t streamed;                                        /* set here, whatever the caller has in it */
} Format;

/* Whether a tensor is written past the caches: where it outgrows them, a line that is written in the ordinary way is
   read first, and its neighbours leave the cache for it. */
enum { STREAMED = 1 << 21 }; /* elements; 8 MB, to be read and to be written */

#if defined(__SSE2__)
enum { CAN_STREAM = 1 };
INLINE void stream_word(float *to, const float *from) { /* WORD elements, both on a line */
#if defined(__AVX512F__)
    for (int i = 0; i < WORD; i += 16) _mm512_stream_ps(to + i, _mm512_load_ps(from + i));
#elif defined(__AVX__)
    for (int i = 0; i < WORD; i += 8) _mm256_stream_ps(to + i, _mm256_load_ps(from + i));
#else
    for (int i = 0; i < WORD; i += 4) _mm_stream_ps(to + i, _mm_load_ps(from + i));
#endif
}
INLINE void streams_done(void) { _mm_sfence(); }
#else
enum { CAN_STREAM = 0 };
INLINE void stream_word(float *to, const float *from) { memcpy(to, from, WORD * sizeof *to); }
INLINE void streams_done(void) {}
#endif

/* Asks for the memory that the loops come to AHEAD elements later, to read or to write: without it they wait for memory
   at every line, half of the time once the tensors outgrow the caches. Addresses behind the tensor do no harm. */
enum { AHEAD = 1024, LINE = 64 };

#define SOON(address, for_writing)                          \
    for (size_t line = 0; line < WORD * sizeof *(address); line += LINE) \
        __builtin_prefetch((const void *)((uintptr_t)(address) + AHEAD * sizeof *(address) + line), for_writing)

/* --- the shared scales ----------------------------------------------------------------------------------------- */

/* Of `count` neighbouring groups: what the scale tensor holds, and the multipliers into and out of the element's range.
   One loop without branches, so that the compiler can vectorize it too. */
typedef struct {
    int32_t *amax;
    float *up, *down;
} Groups;

INLINE void scales_of(Groups g, float *restrict stored, int64_t count, const Format *f) {
    const int32_t *restrict amax = g.amax;
    float *restrict up = g.up, *restrict down = g.down;
    const Format format = *f;
    for (int64_t i = 0; i < count; i++) {
        int32_t code = ((amax[i] + format.round_bias) >> 23) - format.emax;
        code = code > format.code_min ? code : format.code_min;
        code = code < format.code_max ? code : format.code_max;
        int finite = amax[i] < INF_BITS;
        stored[i] = finite ? power_of_two(code - 127 - format.frac_bits) : NAN;
        up[i] = finite ? power_of_two(127 - code) : NAN;
        down[i] = finite ? power_of_two(code - 127) : NAN;
    }
}

/* --- the mask: bits appended to memory, 32 at a time ----------------------------------------------------------- */

typedef struct {
    uint8_t *next;
    uint64_t pending;
    int count;
} Bits;

INLINE void append(Bits *bits, uint32_t word, int count) {
    bits->pending |= (uint64_t)word << bits->count;
    bits->count += count;
    if (bits->count >= WORD) {
        uint32_t low = (uint32_t)bits->pending;
        memcpy(bits->next, &low, sizeof low);
        bits->next += sizeof low;
        bits->pending >>= WORD;
        bits->count -= WORD;
    }
}

INLINE void flush(Bits *bits) {
    for (; bits->count > 0; bits->count -= 8, bits->pending >>= 8) *bits->next++ = (uint8_t)bits->pending;
}

/* --- elements -------------------------------------------------------------------------------------------------- */

/* At most WORD elements; `stride` 0 shares one scale, 1 reads one for each element. */
INLINE void word_of_elements(const float *restrict x, float *restrict y, const float *restrict up, const float *restrict down, int stride, int count,
                          const Format *f, Bits *mask) {
    const int32_t lowest = (f->emin + 127) << 23, shift = (23 - f->mantissa_bits) << 23;
    const float max_val = f->max_val, limit = f->limit, zero = f->zero;
    uint32_t inside = 0;
    for (int i = 0; i < count; i++) {
        int32_t sign = bits_of(x[i]) & SIGN;
        float magnitude = float_of(bits_of(x[i]) & MAGNITUDE) * up[i * stride];
        if (mask) inside |= (uint32_t)(magnitude <= limit) << i;
        float kept = magnitude < max_val ? magnitude : max_val;
        int32_t binade = bits_of(kept) & INF_BITS;
        float grid = float_of((binade > lowest ? binade : lowest) + shift);
        float rounded = (kept + grid) - grid;
        y[i] = float_of(bits_of(rounded) | sign) * down[i * stride] + zero;
    }
    if (mask) append(mask, inside, count);
}

INLINE void elements(const float *restrict x, float *restrict y, const float *restrict up, const float *restrict down, int stride, int64_t count,
                     const Format *f, Bits *mask) {
    int64_t i = 0;
    if (f->streamed && (uintptr_t)y % LINE == 0)
        for (; i + WORD <= count; i += WORD) {
            _Alignas(LINE) float word[WORD];
            SOON(x + i, 0);
            word_of_elements(x + i, word, up + i * stride, down + i * stride, stride, WORD, f, mask);
            stream_word(y + i, word);
        }
    for (; i + WORD <= count; i += WORD) {
        SOON(x + i, 0);
        SOON(y + i, 1);
        word_of_elements(x + i, y + i, up + i * stride, down + i * stride, stride, WORD, f, mask);
    }
    if (i < count)
        word_of_elements(x + i, y + i, up + i * stride, down + i * stride, stride, (int)(count - i), f, mask);
}

/* --- groups along the last axis -------------------------------------------------------------------------------- */

enum { TILE_GROUPS = 32, TILE_ELEMENTS = 4096 }; /* what is read twice stays in the first-level cache */

/* Of the groups of a tile. `Numbers` by member, one array each. */
typedef struct {
    int32_t amax[TILE_GROUPS], lowest[TILE_GROUPS];
    float scale[TILE_GROUPS], largest[TILE_GROUPS], limit[TILE_GROUPS];
} Tile;

/* Scales, and the numbers of grids in units of x, of all groups that a tile may have: a loop of constant length. 0 where
   float32 does not hold every grid: nothing of what was written counts then. */
static __attribute__((noinline)) int grids_of(Tile *tile, Format f, Grid grid) {
    const int32_t *restrict amax = tile->amax;
    int32_t *restrict lowest = tile->lowest;
    float *restrict scales = tile->scale, *restrict largest = tile->largest, *restrict limit = tile->limit;
    const int32_t even = grid.way == EVEN ? -1 : 0, half = 1 << 22; /* as bits 2^-127, the least scale */
    const float step = power_of_two(-f.frac_bits);
    int32_t outside = 0;
    for (int i = 0; i < TILE_GROUPS; i++) {
        int32_t code = ((amax[i] + f.round_bias) >> 23) - f.emax;
        code = code > f.code_min ? code : f.code_min;
        code = code < f.code_max ? code : f.code_max;
        int32_t used = code > grid.low ? code : grid.low, bits = code << 23;
        outside |= (used - code) & (-amax[i] >> 31); /* too low, and not for zeros; in differences, which vectorize */
        outside |= ((grid.high - used) | (INF_BITS - 1 - amax[i])) & SIGN;
        scales[i] = float_of(bits > half ? bits : half) * step;
        float scale = float_of(used << 23);
        largest[i] = f.max_val * scale;
        limit[i] = f.limit * scale;
        lowest[i] = (bits_of(grid.even * scale) & even) | (((used << 23) + grid.lowest) & ~even);
    }
    return !outside;
}

/* Groups of one tile on grids in units of x. */
INLINE void round_groups(const float *restrict x, float *restrict y, Way way, int32_t shift, const Tile *t, int64_t count, int64_t group_size,
                         int streamed, Bits *mask) {
    for (int64_t g = 0, at = 0; at < count; g++, at += group_size) {
        const Numbers n = {t->largest[g], t->limit[g], t->lowest[g]};
        int64_t end = count - at < group_size ? count : at + group_size, i = at;
        for (; i + WORD <= end; i += WORD) {
            SOON(x + i, 0); /* not y: lines asked for to be written push out those of x, a multiple of 4 kB away */
            uint32_t inside = round_32(x + i, y + i, way, n, shift, mask != NULL, streamed);
            if (mask) append(mask, inside, WORD);
        }
        if (i == end) continue;
        int rest = (int)(end - i);
        uint32_t inside = way == EVEN ? round_evenly(x + i, y + i, n, mask != NULL, rest)
                                      : round_by_magnitude(x + i, y + i, n, shift, way == ONE_ZERO, mask != NULL, rest);
        if (mask) append(mask, inside, rest);
    }
}

/* One function for each way, so that its numbers stay in registers. */
#define ROUND_GROUPS(name, way)                                                                                                       \
    static __attribute__((noinline)) void name(const float *restrict x, float *restrict y, int32_t shift, const Tile *t, int64_t count,     \
                                               int64_t group_size, int streamed, Bits *mask) {                                        \
        if (streamed && mask)                                                                                                         \
            round_groups(x, y, way, shift, t, count, group_size, 1, mask);                                                            \
        else if (streamed)                                                                                                            \
            round_groups(x, y, way, shift, t, count, group_size, 1, NULL);                                                            \
        else if (mask)                                                                                                                \
            round_groups(x, y, way, shift, t, count, group_size, 0, mask);                                                            \
        else                                                                                                                          \
            round_groups(x, y, way, shift, t, count, group_size, 0, NULL);                                                            \
    }

ROUND_GROUPS(round_with_both_zeros, SIGNED_ZERO)
ROUND_GROUPS(round_with_one_zero, ONE_ZERO)
ROUND_GROUPS(round_on_even_grid, EVEN)

INLINE void tile(const float *restrict x, float *restrict y, float *restrict scale, int64_t count, int64_t group_size,
                 const Format *f, Grid grid, Bits *mask) {
    Tile t;
    float up[TILE_GROUPS], down[TILE_GROUPS];
    int64_t whole = count / group_size, rest = count - whole * group_size, groups = whole + (rest > 0);
    if (group_size == 32)
        largest_of_32(x, whole, t.amax);
    else
        for (int64_t g = 0; g < whole; g++) t.amax[g] = largest_magnitude(x + g * group_size, group_size);
    if (rest) t.amax[whole] = largest_magnitude(x + whole * group_size, rest);
    for (int64_t g = groups; g < TILE_GROUPS; g++) t.amax[g] = 0;
    if (grids_of(&t, *f, grid)) {
        int streamed = f->streamed && (uintptr_t)y % LINE == 0 && group_size % WORD == 0;
        memcpy(scale, t.scale, groups * sizeof *scale);
        (grid.way == EVEN ? round_on_even_grid : grid.way == ONE_ZERO ? round_with_one_zero : round_with_both_zeros)(
            x, y, grid.shift, &t, count, group_size, streamed, mask);
        return;
    }
    scales_of((Groups){t.amax, up, down}, scale, groups, f);
    for (int64_t g = 0, at = 0; at < count; g++, at += group_size)
        elements(x + at, y + at, up + g, down + g, 0, count - at < group_size ? count - at : group_size, f, mask);
}

INLINE void contiguous_groups(const float *restrict x, float *restrict y, float *restrict scale, int64_t outer,
                              int64_t length, int64_t group_size, const Format *f, Bits *mask) {
    int64_t fitting = TILE_ELEMENTS / group_size;
    int64_t groups = fitting < 1 ? 1 : fitting < TILE_GROUPS ? fitting : TILE_GROUPS;
    const Grid grid = grid_of(f->emin, f->mantissa_bits, f->max_val, bits_of(f->zero) == 0);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t left = length; left > 0;) {
            int64_t count = left < groups * group_size ? left : groups * group_size;
            tile(x, y, scale, count, group_size, f, grid, mask);
            x += count, y += count, left -= count, scale += groups;
            if (!left) scale -= groups - (count + group_size - 1) / group_size;
        }
}

/* --- groups along another axis: `inner` of them side by side --------------------------------------------------- */

typedef struct {
    Groups groups;  /* arrays of `period` entries; the multipliers repeat every `inner` entries */
    int64_t period; /* a multiple of inner */
} Workspace;

/* Column maxima of |x| [rows, inner] into amax[0 .. inner). As many rows as fit are taken side by side and then folded
   in halves, so that every loop is long even where `inner` is short (the taps of a convolution kernel). */
INLINE void column_maxima(const int32_t *x, int64_t rows, int64_t inner, const Workspace *w) {
    int32_t *amax = w->groups.amax;
    int64_t band = w->period / inner < rows ? w->period / inner : rows;
    for (int64_t i = 0; i < band * inner; i++) amax[i] = x[i] & MAGNITUDE;
    for (int64_t row = band; row < rows; row += band)
        keep_larger(amax, x + row * inner, (rows - row < band ? rows - row : band) * inner);
    for (; band > 1; band = (band + 1) / 2) {
        int64_t half = (band + 1) / 2;
        keep_larger(amax, amax + half * inner, (band - half) * inner);
    }
}

INLINE void repeat(float *values, int64_t inner, int64_t period) {
    for (int64_t filled = inner; filled < period; filled *= 2)
        memcpy(values + filled, values, (filled < period - filled ? filled : period - filled) * sizeof *values);
}

INLINE void strided_groups(const float *restrict x, float *restrict y, float *restrict scale, int64_t outer,
                           int64_t length, int64_t inner, int64_t group_size, const Format *f, Bits *mask,
                           const Workspace *w) {
    const Groups g = w->groups;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t first = 0; first < length; first += group_size) {
            int64_t rows = length - first < group_size ? length - first : group_size, count = rows * inner;
            column_maxima((const int32_t *)x, rows, inner, w);
            scales_of(g, scale, inner, f);
            repeat(g.up, inner, w->period), repeat(g.down, inner, w->period);
            for (int64_t i = 0; i < count; i += w->period)
                elements(x + i, y + i, g.up, g.down, 1, count - i < w->period ? count - i : w->period, f, mask);
            x += count, y += count, scale += inner;
        }
}

INLINE void groups(const float *restrict x, float *restrict y, float *restrict scale, int64_t outer, int64_t length, int64_t inner,
                   int64_t group_size, const Format *f, Bits *mask, const Workspace *w) {
    if (inner > 1)
        strided_groups(x, y, scale, outer, length, inner, group_size, f, mask, w);
    else if (group_size == 32) /* a constant: the loops over a group disappear */
        contiguous_groups(x, y, scale, outer, length, 32, f, mask);
    else
        contiguous_groups(x, y, scale, outer, length, group_size, f, mask);
}

static __attribute__((noinline)) void without_mask(const float *restrict x, float *restrict y, float *restrict scale, int64_t outer,
                                                   int64_t length, int64_t inner, int64_t group_size,
                                                   const Format *f, const Workspace *w) {
    groups(x, y, scale, outer, length, inner, group_size, f, NULL, w);
}

static __attribute__((noinline)) void with_mask(const float *restrict x, float *restrict y, float *restrict scale, int64_t outer, int64_t length,
                                                int64_t inner, int64_t group_size, const Format *f, uint8_t *mask,
                                                const Workspace *w) {
    Bits bits = {mask, 0, 0};
    groups(x, y, scale, outer, length, inner, group_size, f, &bits, w);
    flush(&bits);
}

/* --- entry points ---------------------------------------------------------------------------------------------- */

/* x, y [outer, length, inner]; scale [outer, ceil(length / group_size), inner]; mask: one bit per element, or NULL.
   Returns 0, or 1 when memory ran out. Subnormals count whatever the caller's flush-to-zero setting is. */
PUBLIC int mx_quantize_dequantize(const float *restrict x, float *restrict y, float *restrict scale, uint8_t *mask, int64_t outer, int64_t length,
                           int64_t inner, int64_t group_size, const Format *given) {
    Format format = *given, *f = &format;
    format.streamed = CAN_STREAM && outer * length * inner >= STREAMED;
    Workspace w = {{NULL, NULL, NULL}, 0};
    if (inner > 1) {
        w.period = inner < 8 * WORD ? inner * WORD : inner;
        int32_t *memory = malloc(3 * (size_t)w.period * sizeof *memory);
        if (!memory) return 1;
        w.groups = (Groups){memory, (float *)(memory + w.period), (float *)(memory + 2 * w.period)};
    }
    fenv_t callers;
    fegetenv(&callers);
    fesetenv(FE_DFL_ENV);
    if (mask)
        with_mask(x, y, scale, outer, length, inner, group_size, f, mask, &w);
    else
        without_mask(x, y, scale, outer, length, inner, group_size, f, &w);
    if (format.streamed) streams_done();
    fesetenv(&callers);
    free(w.groups.amax);
    return 0;
}

/* out = grad where the element's bit is set, else 0: on the bits, so that one loop serves every type of that width. */
#define MASK_GRADIENT(name, type)                                                                   \
    PUBLIC void name(const type *restrict grad, const uint8_t *restrict mask, type *restrict out, int64_t count) { \
        int64_t i = 0;                                                                              \
        for (; i + WORD <= count; i += WORD) {                                                      \
            uint32_t word;                                                                          \
            SOON(grad + i, 0);                                                                      \
            SOON(out + i, 1);                                                                       \
            memcpy(&word, mask + i / 8, sizeof word);                                               \
            for (int j = 0; j < WORD; j++) out[i + j] = word >> j & 1 ? grad[i + j] : 0;            \
        }                                                                                           \
        for (; i < count; i++) out[i] = mask[i / 8] >> i % 8 & 1 ? grad[i] : 0;                     \
    }

MASK_GRADIENT(mask_gradient_16, uint16_t)
MASK_GRADIENT(mask_gradient_32, uint32_t)
MASK_GRADIENT(mask_gradient_64, uint64_t)
