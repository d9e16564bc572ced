"""The exact reference of every number format (numpy only; it does not use ml_dtypes, which is its oracle).

Everything an operator, a torch kernel, an ONNX function body or a hardware unit computes is defined here and
compared with here bit for bit. Inputs of any real dtype are taken as float32 first.

Sources: OCP MX v1.0 sections 5.2 (elements), 6.2 (dot product), 6.3 (conversion); IEEE 754 round to nearest even.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from mxexport.errors import FormatError, ShapeError
from mxexport.numbers import groups
from mxexport.numbers.arrays import is_real
from mxexport.numbers.formats import (
    E8M0_BIAS,
    E8M0_MAX,
    E8M0_NAN,
    Element,
    FloatElement,
    GroupFormat,
    IntElement,
)

_MAGNITUDE = np.int32(0x7FFFFFFF)
_INF_BITS = np.int32(0x7F800000)
_NAN_BITS = np.int32(0x7FC00000)
NVFP4_SCALE = FloatElement(4, 3, "nan")


def as_float32(x) -> np.ndarray:
    """`x` as a float32 array (float16 and bfloat16 widen exactly, float64 rounds once).

    Raises ShapeError for complex numbers, strings and objects.
    """
    array = np.asarray(x)
    if not is_real(array.dtype):
        raise ShapeError(f"expected real numbers, found {array.dtype}")
    return array.astype(np.float32, copy=False)


# --- shared scale ---------------------------------------------------------------------------------------------


def scale_codes_of_amax(
    amax: np.ndarray, emax: int, rounding: int, code_min: int = 0, code_max: int = E8M0_MAX
) -> np.ndarray:
    """E8M0 codes (uint8) of the largest magnitudes `amax` (float32, any NaN or Inf included).

    code = clamp(((A + R) >> 23) - emax, code_min, code_max), A the float32 bits of amax, R = `rounding`;
    255 where amax is not finite. Integer arithmetic only: a float log2 misrounds just below powers of two.
    """
    bits = np.ascontiguousarray(amax).view(np.int32).astype(np.int64) & int(_MAGNITUDE)
    codes = np.clip(((bits + rounding) >> 23) - emax, code_min, code_max)
    return np.where(bits >= int(_INF_BITS), E8M0_NAN, codes).astype(np.uint8)


def group_amax(x: np.ndarray, axis: int, group_size: int) -> np.ndarray:
    """Largest magnitude per group, contracted; integer maximum on the bits, so NaN and Inf survive."""
    x = as_float32(x)
    axis = groups.normalize_axis(axis, x.ndim)
    bits = np.ascontiguousarray(groups.to_groups(x, axis, group_size)).view(np.int32) & _MAGNITUDE
    return bits.max(axis=axis + 1, initial=0).view(np.float32)


def scale_from_codes(codes: np.ndarray, frac_bits: int = 0) -> np.ndarray:
    """E8M0 codes -> float32 2**(code - 127 - frac_bits); code 255 -> NaN. Exact, subnormal results included.

    On the bits, as the inverse below: neither may depend on whether the process flushes subnormals to zero.
    """
    codes = np.asarray(codes)
    field = np.minimum(codes.astype(np.int32), E8M0_MAX) - frac_bits
    subnormal = np.int32(1) << np.clip(field + 22, 0, 22)
    bits = np.where(codes == E8M0_NAN, _NAN_BITS, np.where(field > 0, field << 23, subnormal))
    return np.where(field < -22, np.int32(0), bits).astype(np.int32).view(np.float32)


def codes_from_scale(scale: np.ndarray, frac_bits: int = 0) -> np.ndarray:
    """Inverse of `scale_from_codes`. Raises FormatError for a scale that is not a power of two E8M0 can hold."""
    exponents, exact = power_of_two_exponents(scale)
    codes, nan = exponents + E8M0_BIAS + frac_bits, np.isnan(scale)
    bad = ~nan & (~exact | (codes < 0) | (codes > E8M0_MAX))
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise FormatError(
            f"scale {float(as_float32(scale)[where]):.9g} at {where} is not one of the powers of two E8M0 can hold "
            f"(2**{-E8M0_BIAS - frac_bits} .. 2**{127 - frac_bits}); {int(bad.sum())} of {bad.size} scales are not"
        )
    return np.where(nan, E8M0_NAN, codes).astype(np.uint8)


def power_of_two_exponents(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(e, whether x is 2**e) of float32 `x`, subnormals included; e has no meaning where x is no power of two."""
    x = as_float32(x)
    bits = np.ascontiguousarray(x).view(np.int32).reshape(x.shape)
    field, mantissa = bits >> 23, bits & 0x7FFFFF
    single = (mantissa & (mantissa - 1) == 0) & (mantissa != 0)
    exact = (bits > 0) & (bits < _INF_BITS) & np.where(field > 0, mantissa == 0, single)
    subnormal = np.frexp(np.maximum(mantissa, 1).astype(np.float64))[1] - 150
    return np.where(field > 0, field - 127, subnormal), exact


