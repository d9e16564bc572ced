"""Exact reference of where scales come from beyond one maximum per group (numpy only; `numerics` has the rest).

Granularity: a scale may serve a group, a channel or the whole tensor. For the last two, `statistics` reduces the
tensor to what decides its scale, laid out as tiny groups, so that the scale operators of groups compute all three.

Nested scales (the K-quants of GGUF): integers times one float per super-group. Search: of a few candidate scales the
one with the smallest squared error, summed in float64 in a fixed order, so that every backend picks the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mxexport.errors import FormatError
from mxexport.numbers import groups, numerics
from mxexport.numbers.formats import SCALING_PER_OUTPUT, GroupFormat, ScaleRule, round_bias

MX_SHIFTS = (0, -1, 1, -2)
"""Exponent changes that the search tries for power-of-two scales; the first is the scale rule's own choice."""
FLOAT_FACTORS = tuple(1 - i / 64 for i in range(33))
"""Factors that the search tries for float scales, 1 to 1/2."""


def check_scaling(fmt: GroupFormat, scaling_per_output: str | None) -> str:
    """The granularity to use: by default groups where the format has a group size, else the tensor.

    Raises:
        FormatError: unknown granularity, groups of a format without a group size, or a scale kind tied to groups.
    """
    chosen = scaling_per_output or ("tensor" if fmt.group_size is None else "group")
    if chosen not in SCALING_PER_OUTPUT:
        raise FormatError(f"scaling_per_output {chosen!r}: expected one of {', '.join(SCALING_PER_OUTPUT)}")
    if chosen == "group" and fmt.group_size is None:
        raise FormatError(f"format {fmt.name} has no group size: name one ({fmt.name}_g32) or scale per channel")
    if chosen != "group" and fmt.scale in ("nvfp4", "nested"):
        raise FormatError(f"format {fmt.name} has scales of groups; scaling_per_output {chosen!r} has none")
    return chosen


def statistics(x: np.ndarray, axis: int, channel_axis: int | None, asymmetric: bool) -> np.ndarray:
    """What decides the scales: largest magnitudes, or (asymmetric) lowest and highest values side by side on `axis`.

    `channel_axis` None reduces the whole tensor. Rank of `x`; every other dimension is 1. The scale of groups of 1
    (asymmetric: 2) elements of the result on `axis` is the scale of each channel, or of the tensor.
    """
    x = numerics.as_float32(x)
    kept = None if channel_axis is None else channel_axis % x.ndim
    others = tuple(d for d in range(x.ndim) if d != kept)
    if not asymmetric:
        return np.abs(x).max(axis=others, keepdims=True, initial=0)
    low, high = x.min(axis=others, keepdims=True, initial=0), x.max(axis=others, keepdims=True, initial=0)
    axis = axis % x.ndim
    pair = np.stack([low, high], axis + 1)
    return pair.reshape(*low.shape[:axis], 2 * low.shape[axis], *low.shape[axis + 1 :])


def scale_of(x: np.ndarray, fmt: GroupFormat, axis: int, group_size: int, rule: ScaleRule = "floor") -> np.ndarray:
    """Contracted float32 scale of the groups of `x` on `axis`; `group_size` in place of the format's own."""
    element = fmt.element
    if fmt.is_mx:
        return numerics.mx_scale(x, axis, group_size, element.emax, round_bias(element, rule), fmt.step_frac_bits)
    if fmt.scale == "nested":
        return nested_scale(x, fmt, axis)
    if fmt.asymmetric:
        return numerics.groupwise_range_scale(x, axis, group_size, element.code_hi)
    return numerics.groupwise_scale(x, axis, group_size, element.max_val)


