/* int64 arithmetic of dataflow operators, as numpy and onnxruntime have it: sums, products and left shifts wrap, right
   shifts are arithmetic. Shifts are 0 .. 63; other counts keep their six lowest bits. See mxexport/numbers. */
#ifndef MXEXPORT_INTEGERS_H
#define MXEXPORT_INTEGERS_H

#include "bits.h"

INLINE int64_t plus(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
INLINE int64_t minus(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }
INLINE int64_t times(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }
INLINE int64_t left(int64_t x, int64_t count) { return (int64_t)((uint64_t)x << (count & 63)); }
INLINE int64_t right(int64_t x, int64_t count) { return x < 0 ? ~(~x >> (count & 63)) : x >> (count & 63); }
INLINE int64_t magnitude_of(int64_t x) { return x < 0 ? minus(0, x) : x; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t clamped(int64_t x, int64_t low, int64_t high) { return least(most(x, low), high); }
INLINE int64_t floor_log2(int64_t x) { return x > 0 ? 63 - __builtin_clzll((unsigned long long)x) : 0; }
INLINE int64_t half_up(int64_t x, int64_t count) { return right(plus(x, left(1, count) >> 1), count); } /* count < 63 */

/* x / 2**count to nearest, ties to even; count < 63. */
INLINE int64_t shifted_evenly(int64_t x, int64_t count) {
    const int64_t magnitude = magnitude_of(x), quotient = right(magnitude, count), rest = minus(magnitude, left(quotient, count));
    const int64_t half = left(1, count) >> 1, up = (count > 0) & ((rest > half) | ((rest == half) & (quotient & 1)));
    return x < 0 ? minus(0, quotient + up) : quotient + up;
}

/* x / divisor to nearest, ties to even; 0 < divisor < 2**62. */
INLINE int64_t divided_evenly(int64_t x, int64_t divisor) {
    const int64_t magnitude = magnitude_of(x), quotient = magnitude / divisor, rest = 2 * (magnitude - quotient * divisor);
    const int64_t up = (rest > divisor) | ((rest == divisor) & (quotient & 1));
    return x < 0 ? minus(0, quotient + up) : quotient + up;
}

#endif
