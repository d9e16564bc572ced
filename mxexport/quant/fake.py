"""Fake quantization by format: the differentiable road from values to quantized values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mxexport.errors import FormatError, ShapeError
from mxexport.formats import GroupFormat, check_rule, get_format, round_bias
from mxexport.ops import GroupwiseQuant, MXFloatQuant
from mxexport.quant import kernels, library


@dataclass(frozen=True)
class Quantizer:
    """One group format along one axis with one scale rule; calls only `mxexport::` ops, so export sees them."""

    format: GroupFormat
    axis: int
    scale_rule: str = "floor"

    def __post_init__(self):
        check_rule(self.scale_rule)
        if self.scale_rule != "floor" and not self.format.is_mx:
            raise FormatError(
                f"scale rule {self.scale_rule!r} needs power-of-two scales; {self.format.name} has "
                f"{self.format.scale} scales"
            )

    def scale(self, x: Tensor) -> Tensor:
        """Contracted float32 scale of `x`, found from its values."""
        f, axis = self.format, self.axis % x.ndim
        if f.is_mx:
            bias = round_bias(f.element, self.scale_rule)
            return library.mx_scale(x, axis, f.group_size, f.element.emax, bias, f.step_frac_bits, 0, 254)
        if f.scale == "nvfp4":
            return kernels.nvfp4_scale(x.detach(), axis, f.group_size)[0]
        return library.groupwise_scale(x, axis, f.group_size, self.levels, f.asymmetric)

    @property
    def levels(self) -> float:
        """What the group's largest magnitude (asymmetric: its range) is divided by."""
        return float(self.format.element.max_val)

    def zero_point(self, x: Tensor, scale: Tensor) -> Tensor | None:
        """Contracted float32 zero point with whole values; None for symmetric formats."""
        if not self.format.asymmetric:
            return None
        return library.groupwise_zero_point(x, scale, self.axis % x.ndim, self.format.group_size, self.levels)

    def apply(self, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        """Quantize-dequantize `x` under given contracted scales."""
        f, axis = self.format, self.axis % x.ndim
        if f.is_float:
            a = MXFloatQuant.attributes_of(f.element)
            a = {**a, "signed": bool(a["signed"]), "signed_zero": bool(a["signed_zero"])}
            return library.mx_float_quant(x, scale, axis, f.group_size, **a)
        a = GroupwiseQuant.attributes_of(f.element)
        a = {**a, "signed": bool(a["signed"]), "narrow": bool(a["narrow"])}
        return library.groupwise_quant(x, scale, zero_point, axis, f.group_size, **a)

    def __call__(self, x: Tensor) -> Tensor:
        return self.quantize(x)[0]

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Quantize-dequantized `x`, its contracted scale and zero point (None for symmetric formats).

        Graphs for export hold the operators one by one; elsewhere an MX format takes one pass.
        """
        if self.format.is_mx and not torch.compiler.is_exporting():
            return *self._fused(x), None
        scale = self.scale(x)
        zero_point = self.zero_point(x, scale)
        return self.apply(x, scale, zero_point), scale, zero_point

    def _fused(self, x: Tensor) -> tuple[Tensor, Tensor]:
        order = memory_order(x)
        if order is not None:  # transposed or channels last: work in memory order, copy nothing
            values, scale = replace(self, axis=order.index(self.axis % x.ndim))._fused(x.permute(order))
            back = [order.index(dim) for dim in range(x.ndim)]
            return values.permute(back), scale.permute(back)
        f, e = self.format, self.format.element
        shared = (e.emax, round_bias(e, self.scale_rule), f.step_frac_bits, 0, 254)
        element = (e.mantissa_bits, e.emin if f.is_float else 0, float(e.max_val), not f.is_float)
        with_mask = torch.is_grad_enabled() and x.requires_grad
        return library.mx_quantize_dequantize(x, self.axis % x.ndim, f.group_size, *shared, *element, with_mask)[:2]


def memory_order(x: Tensor) -> list[int] | None:
    """The order of dimensions in which `x` is contiguous; None where it already is, or where there is no such order."""
    if x.is_contiguous():
        return None
    order = sorted(range(x.ndim), key=lambda dim: x.stride(dim), reverse=True)
    return order if x.permute(order).is_contiguous() else None


def fake_quantize(x: Tensor, fmt: str | GroupFormat, axis: int = -1, scale_rule: str = "floor") -> Tensor:
    """Quantize-dequantize `x` along `axis`; shape and dtype of `x`, straight-through gradient.

    Raises:
        FormatError: unknown format or rule.
        ShapeError: axis outside the rank of `x`, or `x` not a real floating tensor.
    """
    check_input(x, axis, "fake_quantize")
    return Quantizer(get_format(fmt), axis, scale_rule)(x)


def check_input(x: Tensor, axis: int, where: str) -> None:
    """Raise ShapeError unless `x` is a floating tensor that has `axis`."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        found = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise ShapeError(f"{where}: expected a floating-point torch.Tensor, found {found}; call .float() first")
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"{where}: axis {axis} is outside a tensor of rank {x.ndim}")
