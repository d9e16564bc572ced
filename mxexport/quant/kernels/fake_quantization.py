"""Fake quantization by format: the differentiable road from values to quantized values."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, replace

import torch
from torch import Tensor

from mxexport.errors import FormatError, ShapeError
from mxexport.numbers.formats import (
    E8M0_MAX,
    GroupFormat,
    ScaleRule,
    check_rule,
    get_format,
    round_bias,
    rule_name,
    with_group_size,
)
from mxexport.numbers.groups import contracted_shape
from mxexport.numbers.scales import check_scaling
from mxexport.ops import GroupwiseQuant, MXFloatQuant
from mxexport.quant.deprecated import resolve_scaling
from mxexport.quant.kernels import exported, fused, library, operators, scales, transforms  # noqa: F401 (exported: operators)


@dataclass(frozen=True)
class Quantizer:
    """One format along one axis with one scale rule; calls only `mxexport::` ops where groups share a scale.

    scale_rule: how power-of-two scales are chosen: one of `SCALE_RULES`, or the integer R that it adds (`round_bias`).
    scaling_per_output: "group", "channel" (one scale per index of `channel_axis`) or "tensor"; by default groups if
        the format has a group size, else the tensor. A scale per channel or tensor is found and applied as that of a
        group as long as the axis, so operators and files know groups only.
    signed: False takes negative values to 0 and gives the whole range to positive ones (after ReLU): minifloats and
        unsigned integers, the latter without a zero point.
    scaling_per_output_channel: deprecated; True stands for "channel", False for "tensor".
    """

    format: GroupFormat
    axis: int
    scale_rule: ScaleRule = "floor"
    scaling_per_output: str | None = None
    channel_axis: int = 0
    signed: bool = True
    scaling_per_output_channel: InitVar[bool | None] = None

    def __post_init__(self, scaling_per_output_channel: bool | None):
        check_rule(self.scale_rule)
        if self.scale_rule != "floor" and not self.format.is_mx:
            raise FormatError(
                f"scale rule {rule_name(self.scale_rule)!r} needs power-of-two scales; {self.format.name} has "
                f"{self.format.scale} scales"
            )
        if not self.signed and not self.format.is_float and self.format.element.signed:
            raise FormatError(f"{self.format.name} is signed; after ReLU use an unsigned integer format or a minifloat")
        chosen = resolve_scaling(self.scaling_per_output, scaling_per_output_channel)
        object.__setattr__(self, "scaling_per_output", check_scaling(self.format, chosen))

    # --- groups -----------------------------------------------------------------------------------------------

    @property
    def has_zero_point(self) -> bool:
        return self.format.asymmetric and self.signed

    def group_size(self, x: Tensor) -> int:
        """Elements per group on the axis of `x`."""
        if self.scaling_per_output == "group":
            return self.format.group_size
        return 1 if self._channels_on_axis(x.ndim) else x.shape[self.axis]

    def group_format(self, x: Tensor) -> GroupFormat:
        """The group format that `x` gets: that of channels or tensors has groups as long as the axis."""
        return self.format if self.scaling_per_output == "group" else with_group_size(self.format, self.group_size(x))

    def _channels_on_axis(self, rank: int) -> bool:
        return self.scaling_per_output == "channel" and self.channel_axis % rank == self.axis % rank

    def expand_scale(self, scale: Tensor, x: Tensor) -> Tensor:
        """A scale (or zero point) with sizes 1, such as one per tensor, as the contracted scale of `x` (a view)."""
        return scale.expand(contracted_shape(tuple(x.shape), self.axis, self.group_size(x)))

    # --- the three steps --------------------------------------------------------------------------------------

    def scale(self, x: Tensor) -> Tensor:
        """Float32 scale of `x`, found from its values: contracted; per channel or tensor all other sizes are 1."""
        f, axis = self.format, self.axis % x.ndim
        x, size = self._scaled_by(x)
        if f.is_mx:
            bias = round_bias(f.element, self.scale_rule)
            return library.mx_scale(x, axis, size, f.element.emax, bias, f.step_frac_bits, 0, 254)
        if f.scale == "nvfp4":
            return library.nvfp4_scale(x, axis, size)
        if f.scale == "nested":
            return scales.nested_scale(x, f, axis)
        return library.groupwise_scale(x, axis, size, self.levels, self.has_zero_point)

    def _scaled_by(self, x: Tensor) -> tuple[Tensor, int]:
        """The values that decide the scale, and how many of them share one on the axis."""
        if not self.signed:
            x = x.clamp(min=0)
        if self.scaling_per_output == "group":
            return x, self.format.group_size
        channel = self.channel_axis if self.scaling_per_output == "channel" else None
        return scales.statistics(x, self.axis, channel, self.has_zero_point), 1 + self.has_zero_point

    @property
    def levels(self) -> float:
        """What the group's largest magnitude (asymmetric: its range) is divided by."""
        return float(self.format.element.max_val)

    @property
    def spec(self) -> fused.MXSpec:
        """The same numbers for scale and elements in one pass (MX formats)."""
        f, e = self.format, self.format.element
        return fused.MXSpec(
            emax=e.emax,
            round_bias=round_bias(e, self.scale_rule),
            frac_bits=f.step_frac_bits,
            code_min=0,
            code_max=E8M0_MAX,
            mantissa_bits=e.mantissa_bits,
            emin=e.emin if f.is_float else 0,
            max_val=float(e.max_val),
            integer=not f.is_float,
            signed_zero=e.signed_zero,
        )

    def zero_point(self, x: Tensor, scale: Tensor) -> Tensor | None:
        """Float32 zero point with whole values, shaped like `scale`; None where there is none."""
        if not self.has_zero_point:
            return None
        x, size = self._scaled_by(x)
        return library.groupwise_zero_point(x, scale, self.axis % x.ndim, size, self.levels)

    def tensor_scale(self, x: Tensor) -> Tensor | None:
        """nvfp4's scale of the whole tensor; None for other formats."""
        if self.format.scale != "nvfp4":
            return None
        return operators.nvfp4_scale(x.detach(), self.axis % x.ndim, self.format.group_size)[1]

    def apply(self, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        """Quantize-dequantize `x` under given scales."""
        f, axis, size = self.format, self.axis % x.ndim, self.group_size(x)
        if self.scaling_per_output != "group":
            scale = self.expand_scale(scale, x)
            zero_point = None if zero_point is None else self.expand_scale(zero_point, x)
        if f.is_float:
            a = MXFloatQuant.attributes_of(f.element)
            a = {**a, "signed": bool(a["signed"]) and self.signed, "signed_zero": bool(a["signed_zero"])}
            return library.mx_float_quant(x, scale, axis, size, **a)
        a = GroupwiseQuant.attributes_of(f.element)
        a = {**a, "signed": bool(a["signed"]), "narrow": bool(a["narrow"])}
        return library.groupwise_quant(x, scale, zero_point, axis, size, **a)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x)
        if torch.compiler.is_exporting() and not torch.is_grad_enabled() and self._grouped_mx:
            return self._exported(x)
        return self.quantize(x)[0]

    def check(self, x: Tensor) -> None:
        """Raise ShapeError unless `x` is a floating tensor that has the axis."""
        check_input(x, self.axis, f"quantizer of {self.format.name}")

    @property
    def _grouped_mx(self) -> bool:
        return self.format.is_mx and self.signed and self.scaling_per_output == "group"

    def _exported(self, x: Tensor) -> Tensor:
        """Scale and elements as one operator of the graph; see `exported`."""
        f = self.format
        bias = round_bias(f.element, self.scale_rule)
        shared = (x, self.axis % x.ndim, f.group_size, f.element.emax, bias, f.step_frac_bits, 0, E8M0_MAX)
        if f.is_float:
            return torch.ops.mxexport.mx_then_float_quant(*shared, **MXFloatQuant.attributes_of(f.element))
        return torch.ops.mxexport.mx_then_groupwise_quant(*shared, **GroupwiseQuant.attributes_of(f.element))

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Quantize-dequantized `x` with the scale and the zero point it took (None where there is none).

        Graphs for export hold the operators one by one, and `transforms` differentiate them so; elsewhere groups of an
        MX format take one pass.
        """
        if self._grouped_mx and not (torch.compiler.is_exporting() or transforms.active()):
            return *self._fused(x), None
        scale = self.scale(x)
        zero_point = self.zero_point(x, scale)
        return self.apply(x, scale, zero_point), scale, zero_point

    def _fused(self, x: Tensor) -> tuple[Tensor, Tensor]:
        order = fused.memory_order(x)
        if order is not None:  # transposed or channels last: work in the order of memory, copy nothing
            values, scale = replace(self, axis=order.index(self.axis % x.ndim))._fused(x.permute(order))
            back = [order.index(dim) for dim in range(x.ndim)]
            return values.permute(back), scale.permute(back)
        # A trace is compared with one that is taken without gradients.
        with_mask = torch.jit.is_tracing() or (torch.is_grad_enabled() and x.requires_grad)
        return library.mx_quantize_dequantize(
            x, self.axis % x.ndim, self.format.group_size, *self.spec.numbers, with_mask
        )[:2]


def fake_quantize(
    x: Tensor,
    fmt: str | GroupFormat,
    axis: int = -1,
    scale_rule: ScaleRule = "floor",
    scaling_per_output: str | None = None,
    channel_axis: int = 0,
    scaling_per_output_channel: bool | None = None,
) -> Tensor:
    """Quantize-dequantize `x` along `axis`; shape and dtype of `x`, straight-through gradient.

    Raises:
        FormatError: unknown format or rule.
        ShapeError: axis outside the rank of `x`, or `x` not a real floating tensor.
    """
    check_input(x, axis, "fake_quantize")
    per = resolve_scaling(scaling_per_output, scaling_per_output_channel)
    return Quantizer(get_format(fmt), axis, scale_rule, per, channel_axis)(x)


def check_input(x: Tensor, axis: int, where: str) -> None:
    """Raise ShapeError unless `x` is a floating tensor that has `axis`."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        found = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise ShapeError(f"{where}: expected a floating-point torch.Tensor, found {found}; call .float() first")
    if x.layout != torch.strided:
        raise ShapeError(f"{where}: expected a dense tensor, found {x.layout}; call .to_dense() first")
    if not isinstance(axis, int):
        raise ShapeError(f"{where}: axis is {axis!r}; expected an integer")
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"{where}: axis {axis} is outside a tensor of rank {x.ndim}")
