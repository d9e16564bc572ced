"""The Triton kernels: shared scale, elements and gradient mask of a tile in one pass, and the masking of a gradient.

Imported by `on_gpu` only, once a tensor needs them: this is the one module that needs triton.

Bits must not depend on how a device treats subnormals or joins a product with a sum. So all is computed on the integer
bits of float32, but for one addition and one subtraction that round to nearest even. They see normal numbers or zero
and sums that are again normal or zero; numbers below 2**-126 reach them only where they round to zero anyway. There is
no product and no quotient of floats, and a subnormal becomes a normal number by conversion from an integer.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

MAGNITUDE = tl.constexpr(0x7FFFFFFF)
INF_BITS = tl.constexpr(0x7F800000)
NAN_BITS = tl.constexpr(0x7FC00000)
MANTISSA = tl.constexpr(0x007FFFFF)
HIDDEN = tl.constexpr(0x00800000)


class Format(NamedTuple):
    """What a kernel must know of a format, as int32: the first five as in `numerics.mx_scale`, then bits of float32."""

    emax: int
    round_bias: int
    frac_bits: int
    code_min: int
    code_max: int
    lowest: int  # bits of 2**emin: below, element steps do not shrink any more
    shift: int  # from the bits of a binade to those of the number whose last bit weighs one element step there
    max_bits: int  # of the largest element
    limit_bits: int  # of the largest magnitude that is not clipped
    signed_zero: int  # 0: -0 becomes +0


class Layout(NamedTuple):
    """Contiguous [outer, length, inner] with groups of `group_size` along `length`, `groups` of them in a row."""

    lanes: int  # groups in all: entries of the scale tensor
    groups: int
    length: int
    inner: int
    group_size: int


# --- where a group lies -----------------------------------------------------------------------------------------


@triton.jit
def _every(STEP: tl.constexpr, END: tl.constexpr, WIDE: tl.constexpr):
    """0, STEP, .. below END, in 64 bits where products with it need them."""
    index = tl.arange(0, END // STEP) * STEP
    if WIDE:
        index = index.to(tl.int64)
    return index


@triton.jit
def _of_program(COUNT: tl.constexpr, STEP: tl.constexpr, WIDE: tl.constexpr):
    """The indices that this program has to do with, COUNT of them in a row, or every STEP-th."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    return program * COUNT + _every(STEP, COUNT, WIDE)


