/* Groups that are rounded where they lie, without a multiplication into the element's range and back.

   In units of x an element's grid is that of the format times the scale, a power of two: the same grid, moved by an
   exponent. Where float32 holds it whole (no bound of it is subnormal, infinite or NaN) rounding there gives the bits
   that rounding in the element's range gives. Groups of zeros take any grid. */
#ifndef MXEXPORT_UNSCALED_H
#define MXEXPORT_UNSCALED_H

#include "bits.h"

/* How the elements of a group are found: by magnitude and sign (SIGNED_ZERO keeps -0, ONE_ZERO does not), or all on one
   grid (EVEN, of formats without binades: integers). */
typedef enum { SIGNED_ZERO, ONE_ZERO, EVEN } Way;

typedef struct {
    Way way;
    int32_t low, high;     /* codes of scales for which float32 holds the grid */
    int32_t lowest, shift; /* exponent fields: of the first binade, and from a binade to what rounds to its steps */
    float even;            /* what rounds to the steps of an even grid, whatever the sign: 1.5 times a power of two */
} Grid;

INLINE Grid grid_of(int32_t emin, int32_t mantissa_bits, float max_val, int has_one_zero) {
    int32_t top = (bits_of(max_val) >> 23) - 127, bits = 23 - mantissa_bits;
    Grid g = {has_one_zero ? ONE_ZERO : SIGNED_ZERO, 1 > 1 - emin ? 1 : 1 - emin, 254 - top - bits, emin * (1 << 23), bits << 23, 0};
    if (has_one_zero && top <= emin && bits > 2) {
        g.way = EVEN;
        g.even = 1.5f * power_of_two(emin + bits);
        if (g.high > 254 - emin - bits) g.high = 254 - emin - bits;
    }
    return g;
}

/* Largest magnitudes, as bits, of `count` neighbouring groups of 32. */
INLINE void largest_of_32(const float *x, int64_t count, int32_t *amax) {
    int64_t g = 0;
#if defined(__AVX2__)
    /* Eight groups at once: their partial maxima are interleaved in pairs, which leaves one of each. */
    const __m256i magnitude = _mm256_set1_epi32(MAGNITUDE);
    for (; g + 8 <= count; g += 8) {
        __m256i m[8];
        for (int i = 0; i < 8; i++) {
            const __m256i *at = (const __m256i *)(x + (g + i) * 32);
            __m256i a = _mm256_and_si256(_mm256_loadu_si256(at), magnitude), b = _mm256_and_si256(_mm256_loadu_si256(at + 1), magnitude);
            __m256i c = _mm256_and_si256(_mm256_loadu_si256(at + 2), magnitude), d = _mm256_and_si256(_mm256_loadu_si256(at + 3), magnitude);
            m[i] = _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, d));
        }
        for (int i = 0; i < 8; i += 2)
            m[i] = _mm256_max_epi32(_mm256_unpacklo_epi32(m[i], m[i + 1]), _mm256_unpackhi_epi32(m[i], m[i + 1]));
        for (int i = 0; i < 8; i += 4) {
            __m256i both = _mm256_max_epi32(_mm256_unpacklo_epi64(m[i], m[i + 2]), _mm256_unpackhi_epi64(m[i], m[i + 2]));
            __m128i four = _mm_max_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
            _mm_storeu_si128((__m128i *)(amax + g + i), four);
        }
    }
#endif
    for (; g < count; g++) amax[g] = largest_magnitude(x + g * 32, 32);
}

/* What a group is rounded by: its largest element, the largest magnitude that is not clipped, and its first binade or, of
   an even grid, what rounds to it. */
typedef struct {
    float largest, limit;
    int32_t lowest;
} Numbers;

/* `count` elements, 32 at most, y on a line of the cache if `streamed`. Returns one bit for each that is not clipped,
   with `mask`. Without AVX2 the loops are the compiler's to vectorize, one chain of operations after the other. */
INLINE uint32_t round_by_magnitude(const float *restrict x, float *restrict y, Numbers n, int32_t shift, int one_zero, int mask, int count) {
    uint32_t inside = 0;
    for (int i = 0; i < count; i++) {
        float magnitude = float_of(bits_of(x[i]) & MAGNITUDE), kept = magnitude < n.largest ? magnitude : n.largest;
        if (mask) inside |= (uint32_t)(magnitude <= n.limit) << i;
        int32_t binade = bits_of(kept) & INF_BITS;
        float grid = float_of((binade > n.lowest ? binade : n.lowest) + shift);
        float rounded = float_of(bits_of((kept + grid) - grid) | (bits_of(x[i]) & SIGN));
        y[i] = one_zero ? rounded + 0.0f : rounded;
    }
    return inside;
}

