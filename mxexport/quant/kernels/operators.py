"""The operators in torch: same arguments, same bits as `mxexport.numbers.numerics` (float32 inside, any device).

Exponents come from the integer view of float32. Zeros are never divided, so results hold under flush-to-zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mxexport.numbers import numerics
from mxexport.numbers.formats import E8M0_BIAS, E8M0_NAN, FloatElement

_MAGNITUDE = 0x7FFFFFFF
_INF_BITS = 0x7F800000


def split_groups(x: Tensor, axis: int, group_size: int) -> Tensor:
    """(..., K, ...) -> (..., n, G, ...), the last group padded with zeros."""
    axis = axis % x.ndim
    padding = -x.shape[axis] % group_size
    if padding:
        x = torch.nn.functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, padding])
    return x.unflatten(axis, (x.shape[axis] // group_size, group_size))


def join_groups(grouped: Tensor, axis: int, length: int) -> Tensor:
    """(..., n, G, ...) -> (..., K, ...) with K = `length`; `axis` counts in the ungrouped tensor."""
    return grouped.flatten(axis, axis + 1).narrow(axis, 0, length)


def expand(contracted: Tensor, axis: int, group_size: int, length: int) -> Tensor:
    """One entry per group -> one per element, a view where the groups are whole."""
    axis = axis % contracted.ndim
    sizes = [-1] * (contracted.ndim + 1)
    sizes[axis + 1] = group_size
    return join_groups(contracted.unsqueeze(axis + 1).expand(sizes), axis, length)


def in_steps(x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group_size: int) -> Tensor:
    """float32 `x` in units of its scale, moved by its zero point, not rounded yet: what clipping is decided on."""
    v = x.float() / expand(scale, axis, group_size, x.shape[axis])
    return v if zero_point is None else v + expand(zero_point, axis, group_size, x.shape[axis])


def power_of_two(codes: Tensor, frac_bits: int = 0) -> Tensor:
    """int32 E8M0 codes (0 .. 254) -> float32 2**(code - 127 - frac_bits), exact, subnormals included."""
    field = codes - frac_bits
    subnormal = torch.ones_like(field) << (22 + field).clamp(0, 22)
    return torch.where(field > 0, field << 23, subnormal).view(torch.float32)


def scale_codes(scale: Tensor, frac_bits: int = 0) -> Tensor:
    """Inverse of `power_of_two`: uint8 E8M0 codes, 255 for NaN. On the bits, so flush-to-zero does not matter."""
    bits = scale.view(torch.int32)
    leading = (bits.float().view(torch.int32) >> 23) - E8M0_BIAS  # of a subnormal, read as an integer
    field = torch.where(bits >= 1 << 23, bits >> 23, leading - 22)
    return torch.where(torch.isnan(scale), E8M0_NAN, field + frac_bits).to(torch.uint8)


def group_amax_bits(x: Tensor, axis: int, group_size: int) -> Tensor:
    """float32 bits (int32) of the largest magnitude per group, contracted; NaN and Inf survive."""
    bits = split_groups(x.contiguous(), axis, group_size).view(torch.int32) & _MAGNITUDE
    return bits.amax(dim=axis % x.ndim + 1)


def mx_scale(
    x: Tensor, axis: int, group_size: int, emax: int, round_bias: int, frac_bits: int, code_min: int, code_max: int
) -> Tensor:
    """Shared power-of-two scale per group: contracted float32. See `numerics.mx_scale`."""
    bits = group_amax_bits(x.float(), axis, group_size)
    finite = bits < _INF_BITS
    codes = ((bits.clamp(max=_INF_BITS) + round_bias) >> 23) - emax
    scale = power_of_two(codes.clamp(code_min, code_max), frac_bits)
    return torch.where(finite, scale, torch.nan)


def _divide(x: Tensor, scale: Tensor) -> Tensor:
    return torch.where(x == 0, x, x / scale)


def mx_float_quant(
    x: Tensor,
    scale: Tensor,
    axis: int,
    group_size: int,
    exponent_bits: int,
    mantissa_bits: int,
    exponent_bias: int,
    max_val: float,
    signed: bool,
    signed_zero: bool,
) -> Tensor:
    """Quantize-dequantize to a minifloat, dtype and shape of `x`. See `numerics.mx_float_quant`."""
    values = x.float()
    s = expand(scale, axis, group_size, x.shape[axis])
    magnitude = _divide(values.abs(), s).clamp(max=max_val)
    step = _grid_step(magnitude, mantissa_bits, exponent_bias)
    rounded = torch.copysign(torch.round(magnitude / step) * step, values)
    if not signed:
        rounded = torch.where(values <= 0, 0.0, rounded)
    if not signed_zero:
        rounded = rounded + 0.0
    return (rounded * s).to(x.dtype)


def _grid_step(magnitude: Tensor, mantissa_bits: int, exponent_bias: int) -> Tensor:
    """Distance of neighbouring minifloat values around each magnitude: a power of two, subnormal range included."""
    field = (magnitude.view(torch.int32) >> 23).clamp(min=128 - exponent_bias)
    return ((field - mantissa_bits) << 23).view(torch.float32)


def encode_float(values: Tensor, element: FloatElement) -> Tensor:
    """float32 element values -> uint8 codes, rounded to nearest even and saturated. See `numerics.encode`."""
    nan = torch.isnan(values)
    magnitude = torch.where(nan, 0.0, values.abs()).clamp(max=element.max_val)
    step = _grid_step(magnitude, element.mantissa_bits, element.bias)
    binade = (step.view(torch.int32) >> 23) - 127 + element.mantissa_bits
    code = ((binade - element.emin) << element.mantissa_bits) + torch.round(magnitude / step).int()
    if element.signed_zero:
        code = code | (torch.signbit(values).int() << (element.bits - 1))
    else:
        code = torch.where(code == 0, 0, code | (torch.signbit(values).int() << (element.bits - 1)))
    return torch.where(nan, element.nan_code or 0, code).to(torch.uint8)


def decode_float(codes: Tensor, element: FloatElement) -> Tensor:
    """uint8 codes -> float32. See `numerics.decode`."""
    return torch.tensor(numerics.decode_table(element)).to(codes.device)[codes.int()]


def nvfp4_scale(x: Tensor, axis: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Contracted float32 scale (block scale * tensor scale) and the tensor scale. See `numerics.nvfp4_scale`."""
    amax = group_amax_bits(x.float(), axis, group_size).view(torch.float32)
    finite = torch.isfinite(amax)
    largest = torch.where(finite, amax, 0.0).max() if amax.numel() else amax.new_zeros(())
    # Tensors on both sides: a Python scalar would be divided by way of a rounded reciprocal.
    one, six, range_max = (amax.new_full((), v) for v in (1.0, 6.0, 6.0 * 448))
    encode_scale = torch.where(largest > 0, (range_max / largest).clamp(max=2.0**126), one)
    tensor_scale = one / encode_scale
    codes = encode_float(torch.where(finite, amax / six * encode_scale, torch.nan), numerics.NVFP4_SCALE)
    return decode_float(codes, numerics.NVFP4_SCALE) * tensor_scale, tensor_scale