@triton.jit
def _starts(lane, layout, ALIGNED: tl.constexpr):
    """Offset of the first element of the groups `lane`, and how many elements they have (none beyond the last).

    `ALIGNED`: both are multiples of eight, which triton must be told before it reads several elements at once.
    """
    i = lane % layout.inner
    along = lane // layout.inner
    first = along % layout.groups * layout.group_size
    start = (along // layout.groups * layout.length + first) * layout.inner + i
    count = tl.where(lane < layout.lanes, tl.minimum(layout.group_size, layout.length - first), 0)
    if ALIGNED:
        start, count = tl.multiple_of(start, 8), tl.multiple_of(count, 8)
    return start, count


@triton.jit
def _tile(start, count, k, layout):
    """Offsets of the elements `k` of groups, [groups, k], and which of them there are."""
    return start[:, None] + k[None, :] * layout.inner, k[None, :] < count[:, None]


# --- float types and bits of float32 ----------------------------------------------------------------------------


@triton.jit
def _load(x, at, there, KIND: tl.constexpr):
    """float32 bits of elements of any kind; `x` points to integers of their width."""
    raw = tl.load(x + at, mask=there, other=0)
    if KIND == "bfloat16":
        bits = raw.to(tl.int32) << 16
    elif KIND == "float16":
        bits = raw.to(tl.float16, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
    else:
        bits = raw
    return bits


@triton.jit
def _store(y, at, there, bits, KIND: tl.constexpr):
    """Elements have seven significant bits at most, and bfloat16 eight: nothing to round. float16 overflows to Inf."""
    if KIND == "bfloat16":
        raw = (bits >> 16).to(tl.int16)
    elif KIND == "float16":
        raw = bits.to(tl.float32, bitcast=True).to(tl.float16).to(tl.int16, bitcast=True)
    else:
        raw = bits
    tl.store(y + at, raw, mask=there)


# --- arithmetic -------------------------------------------------------------------------------------------------


@triton.jit
def _codes(amax, p):
    """E8M0 codes (0 .. 254) of groups whose largest magnitude has the bits `amax`; of no use where it is not finite."""
    code = ((tl.minimum(amax, INF_BITS) + p.round_bias) >> 23) - p.emax
    return tl.minimum(tl.maximum(code, p.code_min), p.code_max)


@triton.jit
def _scales(code, finite, p):
    """float32 bits of 2**(code - 127 - frac_bits), subnormal ones included; NaN where the group is not finite."""
    field = code - p.frac_bits
    subnormal = 1 << tl.maximum(tl.minimum(22 + field, 22), 0)
    return tl.where(finite, tl.where(field > 0, field << 23, subnormal), NAN_BITS)


@triton.jit
def _in_steps(magnitude, code):
    """Bits of magnitude * 2**(127 - code), or some integer below `HIDDEN` where that is less than 2**-126.

    A subnormal is read as an integer, 2**149 times too large. The bound of -250 keeps int32 from running over: there
    the result is negative with or without it.
    """
    subnormal = magnitude < HIDDEN
    read = magnitude.to(tl.float32).to(tl.int32, bitcast=True)
    up = tl.where(subnormal, tl.maximum(127 - 149 - code, -250), 127 - code)
    return tl.where(subnormal, read, magnitude) + (up << 23)


@triton.jit
def _rounded(v, p):
    """Bits of the element (its magnitude) nearest to the magnitude with the bits `v`.

    Whatever lies below 2**-126 becomes zero: no element has a step below 2**-69.
    """
    kept = tl.minimum(tl.maximum(v, 0), p.max_bits)
    grid = (tl.maximum(kept & INF_BITS, p.lowest) + p.shift).to(tl.float32, bitcast=True)
    rounded = (kept.to(tl.float32, bitcast=True) + grid) - grid
    return rounded.to(tl.int32, bitcast=True)


@triton.jit
def _scaled(element, code):
    """Bits of element * 2**(code - 127). Nothing is left to round.

    A subnormal result is a multiple of 2**-149, as the input was that became this element. The largest are 2**128 or
    less, for a scale that was rounded up leaves its elements half of their range: the bits are those of Inf at most.
    """
    field = (element >> 23) + code - 127
    subnormal = ((element & MANTISSA) | HIDDEN) >> tl.minimum(tl.maximum(1 - field, 0), 31)
    return tl.where(element == 0, 0, tl.where(field > 0, element + ((code - 127) << 23), subnormal))


# --- the mask ---------------------------------------------------------------------------------------------------


@triton.jit
def _store_mask(mask, at, there, inside, first, layout, PACKING: tl.constexpr, WIDE: tl.constexpr,
                LANES: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """One bit per element where eight neighbours in memory are neighbours in the tile, else one byte."""
    bit = tl.arange(0, 8)
    if PACKING == "bytes":
        tl.store(mask + at, inside.to(tl.uint8), mask=there)
    elif PACKING == "along":  # eight elements of one group
        eights = tl.reshape((inside & there).to(tl.int32), [LANES, CHUNK // 8, 8])
        packed = tl.sum(eights << bit[None, None, :], axis=2)
        start, count = _starts(_of_program(LANES, 1, WIDE), layout, True)
        first_bit, there = _tile(start, count, first + _every(8, CHUNK, WIDE), layout)
        tl.store(mask + first_bit // 8, packed.to(tl.uint8), mask=there)
    elif PACKING == "across":  # one element each of eight groups side by side
        eights = tl.reshape((inside & there).to(tl.int32), [LANES // 8, 8, CHUNK])
        packed = tl.sum(eights << bit[None, :, None], axis=1)
        start, count = _starts(_of_program(LANES, 8, WIDE), layout, False)
        first_bit, there = _tile(start, count, first + _every(1, CHUNK, WIDE), layout)
        tl.store(mask + first_bit // 8, packed.to(tl.uint8), mask=there)


# --- kernels ----------------------------------------------------------------------------------------------------


@triton.jit
def _elements(y, mask, bits, at, there, code, finite, first, layout, p, KIND: tl.constexpr, PACKING: tl.constexpr,
              WIDE: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """Store values and mask of a tile [LANES, CHUNK] whose groups have the codes [LANES]."""
    code, finite = code[:, None], finite[:, None]
    magnitude = bits & MAGNITUDE
    v = _in_steps(magnitude, code)
    value = _scaled(_rounded(v, p), code)
    signed = tl.where((value == 0) & (p.signed_zero == 0), 0, value | (bits ^ magnitude))
    _store(y, at, there, tl.where(finite, signed, NAN_BITS), KIND)
    if PACKING != "none":
        inside = finite & (v <= p.limit_bits)
        _store_mask(mask, at, there, inside, first, layout, PACKING, WIDE, LANES, CHUNK)


@triton.jit
def quantize_dequantize(x, y, scale, mask, layout, p, KIND: tl.constexpr, PACKING: tl.constexpr, ALIGNED: tl.constexpr,
                        WIDE: tl.constexpr, WHOLE: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """LANES groups per program, CHUNK elements of each at a time: y and mask like x, scale contracted, all contiguous.

    x and y point to integers of the width of KIND, scale to int32. `WHOLE`: CHUNK covers a group, which is read once.
    `WIDE`: offsets need 64 bits.
    """
    lane = _of_program(LANES, 1, WIDE)
    start, count = _starts(lane, layout, ALIGNED)
    k = _every(1, CHUNK, WIDE)
    at, there = _tile(start, count, k, layout)
    bits = _load(x, at, there, KIND)
    amax = tl.max(bits & MAGNITUDE, axis=1)
    longest = tl.minimum(layout.group_size, layout.length)
    if not WHOLE:
        for first in range(CHUNK, longest, CHUNK):
            at, there = _tile(start, count, first + k, layout)
            more = _load(x, at, there, KIND)
            amax = tl.maximum(amax, tl.max(more & MAGNITUDE, axis=1))
    code, finite = _codes(amax, p), amax < INF_BITS
    tl.store(scale + lane, _scales(code, finite, p), mask=lane < layout.lanes)
    if WHOLE:
        _elements(y, mask, bits, at, there, code, finite, 0, layout, p, KIND, PACKING, WIDE, LANES, CHUNK)
    else:
        for first in range(0, longest, CHUNK):
            at, there = _tile(start, count, first + k, layout)
            again = _load(x, at, there, KIND)
            _elements(y, mask, again, at, there, code, finite, first, layout, p, KIND, PACKING, WIDE, LANES, CHUNK)


@triton.jit
def mask_gradient(grad, mask, out, count, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """out = grad where the element's bit is set, else 0: on integers of the gradient's width, flat."""
    at = _of_program(BLOCK, 1, WIDE)
    there = at < count
    bits = tl.load(mask + (at >> 3), mask=there, other=0).to(tl.int32)
    kept = (bits >> (at & 7).to(tl.int32)) & 1
    given = tl.load(grad + at, mask=there, other=0)
    tl.store(out + at, tl.where(kept != 0, given, tl.zeros_like(given)), mask=there)
