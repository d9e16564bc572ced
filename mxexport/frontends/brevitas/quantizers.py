"""What stands in for a Brevitas proxy: small modules that call `mxexport::` ops, so that export sees them.

A quantizer holds attributes only. The tensors it needs (`tensor_names`: contracted scales and the like) belong to the
layer, which keeps their names in the file short: `fc1.weight_scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mxexport.numbers.formats import FloatElement, GroupFormat, IntElement, find_format
from mxexport.ops import GroupwiseQuant, MXFloatQuant
from mxexport.quant.kernels import library, operators, qonnx_general


@dataclass(frozen=True)
class Elements:
    """Groups of `group_size` elements along `axis`; `narrow` leaves the most negative integer unused."""

    element: FloatElement | IntElement
    axis: int
    group_size: int
    signed: bool = True
    narrow: bool = True

    def apply(self, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        """Quantize-dequantize `x` under a contracted scale."""
        axis = self.axis % x.ndim
        if isinstance(self.element, FloatElement):
            a = MXFloatQuant.attributes_of(self.element)
            a |= {"signed": self.signed, "signed_zero": bool(a["signed_zero"])}
            return library.mx_float_quant(x, scale, axis, self.group_size, **a)
        a = GroupwiseQuant.attributes_of(self.element) | {"signed": self.signed, "narrow": self.narrow}
        return library.groupwise_quant(x, scale, zero_point, axis, self.group_size, **a)

    def format(self, power_of_two: bool) -> GroupFormat:
        """The group format these elements make with a scale of the given kind."""
        if isinstance(self.element, FloatElement):
            return find_format(self.element, self.group_size, "e8m0" if power_of_two else "float32")
        power_of_two = power_of_two and self.signed
        fraction = self.element.bits - 2 if power_of_two else 0
        element = IntElement(self.element.bits, self.signed, fraction)
        return find_format(element, self.group_size, "e8m0" if power_of_two else "float32")

    @property
    def code_limits(self) -> tuple[int, int]:
        """Smallest and largest integer code."""
        half = 2 ** (self.element.bits - 1)
        return (-half + self.narrow, half - 1) if self.signed else (0, 2 * half - 1)


@dataclass(frozen=True)
class MXRule:
    """A power-of-two scale found at run time: the attributes of `MXScale`."""

    emax: int
    round_bias: int
    frac_bits: int
    code_min: int = 0

    def scale(self, x: Tensor, axis: int, group_size: int) -> Tensor:
        return library.mx_scale(x, axis, group_size, self.emax, self.round_bias, self.frac_bits, self.code_min, 254)


@dataclass(frozen=True)
class AmaxRule:
    """scale = max(amax / levels, smallest), found at run time."""

    levels: float
    smallest: float = 0.0

    def scale(self, x: Tensor, axis: int, group_size: int) -> Tensor:
        scale = library.groupwise_scale(x, axis, group_size, self.levels, False)
        return scale.clamp(min=self.smallest) if self.smallest else scale


@dataclass(frozen=True)
class RangeRule:
    """scale = max((high - low) / levels, smallest), zero point = -low / scale, found at run time; low is at most 0.

    `whole`: the zero point is rounded, and clipped to 0 .. levels.
    """

    levels: float
    smallest: float
    whole: bool

    def scale_and_zero_point(self, x: Tensor, dims: Sequence[int], keepdim: bool) -> tuple[Tensor, Tensor]:
        """One of each for what lies along `dims`; the scale is NaN where that is not finite."""
        x, bad = _finite(x, dims, keepdim)
        low = x.amin(dims, keepdim).clamp(max=0)
        levels = x.new_full((), self.levels)  # a Python number would be divided by way of a rounded reciprocal
        scale = ((x.amax(dims, keepdim) - low).abs() / levels).clamp(min=self.smallest)
        zero_point = low.abs() / scale
        if self.whole:
            zero_point = torch.round(zero_point).clamp(0.0, self.levels)
        return torch.where(bad, torch.nan, scale), zero_point


class Quantizer(nn.Module):
    tensor_names: tuple[str, ...] = ()
    format: GroupFormat | None = None


class GroupQuantizer(Quantizer):
    """Groupwise under scales that were read."""

    def __init__(self, elements: Elements, fmt: GroupFormat, asymmetric: bool):
        super().__init__()
        self.elements, self.format = elements, fmt
        self.tensor_names = ("scale", "zero_point") if asymmetric else ("scale",)

    def forward(self, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        return self.elements.apply(x, scale, zero_point)

    def extra_repr(self) -> str:
        return f"{self.format.name}, axis={self.elements.axis}"


class DynamicGroupQuantizer(Quantizer):
    """Groupwise under scales found at run time."""

    def __init__(self, elements: Elements, rule: MXRule | AmaxRule | RangeRule):
        super().__init__()
        self.elements, self.rule = elements, rule
        self.format = elements.format(isinstance(rule, MXRule))

    def scale(self, x: Tensor) -> Tensor:
        return self.rule.scale(x, self.elements.axis % x.ndim, self.elements.group_size)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.rule, RangeRule):
            return self.elements.apply(x, self.scale(x))
        axis = self.elements.axis % x.ndim
        groups = operators.split_groups(x.float(), axis, self.elements.group_size)
        return self.elements.apply(x, *self.rule.scale_and_zero_point(groups, (axis + 1,), False))

    def extra_repr(self) -> str:
        return f"{self.format.name}, axis={self.elements.axis}, {self.rule}"


class IntQuantizer(Quantizer):
    """QONNX `Quant`: one scale per tensor or channel."""

    tensor_names = ("scale", "zero_point", "bit_width")

    def __init__(self, signed: bool, narrow: bool, rounding_mode: str = "ROUND"):
        super().__init__()
        self.signed, self.narrow, self.rounding_mode = signed, narrow, rounding_mode

    def forward(self, x: Tensor, scale: Tensor, zero_point: Tensor, bit_width: Tensor) -> Tensor:
        return qonnx_general.quant(x, scale, zero_point, bit_width, self.signed, self.narrow, self.rounding_mode)

    def extra_repr(self) -> str:
        return f"Quant, signed={self.signed}, narrow={self.narrow}, rounding_mode={self.rounding_mode}"


class TruncQuantizer(Quantizer):
    """Codes of `scale` and `zero_point` as multiples of `drop`, a power of two: the low bits of an average are dropped.

    Brevitas' `TruncIntQuant`: QONNX's `Quant` finds the multiples; value and scale are as there.
    """

    tensor_names = ("scale", "zero_point", "drop", "bit_width")

    def __init__(self, inner: IntQuantizer):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, scale: Tensor, zero_point: Tensor, drop: Tensor, bit_width: Tensor) -> Tensor:
        codes = torch.round(x / scale + zero_point)
        kept = self.inner.forward(codes, drop, torch.zeros_like(drop), bit_width)
        return (kept / drop - zero_point / drop) * (scale * drop)

    def extra_repr(self) -> str:
        return "drops low bits"


class FloatQuantizer(Quantizer):
    """QONNX `FloatQuant`: a minifloat with one scale per tensor or channel."""

    tensor_names = ("scale", "exponent_bit_width", "mantissa_bit_width", "exponent_bias", "max_val")

    def __init__(self, has_inf: bool, has_nan: bool, rounding_mode: str = "ROUND"):
        super().__init__()
        self.has_inf, self.has_nan, self.rounding_mode = has_inf, has_nan, rounding_mode

    def forward(self, x: Tensor, *tensors: Tensor) -> Tensor:
        return qonnx_general.float_quant(x, *tensors, self.has_inf, self.has_nan, True, True, self.rounding_mode)

    def extra_repr(self) -> str:
        return f"FloatQuant, rounding_mode={self.rounding_mode}"


class DynamicQuantizer(Quantizer):
    """QONNX's `Quant` or `FloatQuant` under one scale for all values along `axis` (None: for the tensor)."""

    def __init__(self, inner: IntQuantizer | FloatQuantizer, rule: MXRule | AmaxRule | RangeRule, axis: int | None):
        super().__init__()
        self.inner, self.rule, self.axis = inner, rule, axis
        self.tensor_names = tuple(n for n in inner.tensor_names if n not in ("scale", "zero_point"))

    def forward(self, x: Tensor, *tensors: Tensor) -> Tensor:
        scale, zero_point = self._found(x)
        if isinstance(self.inner, IntQuantizer):
            zero_point = x.new_zeros(()) if zero_point is None else zero_point
            return self.inner.forward(x, scale, zero_point, *tensors)  # not called: no part of its own in names
        return self.inner.forward(x, scale, *tensors)

    def _found(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        dims = tuple(range(x.ndim)) if self.axis is None else (self.axis,)
        if isinstance(self.rule, RangeRule):
            return self.rule.scale_and_zero_point(x, dims, True)
        if self.axis is not None and isinstance(x.shape[self.axis], int):
            return self.rule.scale(x, self.axis % x.ndim, x.shape[self.axis]), None
        magnitudes, bad = _finite(x.abs(), dims, True)  # sizes that stay open in a file are no attribute of an operator
        return self.rule.scale(torch.where(bad, torch.nan, magnitudes.amax(dims, True)), 0, 1), None

    def extra_repr(self) -> str:
        return f"{'per tensor' if self.axis is None else f'axis={self.axis}'}, {self.rule}"


class BipolarQuantizer(Quantizer):
    """QONNX `BipolarQuant`: +scale or -scale."""

    tensor_names = ("scale",)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return qonnx_general.bipolar_quant(x, scale)


def _finite(x: Tensor, dims: Sequence[int], keepdim: bool) -> tuple[Tensor, Tensor]:
    """`x` with zeros for what is not finite, and where along `dims` that is something: onnxruntime's largest value need
    not be NaN where there is one."""
    finite = x.isfinite()
    return torch.where(finite, x, 0.0), (~finite).float().amax(dims, keepdim) > 0


def equal_bits(a: Tensor, b: Tensor) -> Tensor:
    """Element by element: equal float32 bits, any NaN equal to any NaN."""
    a, b = a.float(), b.float()
    return (a.view(torch.int32) == b.view(torch.int32)) | (torch.isnan(a) & torch.isnan(b))
