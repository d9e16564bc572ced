"""Quantized tensors of the exact reference (numpy only): from real numbers to codes and scales, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mxexport.errors import FormatError
from mxexport.numbers import groups, numerics, scales
from mxexport.numbers.formats import GroupFormat, IntElement, ScaleRule, get_format, round_bias, rule_name


@dataclass(frozen=True)
class Quantized:
    """A groupwise quantized tensor, everything contracted. G = group size, n = number of groups on the axis.

    `codes` (..., n, G, ...); `scale` (..., n, ...) float32; `scale_codes` (..., n, ...) uint8 or None;
    `zero_point` like scale or None; `tensor_scale` float32 scalar (nvfp4) or None.
    """

    format: GroupFormat
    axis: int
    shape: tuple[int, ...]
    codes: np.ndarray
    scale: np.ndarray
    scale_codes: np.ndarray | None = None
    zero_point: np.ndarray | None = None
    tensor_scale: np.float32 | None = None

    def dequantize(self) -> np.ndarray:
        """float32 of `shape`."""
        axis, element = self.axis, self.format.element
        scale = np.expand_dims(self.scale, axis + 1)
        if isinstance(element, IntElement):
            zero = 0 if self.zero_point is None else np.expand_dims(self.zero_point, axis + 1)
            values = (self.codes.astype(np.float32) - zero) * scale + np.float32(0)
        else:
            values = numerics.decode(self.codes, element) * scale
        return groups.from_groups(values.astype(np.float32), axis, self.shape[axis])


def quantize(x: np.ndarray, fmt: str | GroupFormat, axis: int = -1, rule: ScaleRule = "floor") -> Quantized:
    """Quantize a real tensor to a group format along `axis` (default scale rule: OCP floor).

    Raises:
        FormatError: unknown format or rule, or a rule other than floor for a format without power-of-two scales.
    """
    fmt, x = get_format(fmt), numerics.as_float32(x)
    if fmt.group_size is None:
        raise FormatError(
            f"format {fmt.name} has no group size: name one ({fmt.name}_g32), or see mxexport.numbers.scales"
        )
    axis = groups.normalize_axis(axis, x.ndim)
    bias = round_bias(fmt.element, rule)
    if rule != "floor" and not fmt.is_mx:
        raise FormatError(
            f"scale rule {rule_name(rule)!r} needs power-of-two scales; {fmt.name} has {fmt.scale} scales"
        )
    scale_codes = zero_point = tensor_scale = None
    if fmt.is_mx:
        scale_codes = numerics.scale_codes_of_amax(numerics.group_amax(x, axis, fmt.group_size), fmt.element.emax, bias)
        scale = numerics.scale_from_codes(scale_codes, fmt.step_frac_bits)
    elif fmt.scale == "nvfp4":
        scale, scale_codes, tensor_scale = numerics.nvfp4_scale(x, axis, fmt.group_size)
    else:
        scale = scales.scale_of(x, fmt, axis, fmt.group_size)
    if fmt.asymmetric:
        zero_point = numerics.groupwise_zero_point(x, scale, axis, fmt.group_size, fmt.element.code_hi)
    codes = numerics.element_codes(x, scale, zero_point, fmt, axis)
    return Quantized(fmt, axis, x.shape, codes, scale, scale_codes, zero_point, tensor_scale)