INLINE uint32_t round_evenly(const float *restrict x, float *restrict y, Numbers n, int mask, int count) {
    const float grid = float_of(n.lowest), largest = n.largest;
    uint32_t inside = 0;
    for (int i = 0; i < count; i++) {
        if (mask) inside |= (uint32_t)(float_of(bits_of(x[i]) & MAGNITUDE) <= n.limit) << i;
        float below = x[i] < largest ? x[i] : largest, kept = below > -largest ? below : -largest;
        y[i] = (kept + grid) - grid;
    }
    return inside;
}

#if defined(__AVX2__)
/* The same for 32 elements in four registers, one operation for all four after the other: the processor looks only so
   far ahead, and four chains behind each other leave it waiting for a third of the time. */
#define ALL_FOUR(operation) for (int i = 0; i < 4; i++) operation

INLINE void store_four(float *y, const __m256 *value, int streamed) {
    ALL_FOUR(streamed ? _mm256_stream_ps(y + 8 * i, value[i]) : _mm256_storeu_ps(y + 8 * i, value[i]);)
}

INLINE uint32_t inside_of_four(const __m256 *magnitude, float limit) {
    uint32_t inside = 0;
    const __m256 most = _mm256_set1_ps(limit);
    ALL_FOUR(inside |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(magnitude[i], most, _CMP_LE_OQ)) << 8 * i;)
    return inside;
}

INLINE __m256 everywhere(int32_t bits) { return _mm256_castsi256_ps(_mm256_set1_epi32(bits)); }

INLINE uint32_t round_32_by_magnitude(const float *x, float *y, Numbers n, int32_t shift, int one_zero, int mask, int streamed) {
    const __m256 magnitude = everywhere(MAGNITUDE), exponent = everywhere(INF_BITS), sign = everywhere(SIGN);
    const __m256 largest = _mm256_set1_ps(n.largest);
    const __m256i lowest = _mm256_set1_epi32(n.lowest), up = _mm256_set1_epi32(shift);
    __m256 given[4], kept[4], grid[4];
    __m256i binade[4];
    uint32_t inside = 0;
    ALL_FOUR(given[i] = _mm256_loadu_ps(x + 8 * i);)
    ALL_FOUR(kept[i] = _mm256_and_ps(given[i], magnitude);)
    if (mask) inside = inside_of_four(kept, n.limit);
    ALL_FOUR(kept[i] = _mm256_min_ps(kept[i], largest);)
    ALL_FOUR(binade[i] = _mm256_castps_si256(_mm256_and_ps(kept[i], exponent));)
    ALL_FOUR(binade[i] = _mm256_max_epi32(binade[i], lowest);)
    ALL_FOUR(grid[i] = _mm256_castsi256_ps(_mm256_add_epi32(binade[i], up));)
    ALL_FOUR(kept[i] = _mm256_add_ps(kept[i], grid[i]);)
    ALL_FOUR(given[i] = _mm256_and_ps(given[i], sign);)
    ALL_FOUR(kept[i] = _mm256_sub_ps(kept[i], grid[i]);)
    ALL_FOUR(kept[i] = _mm256_or_ps(kept[i], given[i]);)
    if (one_zero) ALL_FOUR(kept[i] = _mm256_add_ps(kept[i], _mm256_setzero_ps());)
    store_four(y, kept, streamed);
    return inside;
}

INLINE uint32_t round_32_evenly(const float *x, float *y, Numbers n, int mask, int streamed) {
    const __m256 largest = _mm256_set1_ps(n.largest), least = _mm256_set1_ps(-n.largest), grid = everywhere(n.lowest);
    __m256 given[4], magnitude[4];
    uint32_t inside = 0;
    ALL_FOUR(given[i] = _mm256_loadu_ps(x + 8 * i);)
    if (mask) {
        ALL_FOUR(magnitude[i] = _mm256_and_ps(given[i], everywhere(MAGNITUDE));)
        inside = inside_of_four(magnitude, n.limit);
    }
    ALL_FOUR(given[i] = _mm256_min_ps(given[i], largest);)
    ALL_FOUR(given[i] = _mm256_max_ps(given[i], least);)
    ALL_FOUR(given[i] = _mm256_add_ps(given[i], grid);)
    ALL_FOUR(given[i] = _mm256_sub_ps(given[i], grid);)
    store_four(y, given, streamed);
    return inside;
}
#endif

/* 32 elements. */
INLINE uint32_t round_32(const float *restrict x, float *restrict y, Way way, Numbers n, int32_t shift, int mask, int streamed) {
#if defined(__AVX2__)
    if (way == EVEN) return round_32_evenly(x, y, n, mask, streamed);
    return round_32_by_magnitude(x, y, n, shift, way == ONE_ZERO, mask, streamed);
#else
    (void)streamed;
    if (way == EVEN) return round_evenly(x, y, n, mask, 32);
    return round_by_magnitude(x, y, n, shift, way == ONE_ZERO, mask, 32);
#endif
}

#endif