def mx_scale(
    x: np.ndarray,
    axis: int,
    group_size: int,
    emax: int,
    rounding: int = 0,
    frac_bits: int = 0,
    code_min: int = 0,
    code_max: int = E8M0_MAX,
) -> np.ndarray:
    """Shared power-of-two scale per group (contracted float32): op `MXScale`, OCP MX v1.0 section 6.3."""
    codes = scale_codes_of_amax(group_amax(x, axis, group_size), emax, rounding, code_min, code_max)
    return scale_from_codes(codes, frac_bits)


def groupwise_scale(x: np.ndarray, axis: int, group_size: int, max_val: float) -> np.ndarray:
    """Symmetric float scale per group, amax / max_val in float32 (contracted).

    A group whose quotient is zero gets 1; a group with NaN or Inf gets NaN. `max_val` is 2**(b-1) - 1 for integers.
    """
    scale = group_amax(x, axis, group_size) / np.float32(max_val)
    return _guard_scale(scale)


def groupwise_range_scale(x: np.ndarray, axis: int, group_size: int, levels: int) -> np.ndarray:
    """Asymmetric float scale per group, (max - min) / levels in float32; the range always includes 0."""
    low, high = group_range(x, axis, group_size)
    with np.errstate(invalid="ignore", over="ignore"):
        return _guard_scale((high - low) / np.float32(levels))


def groupwise_zero_point(x: np.ndarray, scale: np.ndarray, axis: int, group_size: int, levels: int) -> np.ndarray:
    """Zero point clip(rne(-min / scale), 0, levels) per group: float32 with whole values, shaped like the scale.

    0 where the scale is not finite; else NaN for a group with NaN.
    """
    low, _ = group_range(x, axis, group_size)
    zero = np.clip(np.rint(_divide(-low, as_float32(scale))), 0, levels) + np.float32(0)
    return np.where(np.isfinite(scale), zero, np.float32(0)).astype(np.float32)


