/* Codes of MX elements as whole multiples of the smallest step: mxexport/numbers/fixedpoint.linear_table. */
#ifndef MXEXPORT_ELEMENTS_H
#define MXEXPORT_ELEMENTS_H

#include "integers.h"
#include "operators.h"

/* `exponent_bits` 0: integers. Codes above the format's repeat those that it has. */
INLINE void fill_linear(int64_t *values, int64_t exponent_bits, int64_t mantissa_bits) {
    const int64_t bits = 1 + exponent_bits + mantissa_bits + (exponent_bits == 0), half = left(1, bits - 1);
    for (int64_t c = 0; c < CODES; c++) {
        const int64_t code = c & (2 * half - 1), magnitude = code & (half - 1);
        if (exponent_bits == 0) {
            values[c] = code >= half ? code - 2 * half : code;
            continue;
        }
        const int64_t field = magnitude >> mantissa_bits, mantissa = magnitude & (left(1, mantissa_bits) - 1);
        int64_t value = field ? mantissa + left(1, mantissa_bits) : mantissa;
        if (field > 1) value = field - 1 > 63 ? 0 : left(value, field - 1);
        values[c] = code >= half ? minus(0, value) : value;
    }
}

/* Codes of a byte; integers without a sign fill all of it. */
INLINE Status *fits_a_byte(const Kernel *k, int64_t exponent_bits, int64_t mantissa_bits) {
    return exponent_bits + mantissa_bits <= 7 ? NULL : wrong(k, "mxexport.ops: codes of more than 8 bits");
}

#endif
