/* float32 as bits, for every C file here. Never compile them with -ffast-math. */
#ifndef MXEXPORT_BITS_H
#define MXEXPORT_BITS_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#ifdef _WIN32
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC __attribute__((visibility("default")))
#endif

enum { INF_BITS = 0x7F800000, MAGNITUDE = 0x7FFFFFFF, SIGN = (int)0x80000000, MANTISSA = 0x7FFFFF };

INLINE int32_t bits_of(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(int32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE float power_of_two(int32_t exponent) { /* -149 .. 127 */
    int32_t subnormal = exponent + 149;
    return float_of(exponent >= -126 ? (exponent + 127) << 23 : 1 << (subnormal < 31 ? subnormal : 31));
}

INLINE int32_t largest_magnitude(const float *x, int64_t count) { /* as bits: NaN is above Inf */
    int32_t amax = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t magnitude = bits_of(x[i]) & MAGNITUDE;
        amax = amax > magnitude ? amax : magnitude;
    }
    return amax;
}

INLINE void keep_larger(int32_t *restrict amax, const int32_t *restrict other, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        int32_t magnitude = other[i] & MAGNITUDE;
        amax[i] = amax[i] > magnitude ? amax[i] : magnitude;
    }
}

#endif