def group_range(x: np.ndarray, axis: int, group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value per group, contracted; 0 always counts as one of them."""
    x = as_float32(x)
    axis = groups.normalize_axis(axis, x.ndim)
    grouped = groups.to_groups(x, axis, group_size)
    zero = np.float32(0)
    return grouped.min(axis=axis + 1, initial=zero), grouped.max(axis=axis + 1, initial=zero)


def _guard_scale(scale: np.ndarray) -> np.ndarray:
    return np.where(scale == 0, np.float32(1), np.where(np.isfinite(scale), scale, np.float32(np.nan)))


# --- elements -------------------------------------------------------------------------------------------------


def round_to_float(
    v: np.ndarray,
    exponent_bits: int,
    mantissa_bits: int,
    exponent_bias: int,
    max_val: float,
    signed: bool = True,
    signed_zero: bool = True,
) -> np.ndarray:
    """Round float32 `v` to a minifloat's values: nearest even, saturating at max_val, subnormals kept, NaN kept."""
    del exponent_bits  # the range is given by bias and max_val; the attribute names the format
    v = as_float32(v)
    magnitude = np.minimum(np.abs(v), np.float32(max_val))
    field = (magnitude.view(np.int32) >> 23).astype(np.int32) - 127
    step_exponent = np.maximum(field, 1 - exponent_bias) - mantissa_bits
    step = np.ldexp(np.float32(1), np.minimum(step_exponent, 127)).astype(np.float32)
    rounded = np.copysign(np.rint(magnitude / step) * step, v)
    if not signed:
        rounded = np.where(v <= 0, np.float32(0), rounded)
    return rounded if signed_zero else rounded + np.float32(0)


def _divide(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x / scale, with zeros kept as they are (a scale flushed to zero must not make them NaN)."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore"):
        quotient = x / scale
    return np.where((x == 0) & ~np.isnan(scale), x, quotient)


def mx_float_quant(
    x: np.ndarray,
    scale: np.ndarray,
    axis: int,
    group_size: int,
    exponent_bits: int,
    mantissa_bits: int,
    exponent_bias: int,
    max_val: float,
    signed: bool = True,
    signed_zero: bool = True,
) -> np.ndarray:
    """Quantize-dequantize to a minifloat under contracted scales: op `MXFloatQuant`. Shape and order of `x`."""
    x, scale = as_float32(x), as_float32(scale)
    axis = groups.normalize_axis(axis, x.ndim)
    groups.check_scale_shape("mx_float_quant", scale.shape, x.shape, axis, group_size)
    s = groups.expand(scale, axis, group_size, x.shape[axis])
    q = round_to_float(_divide(x, s), exponent_bits, mantissa_bits, exponent_bias, max_val, signed, signed_zero)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return q * s


def groupwise_quant(
    x: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None,
    axis: int,
    group_size: int,
    bit_width: int,
    signed: bool = True,
    narrow: bool = True,
) -> np.ndarray:
    """Integer quantize-dequantize, (clip(rne(x/s + z), lo, hi) - z) * s + 0: op `GroupwiseQuant`."""
    x, scale = as_float32(x), as_float32(scale)
    axis = groups.normalize_axis(axis, x.ndim)
    groups.check_scale_shape("groupwise_quant", scale.shape, x.shape, axis, group_size)
    s = groups.expand(scale, axis, group_size, x.shape[axis])
    z = np.float32(0)
    if zero_point is not None:
        groups.check_scale_shape("groupwise_quant", zero_point.shape, x.shape, axis, group_size, "zero_point")
        z = groups.expand(as_float32(zero_point), axis, group_size, x.shape[axis])
    lo, hi = int_range(bit_width, signed, narrow)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        q = np.clip(np.rint(_divide(x, s) + z), np.float32(lo), np.float32(hi))
        return (q - z) * s + np.float32(0)


def int_range(bit_width: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Smallest and largest code of an integer format; `narrow` leaves the most negative code unused."""
    if not signed:
        return 0, 2**bit_width - 1
    return -(2 ** (bit_width - 1)) + bool(narrow), 2 ** (bit_width - 1) - 1


def encode(v: np.ndarray, element: Element) -> np.ndarray:
    """Element values -> codes: uint8 bit patterns; int8 / uint8 for signed / unsigned integers.

    Any float32 is taken: it is rounded to nearest even and saturated first. NaN becomes the format's NaN, or zero
    where it has none.
    """
    v = as_float32(v)
    if isinstance(element, IntElement):
        with np.errstate(over="ignore"):
            scaled = np.where(np.isnan(v), np.float32(0), v) * np.float32(2**element.frac_bits)
        codes = np.clip(np.rint(scaled), element.code_lo, element.code_hi)
        return codes.astype(np.int8 if element.signed else np.uint8)
    e = element
    rounded = round_to_float(v, e.exponent_bits, e.mantissa_bits, e.bias, e.max_val, True, e.signed_zero)
    nan = np.isnan(rounded)
    magnitude = np.where(nan, np.float32(0), np.abs(rounded))
    exponent = np.maximum((magnitude.view(np.int32) >> 23) - 127, e.emin)
    significand = np.ldexp(magnitude, e.mantissa_bits - exponent).astype(np.int32)
    codes = ((exponent - e.emin) << e.mantissa_bits) + significand
    codes = codes | (np.signbit(rounded).astype(np.int32) << (e.bits - 1))
    return np.where(nan, e.nan_code or 0, codes).astype(np.uint8)


def decode(codes: np.ndarray, element: Element) -> np.ndarray:
    """Codes -> float32 element values; every code is decoded, Inf, NaN and the most negative integer included."""
    codes = np.asarray(codes)
    if isinstance(element, IntElement):
        return codes.astype(np.float32) / np.float32(2**element.frac_bits)
    return decode_table(element)[codes]


@cache
def decode_table(element: FloatElement) -> np.ndarray:
    magnitude = np.arange(2 ** (element.bits - 1))
    field, mantissa = magnitude >> element.mantissa_bits, magnitude & (2**element.mantissa_bits - 1)
    significand = np.where(field > 0, mantissa + 2**element.mantissa_bits, mantissa)
    values = np.ldexp(significand.astype(np.float32), np.maximum(field, 1) - element.bias - element.mantissa_bits)
    if element.specials in ("nan", "ieee"):
        values[magnitude > element.max_code] = np.nan
    if element.inf_code is not None:
        values[element.inf_code] = np.inf
    negative = -values
    if element.specials == "fnuz":
        negative[0] = np.nan
    table = np.concatenate([values, negative]).astype(np.float32)
    table.setflags(write=False)
    return table


def linearize(codes: np.ndarray, element: Element) -> np.ndarray:
    """Codes -> int64 multiples of 2**-element.frac_bits. Raises FormatError on an Inf or NaN code.

    Python integers (dtype object) for the elements that need more than 64 bits: e6m1 and e7m0.
    """
    values = decode(codes, element)
    if not np.isfinite(values).all():
        raise FormatError(f"{element.name}: an Inf or NaN code has no fixed-point value")
    whole = np.ldexp(values.astype(np.float64), element.frac_bits)
    if element.linear_bits > 64:
        return np.array([int(v) for v in whole.flat], object).reshape(whole.shape)
    return whole.astype(np.int64)


# --- whole tensors --------------------------------------------------------------------------------------------


def element_codes(
    x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, fmt: GroupFormat, axis: int
) -> np.ndarray:
    """Codes (..., n, G, ...) of `x` under given contracted scales; padding gets the code of zero."""
    grouped = groups.to_groups(as_float32(x), axis, fmt.group_size)
    scale = np.expand_dims(scale, axis + 1)
    with np.errstate(invalid="ignore", over="ignore"):
        quotient = _divide(grouped, scale)
        quotient = np.where(scale == 0, np.copysign(np.float32(0), grouped), quotient)  # nvfp4's zero block scale
    if fmt.is_float:
        return encode(quotient, fmt.element)
    if zero_point is not None:
        quotient = quotient + np.expand_dims(zero_point, axis + 1)
    return encode(quotient, IntElement(fmt.element.bits, fmt.element.signed))  # the scale is the integer's step


def without_overflow(values: np.ndarray) -> np.ndarray:
    """Dequantized float32 values with the largest finite number in place of Inf, for finding their elements again.

    Inf is an element times its scale that reached 2**128. What was quantized lay below, so the element is that of the
    largest finite number; only an Inf quantized under a given scale may have had a larger one.
    """
    largest = np.finfo(np.float32).max
    return np.clip(as_float32(values), -largest, largest)


def nvfp4_scale(x: np.ndarray, axis: int, group_size: int) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """NVFP4's two-level scale: (block scale * tensor scale) as float32, the E4M3 block codes, the tensor scale.

    s_enc = 6 * 448 / amax(tensor); block = e4m3(amax(block) / 6 * s_enc); tensor scale = 1 / s_enc. A block whose
    E4M3 scale rounds to zero holds zeros; a block with NaN or Inf is all NaN and the others do not see it.
    """
    amax = group_amax(x, axis, group_size)
    finite = np.isfinite(amax)
    largest = np.max(np.where(finite, amax, np.float32(0)), initial=np.float32(0))
    with np.errstate(divide="ignore", over="ignore"):
        s_enc = np.minimum(np.float32(6 * 448) / largest, np.float32(2.0**126)) if largest else np.float32(1)
    tensor_scale = np.float32(1) / s_enc
    with np.errstate(invalid="ignore"):
        codes = encode(np.where(finite, amax / np.float32(6) * s_enc, np.float32(np.nan)), NVFP4_SCALE)
    return decode(codes, NVFP4_SCALE) * tensor_scale, codes, tensor_scale


def block_dot(a: np.ndarray, b: np.ndarray, element_a: Element, element_b: Element) -> np.ndarray:
    """Exact dot product of element codes over the last axis, in units of 2**-(frac_bits of a + frac_bits of b).

    OCP MX v1.0 section 6.2 without the scales. int64 where the sum fits 63 bits, Python integers otherwise.
    """
    width = element_a.linear_bits + element_b.linear_bits - 1 + max(int(a.shape[-1]) - 1, 0).bit_length()
    la, lb = linearize(a, element_a), linearize(b, element_b)
    if width > 63:
        la, lb = la.astype(object), lb.astype(object)
    return (la * lb).sum(axis=-1)