def granular_scale(
    x: np.ndarray, fmt: GroupFormat, axis: int, rule: ScaleRule = "floor", channel_axis: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """One scale per channel (`channel_axis` None: per tensor), and its zero point; rank of `x`, reduced sizes 1."""
    small = statistics(x, axis, channel_axis, fmt.asymmetric)
    size = 1 + fmt.asymmetric
    scale = scale_of(small, fmt, axis, size, rule)
    if not fmt.asymmetric:
        return scale, None
    return scale, numerics.groupwise_zero_point(small, scale, axis, size, fmt.element.code_hi)


def nested_scale(x: np.ndarray, fmt: GroupFormat, axis: int) -> np.ndarray:
    """Scales of groups as integers times one float32 for every `super_size` groups; contracted float32.

    s = amax / max_val (asymmetric: range / levels); super = max(s) / (2**scale_bits - 1); the scale is
    clip(rne(s / super), 1, 2**scale_bits - 1) * super. A group with NaN or Inf gets NaN and takes no part in super;
    a super-group of zeros has super 1.
    """
    axis = groups.normalize_axis(axis, np.ndim(x))
    levels = np.float32(2**fmt.scale_bits - 1)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        if fmt.asymmetric:
            low, high = numerics.group_range(x, axis, fmt.group_size)
            wanted = (high - low) / np.float32(fmt.element.code_hi)
        else:
            wanted = numerics.group_amax(x, axis, fmt.group_size) / np.float32(fmt.element.max_val)
        finite = np.isfinite(wanted)
        largest = numerics.group_amax(np.where(finite, wanted, np.float32(0)), axis, fmt.super_size) / levels
        unit = np.where(largest == 0, np.float32(1), largest)
        unit = groups.expand(unit, axis, fmt.super_size, wanted.shape[axis])
        scale = np.clip(np.rint(wanted / unit), np.float32(1), levels) * unit
    return np.where(finite, scale, np.float32(np.nan)).astype(np.float32)


# --- search -----------------------------------------------------------------------------------------------------


def candidates(scale: np.ndarray, fmt: GroupFormat) -> list[np.ndarray]:
    """Scales to try, the given one first; powers of two stay powers of two that E8M0 can hold."""
    if not fmt.is_mx:
        return [scale * np.float32(factor) for factor in FLOAT_FACTORS]
    codes = numerics.codes_from_scale(scale, fmt.step_frac_bits).astype(np.int32)
    moved = [np.where(codes == 255, 255, np.clip(codes + shift, 0, 254)) for shift in MX_SHIFTS]
    return [numerics.scale_from_codes(c, fmt.step_frac_bits) for c in moved]


def search_scale(tried: list[np.ndarray], squared_error: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """For every group the candidate with the smallest error, the earlier one where two are equal (NaN never wins)."""
    best, least = tried[0], squared_error(tried[0])
    for scale in tried[1:]:
        error = squared_error(scale)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    return best


def mse_scale(x: np.ndarray, fmt: GroupFormat, axis: int, rule: ScaleRule = "floor") -> np.ndarray:
    """The searched contracted scale of a group format."""
    x = numerics.as_float32(x)
    axis = groups.normalize_axis(axis, x.ndim)

    def squared_error(scale: np.ndarray) -> np.ndarray:
        y = fake_quantize(x, scale, fmt, axis)
        with np.errstate(invalid="ignore", over="ignore"):
            error = (x.astype(np.float64) - y) ** 2
        return tree_sum(groups.to_groups(error, axis, fmt.group_size), axis + 1)

    return search_scale(candidates(scale_of(x, fmt, axis, fmt.group_size, rule), fmt), squared_error)


def fake_quantize(x: np.ndarray, scale: np.ndarray, fmt: GroupFormat, axis: int) -> np.ndarray:
    """Quantize-dequantize under given contracted scales; the zero point (if any) follows from scale and values."""
    e, size = fmt.element, fmt.group_size
    if fmt.is_float:
        return numerics.mx_float_quant(
            x, scale, axis, size, e.exponent_bits, e.mantissa_bits, e.bias, e.max_val, True, e.signed_zero
        )
    zero = numerics.groupwise_zero_point(x, scale, axis, size, e.code_hi) if fmt.asymmetric else None
    return numerics.groupwise_quant(x, scale, zero, axis, size, e.bits, e.signed, e.signed)


def tree_sum(x: np.ndarray, axis: int) -> np.ndarray:
    """Sum over `axis` by adding neighbours in pairs: the same roundings in every backend."""
    x = np.moveaxis(x, axis, -1)
    while x.shape[-1] > 1:
        if x.shape[-1] % 2:
            x = np.concatenate([x, np.zeros_like(x[..., :1])], axis=-1)
        with np.errstate(invalid="ignore", over="ignore"):
            x = x[..., 0::2] + x[..., 1::2]
    return x[..., 0]
