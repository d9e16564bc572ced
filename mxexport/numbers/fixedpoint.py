"""The golden model of the hardware: exact integer arithmetic on int64 (numpy only).

A *wide* integer tensor `v` stands for the real numbers v * 2**lsb_exp. Element codes are bit patterns (uint8, two's
complement for integers); scale codes are E8M0 (uint8, 255 never occurs). Every dataflow op, its ONNX function body
and its SystemVerilog unit equal the functions below bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mxexport.numbers import groups
from mxexport.numbers.formats import E8M0_BIAS, Element, IntElement

MAX_WIDTH = 63


@dataclass(frozen=True)
class BlockQuantizer:
    """The numbers that define one `MXQuantize` unit, all derived from an element format and a scale rule.

    `exponent_bits` is 0 for integer elements, whose `mantissa_bits` then counts fraction bits (MX int8: 6).
    """

    exponent_bits: int
    mantissa_bits: int
    exponent_bias: int
    max_code: int
    emax: int
    round_bias: int
    code_min: int = 0
    code_max: int = 254

    @property
    def is_float(self) -> bool:
        return self.exponent_bits > 0

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits + (not self.is_float)

    @property
    def emin(self) -> int:
        return 1 - self.exponent_bias if self.is_float else 0

    @property
    def binades(self) -> int:
        """Above the lowest normal one; none of integers."""
        return self.emax - self.emin if self.is_float else 0


def element_parameters(element: Element) -> dict[str, int]:
    """The four numbers that name an element format in ONNX attributes and SystemVerilog parameters."""
    if isinstance(element, IntElement):
        return {
            "exponent_bits": 0,
            "mantissa_bits": element.frac_bits,
            "exponent_bias": 0,
            "max_code": element.code_hi,
        }
    return {
        "exponent_bits": element.exponent_bits,
        "mantissa_bits": element.mantissa_bits,
        "exponent_bias": element.bias,
        "max_code": element.max_code,
    }


def floor_log2(magnitude: np.ndarray) -> np.ndarray:
    """Position of the leading one of non-negative int64 (0 for 0), by binary search on integer compares."""
    rest, position = magnitude.astype(np.int64), np.zeros(magnitude.shape, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        high = rest >= (1 << step)
        rest = np.where(high, rest >> step, rest)
        position += step * high
    return position


def round_shift(magnitude: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """rne(magnitude * 2**-shift) for int64 0 .. 2**62 (MAX_WIDTH); negative shifts go left and must not overflow."""
    right = np.clip(shift, 0, 62)
    quotient = magnitude >> right
    rest = magnitude - (quotient << right)
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), np.int64(0))
    up = (right > 0) & ((rest > half) | ((rest == half) & (quotient % 2 == 1)))
    return np.where(shift > 62, 0, (quotient + up) << np.clip(-shift, 0, 62))


def round_to_lsb(x: np.ndarray, lsb_exp: int) -> np.ndarray:
    """Real numbers -> int64 multiples of 2**lsb_exp, nearest even (biases, network inputs)."""
    return np.rint(np.ldexp(np.asarray(x, np.float64), -lsb_exp)).astype(np.int64)


def to_float32(v: np.ndarray, lsb_exp: int) -> np.ndarray:
    """float32 nearest to v * 2**lsb_exp, ties to even, for any int64: rounded once.

    From 2**53 on, float64 would round first; bits below its own then go into its last one, which only tells a tie.
    """
    jammed = (v >> 11 << 1) | ((v & 2047) != 0)
    wide = np.abs(v.astype(np.float64)) >= 2.0**53
    exact = np.where(wide, np.ldexp(jammed.astype(np.float64), lsb_exp + 10), np.ldexp(v.astype(np.float64), lsb_exp))
    with np.errstate(over="ignore"):
        return exact.astype(np.float32)


def unclamped_scale_codes(amax: np.ndarray, lsb_exp: int, emax: int, rounding: int) -> np.ndarray:
    """Shared-scale code of block maxima (int64 > 0) before the clamp: the float32 rule on an exact integer.

    The 23 bits after the leading one, with everything below or-ed into the last, stand for the float32 mantissa;
    `rounding` carries into the exponent exactly as in `numerics.scale_codes_of_amax`.
    """
    top = floor_log2(amax)
    down = np.maximum(top - 23, 0)
    fraction = (amax >> down) << np.maximum(23 - top, 0)
    sticky = (amax & ((np.int64(1) << down) - 1)) != 0
    carry = ((fraction - (1 << 23)) | sticky) + rounding >> 23
    return top + lsb_exp + E8M0_BIAS + carry - emax


def mx_quantize(
    v: np.ndarray, lsb_exp: int, q: BlockQuantizer, axis: int = -1, group_size: int = 32
) -> tuple[np.ndarray, np.ndarray, int]:
    """Wide integers -> (element codes like `v`, contracted scale codes, number of clamped blocks): op `MXQuantize`.

    An all-zero block carries the lowest code; a block whose own code lies outside [code_min, code_max] is clamped
    (its elements lose low bits or saturate) and counted.
    """
    v = np.asarray(v, np.int64)
    axis = groups.normalize_axis(axis, v.ndim)
    magnitude = np.abs(v)
    amax = groups.to_groups(magnitude, axis, group_size).max(axis=axis + 1, initial=0)
    own = unclamped_scale_codes(np.maximum(amax, 1), lsb_exp, q.emax, q.round_bias)
    own = np.where(amax == 0, q.code_min, own)
    scale = np.clip(own, q.code_min, q.code_max)
    clamped = int((own != scale).sum())
    exponent = lsb_exp + E8M0_BIAS - groups.expand(scale, axis, group_size, v.shape[axis])
    codes = _element_codes(magnitude, v < 0, exponent, q)
    return codes.astype(np.uint8), scale.astype(np.uint8), clamped


def _element_codes(magnitude: np.ndarray, negative: np.ndarray, exponent: np.ndarray, q: BlockQuantizer) -> np.ndarray:
    """Codes of magnitude * 2**exponent, rounded to nearest even and saturated."""
    own = floor_log2(magnitude) + exponent
    binade = np.maximum(own, q.emin) if q.is_float else np.zeros_like(own)
    huge = (own > q.emax + 1) & (magnitude > 0)
    code = round_shift(np.where(huge, 0, magnitude), binade - q.mantissa_bits - exponent)
    if q.is_float:
        code = code + ((binade - q.emin) << q.mantissa_bits)
    code = np.where(huge, q.max_code, np.minimum(code, q.max_code))
    if q.is_float:
        code = np.where(magnitude == 0, 0, code)
        return code | np.where(negative, 1 << (q.bits - 1), 0)
    return np.where(negative, -code, code) & ((1 << q.bits) - 1)


def linear_table(exponent_bits: int, mantissa_bits: int) -> np.ndarray:
    """int64 table: code -> whole multiple of the smallest element step (Inf and NaN codes read as plain numbers)."""
    bits = 1 + exponent_bits + mantissa_bits + (exponent_bits == 0)
    codes = np.arange(2**bits, dtype=np.int64)
    if exponent_bits == 0:
        return np.where(codes >= 2 ** (bits - 1), codes - 2**bits, codes)
    magnitude = codes % 2 ** (bits - 1)
    field, mantissa = magnitude >> mantissa_bits, magnitude % 2**mantissa_bits
    value = np.where(field > 0, (mantissa + 2**mantissa_bits) << np.maximum(field - 1, 0), mantissa)
    return np.where(codes >= 2 ** (bits - 1), -value, value)


def mx_matmul(
    x_codes: np.ndarray,
    x_scale: np.ndarray,
    w_codes: np.ndarray,
    w_scale: np.ndarray,
    bias: np.ndarray | None,
    x_table: np.ndarray,
    w_table: np.ndarray,
    scale_offset: int,
    group_size: int = 32,
) -> np.ndarray:
    """Exact MX matrix product: op `MXMatMul`.

    x_codes [N,K] and x_scale [N,n], w_codes [O,K] and w_scale [O,n] (uint8), bias int64 [O] -> int64 [N,O]:
    sum over blocks of (integer dot product << (x_scale + w_scale - scale_offset)) + bias. Integer, so neither order
    nor folding matters. The caller guarantees non-negative shifts and a result within 63 bits.
    """
    x = np.moveaxis(groups.to_groups(x_table[x_codes], -1, group_size), -2, 0)  # [n,N,G]
    w = np.moveaxis(groups.to_groups(w_table[w_codes], -1, group_size), -2, 0)  # [n,O,G]
    total = np.zeros((x_codes.shape[0], w_codes.shape[0]), np.int64)
    for b in range(len(x)):
        shift = x_scale[:, b, None].astype(np.int64) + w_scale[None, :, b].astype(np.int64) - scale_offset
        total += exact_matmul(x[b], w[b].T) << shift
    return total if bias is None else total + bias


def exact_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Exact int64 product; through float64 (fast BLAS) where every partial sum stays below 2**53."""
    bound = int(np.abs(a).max(initial=0)) * int(np.abs(b).max(initial=0)) * a.shape[-1]
    if bound < 2**53:
        return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    return a @ b