def int_limits(bit_width: int, signed: bool, narrow: bool) -> tuple[float, float]:
    if not signed:
        return 0.0, 2.0**bit_width - 1
    return -(2.0 ** (bit_width - 1)) + bool(narrow), 2.0 ** (bit_width - 1) - 1


def groupwise_quant(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    axis: int,
    group_size: int,
    bit_width: int,
    signed: bool,
    narrow: bool,
) -> Tensor:
    """Integer quantize-dequantize, dtype and shape of `x`. See `numerics.groupwise_quant`."""
    s = expand(scale, axis, group_size, x.shape[axis])
    low, high = int_limits(bit_width, signed, narrow)
    v = _divide(x.float(), s)
    if zero_point is None:
        q = torch.round(v).clamp(low, high)
    else:
        z = expand(zero_point, axis, group_size, x.shape[axis])
        q = torch.round(v + z).clamp(low, high) - z
    return (q * s + 0.0).to(x.dtype)


def groupwise_scale(x: Tensor, axis: int, group_size: int, levels: float, asymmetric: bool) -> Tensor:
    """Float scale per group, contracted float32. See `numerics.groupwise_scale` and `groupwise_range_scale`."""
    if asymmetric:
        low, high = _group_range(x, axis, group_size)
        width = high - low
    else:
        width = group_amax_bits(x.float(), axis, group_size).view(torch.float32)
    scale = width / width.new_full((), levels)
    scale = torch.where(scale == 0, 1.0, scale)
    return torch.where(torch.isfinite(scale), scale, torch.nan)


def groupwise_zero_point(x: Tensor, scale: Tensor, axis: int, group_size: int, levels: float) -> Tensor:
    """Zero point per group: float32 with whole values. See `numerics.groupwise_zero_point`."""
    low, _ = _group_range(x, axis, group_size)
    zero = torch.round(_divide(low.abs(), scale)).clamp(0, levels)
    return torch.where(torch.isfinite(scale), zero, 0.0)


def _group_range(x: Tensor, axis: int, group_size: int) -> tuple[Tensor, Tensor]:
    grouped = split_groups(x.float(), axis, group_size)
    dim = axis % x.ndim + 1
    return grouped.amin(dim).clamp(max=0), grouped.amax(dim).clamp(min=0)
