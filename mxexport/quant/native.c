/* Quantize-dequantize of MX groups in one pass; same bits as mxexport/numerics.py.
 *
 * The tensor is [outer, length, inner] with groups of `group` along the middle. Exponents come from the float32 bits.
 * Compiled without contraction or fast-math: every operation below rounds as IEEE 754 says.
 */
#include <stdint.h>
#include <string.h>

typedef struct {
  int64_t outer, length, inner, group;
  int32_t emax, round_bias, frac_bits, code_min, code_max; /* the shared scale */
  int32_t is_float, mantissa_bits, exponent_bias;          /* the element */
  float max_val;                                           /* integers: largest code */
} Spec;

static inline float as_float(int32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

static inline int32_t as_bits(float f) {
  int32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}

/* 2**(field - 127) for field >= -22, subnormal results included */
static inline float power(int32_t field) {
  return as_float(field > 0 ? field << 23 : (int32_t)1 << (22 + field));
}

static inline float shared_scale(int32_t amax, const Spec *s) {
  if (amax >= 0x7F800000) return as_float(0x7FC00000);
  int32_t code = (int32_t)(((uint32_t)amax + (uint32_t)s->round_bias) >> 23) - s->emax;
  code = code < s->code_min ? s->code_min : code > s->code_max ? s->code_max : code;
  return power(code - s->frac_bits);
}

/* Adding and subtracting 1.5 * 2**23 times the step rounds to a multiple of it, ties to even. */
static inline float round_float(float v, const Spec *s, int32_t lowest) {
  int32_t field = as_bits(v) & 0x7F800000;
  field = field < lowest ? lowest : field;
  float magic = as_float((field + ((23 - s->mantissa_bits) << 23)) | 0x00400000);
  return (v + magic) - magic;
}

static inline float clip(float v, float limit) {
  v = v > limit ? limit : v;
  return v < -limit ? -limit : v;
}

static inline float with_sign_of(float v, float x) {
  return as_float(as_bits(v) | (as_bits(x) & INT32_MIN));
}

/* v = x / scale -> the element's value times scale */
static inline float requantize_float(float v, float x, float scale, const Spec *s, int32_t lowest) {
  return with_sign_of(round_float(clip(v, s->max_val), s, lowest), x) * scale;
}

static inline float requantize_int(float v, float scale, const Spec *s) {
  return ((clip(v, s->max_val) + 12582912.0f) - 12582912.0f) * scale;
}

/* Division with zeros kept: a scale flushed to zero makes no NaN of them. */
static inline float divide(float x, float scale) {
  return x == 0.0f ? 0.0f * scale : x / scale;
}

/* Elements that have a scale each. */
static void row(const float *x, float *y, const float *scale, int64_t n, const Spec *s) {
  const int32_t lowest = (128 - s->exponent_bias) << 23;
  if (s->is_float)
    for (int64_t i = 0; i < n; i++) y[i] = requantize_float(divide(x[i], scale[i]), x[i], scale[i], s, lowest);
  else
    for (int64_t i = 0; i < n; i++) y[i] = requantize_int(divide(x[i], scale[i]), scale[i], s);
}

/* Elements that share a scale. Multiplying by its reciprocal is exact where both are normal powers of two. */
static inline void run(const float *x, float *y, float scale, int64_t n, const Spec *s) {
  const int32_t lowest = (128 - s->exponent_bias) << 23, field = as_bits(scale) >> 23;
  const int normal = field > 0 && field < 254;
  const float factor = normal ? power(254 - field) : 0.0f;
  if (!normal)
    for (int64_t i = 0; i < n; i++) row(x + i, y + i, &scale, 1, s);
  else if (s->is_float)
    for (int64_t i = 0; i < n; i++) y[i] = requantize_float(x[i] * factor, x[i], scale, s, lowest);
  else
    for (int64_t i = 0; i < n; i++) y[i] = requantize_int(x[i] * factor, scale, s);
}

static inline int32_t largest(const float *x, int64_t n) {
  int32_t amax = 0;
  for (int64_t i = 0; i < n; i++) {
    const int32_t a = as_bits(x[i]) & 0x7FFFFFFF;
    amax = a > amax ? a : amax;
  }
  return amax;
}

static inline float quantize_run(const float *x, float *y, int64_t n, const Spec *s) {
  const float scale = shared_scale(largest(x, n), s);
  run(x, y, scale, n, s);
  return scale;
}

/* inner == 1: a group lies in one run. */
static inline void contiguous(const float *restrict x, float *restrict y, float *restrict scales, const Spec *s) {
  const int64_t groups = (s->length + s->group - 1) / s->group;
  for (int64_t o = 0; o < s->outer; o++)
    for (int64_t g = 0; g < groups; g++) {
      const int64_t start = o * s->length + g * s->group;
      const int64_t left = s->length - g * s->group, n = left < s->group ? left : s->group;
      /* A count the compiler knows makes straight vector code. */
      scales[o * groups + g] = n == 32 ? quantize_run(x + start, y + start, 32, s) : quantize_run(x + start, y + start, n, s);
    }
}

/* inner > 1: rows of `inner` elements, each with a scale of its own; `scales` doubles as the maxima. */
static void strided(const float *x, float *y, float *scales, const Spec *s) {
  const int64_t groups = (s->length + s->group - 1) / s->group, inner = s->inner;
  for (int64_t o = 0; o < s->outer; o++)
    for (int64_t g = 0; g < groups; g++) {
      const int64_t start = (o * s->length + g * s->group) * inner;
      const int64_t left = s->length - g * s->group, n = left < s->group ? left : s->group;
      float *scale = scales + (o * groups + g) * inner;
      int32_t *amax = (int32_t *)memset(scale, 0, (size_t)inner * 4);
      for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < inner; i++) {
          const int32_t a = as_bits(x[start + r * inner + i]) & 0x7FFFFFFF;
          amax[i] = a > amax[i] ? a : amax[i];
        }
      for (int64_t i = 0; i < inner; i++) scale[i] = shared_scale(amax[i], s);
      for (int64_t r = 0; r < n; r++) row(x + start + r * inner, y + start + r * inner, scale, inner, s);
    }
}

void mx_quantize_dequantize(const float *restrict x, float *restrict y, float *restrict scales, const Spec *spec) {
  const Spec s = *spec; /* a copy that no store through y can change */
  if (s.inner == 1)
    contiguous(x, y, scales, &s);
  else
    strided(x, y, scales, &s);
}

/* Straight-through gradient: `grad` where x / scale was not clipped (|x / scale| <= limit), else 0. */
void mx_straight_through(const float *restrict x, const float *restrict scales, const float *restrict grad,
                         float *restrict out, float limit, const Spec *spec) {
  const Spec s = *spec;
  const int64_t groups = (s.length + s.group - 1) / s.group;
  for (int64_t o = 0; o < s.outer; o++)
    for (int64_t k = 0; k < s.length; k++) {
      const int64_t at = (o * s.length + k) * s.inner;
      const float *scale = scales + (o * groups + k / s.group) * s.inner;
      if (s.inner == 1 && k % s.group == 0) {
        const int64_t left = s.length - k, n = left < s.group ? left : s.group;
        const float bound = limit * *scale;
        for (int64_t i = 0; i < n; i++) {
          const float a = as_float(as_bits(x[at + i]) & 0x7FFFFFFF);
          out[at + i] = a <= bound ? grad[at + i] : 0.0f;
        }
        k += n - 1;
      } else {
        for (int64_t i = 0; i < s.inner; i++) {
          const float a = as_float(as_bits(x[at + i]) & 0x7FFFFFFF);
          out[at + i] = a <= limit * scale[i] ? grad[at + i] : 0.0f;
        }
      }
    }
}
