"""Learned scales: exact values forward, the gradient of LSQ backward.

Source of the gradient: Esser et al., "Learned Step Size Quantization", ICLR 2020, equations 3 and 5, for any element
format: d y / d s = (y - x) / s where x was only rounded, y / s where it was clipped; times 1 / sqrt(N * max), N the
elements per scale. Rounding the scale to a power of two is passed straight through.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mxexport.numbers.formats import GroupFormat
from mxexport.quant.kernels import library, operators, transforms

_TO_NEAREST = 1 << 22  # half a mantissa: 1.5 * 2**k and more become 2**(k+1)


def learned_scale(raw: Tensor, fmt: GroupFormat, elements: int) -> Tensor:
    """The scale that `raw` stands for: MX the nearest power of two (over 2**frac_bits), else its magnitude."""
    if transforms.active():
        factor = _gradient_factor(raw.detach(), fmt, elements)
        return transforms.straight_through(_exact(raw.detach(), fmt), raw * factor, raw.isfinite())
    if raw.requires_grad and torch.is_grad_enabled():
        return _LearnedScale.apply(raw, fmt, elements)
    return _exact(raw, fmt)


def _gradient_factor(raw: Tensor, fmt: GroupFormat, elements: int) -> Tensor:
    factor = 2.0**-fmt.step_frac_bits / math.sqrt(max(elements, 1) * fmt.element.max_val)
    return factor * torch.where(raw < 0, -1.0, 1.0)


def _exact(raw: Tensor, fmt: GroupFormat) -> Tensor:
    axis = raw.ndim - 1  # groups of one: any axis will do
    if fmt.is_mx:
        return library.mx_scale(raw, axis, 1, 0, _TO_NEAREST, fmt.step_frac_bits, 0, 254)
    return library.groupwise_scale(raw, axis, 1, 1.0, False)


class _LearnedScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, raw, fmt, elements):
        ctx.fmt, ctx.elements = fmt, elements
        ctx.save_for_backward(raw)
        return _exact(raw, fmt)

    @staticmethod
    def backward(ctx, grad):
        (raw,) = ctx.saved_tensors
        return grad * _gradient_factor(raw, ctx.fmt, ctx.elements), None, None


def learned_apply(core, x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """`core.apply(x, scale, zero_point)` (scales contracted) with gradients for x and scale."""
    if transforms.active():
        return _transformed_apply(core, x, scale, zero_point)
    if scale.requires_grad and torch.is_grad_enabled():
        return _LearnedApply.apply(x, scale, zero_point, core)
    return core.apply(x, scale, zero_point)


class _LearnedApply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, zero_point, core):
        y = core.apply(x, scale, zero_point)
        ctx.core = core
        ctx.save_for_backward(x, scale, zero_point, y)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, scale, zero_point, y = ctx.saved_tensors
        inside, slope = _slopes(ctx.core, x, scale, zero_point, y)
        axis = ctx.core.axis % x.ndim
        grad_scale = operators.split_groups(grad.float() * slope, axis, ctx.core.group_size(x)).sum(axis + 1)
        return grad * inside, grad_scale, None, None


def _slopes(core, x: Tensor, scale: Tensor, zero_point: Tensor | None, y: Tensor) -> tuple[Tensor, Tensor]:
    """What passes the gradient to x, and d y / d scale; one per element."""
    inside = _inside(core, operators.in_steps(x, scale, zero_point, core.axis % x.ndim, core.group_size(x)))
    slope = torch.where(inside, y.float() - x.float(), y.float()) / _per_element(core, x, scale)
    return inside, torch.nan_to_num(slope, posinf=0.0, neginf=0.0)


def _per_element(core, x: Tensor, scale: Tensor) -> Tensor:
    return operators.expand(scale, core.axis % x.ndim, core.group_size(x), x.shape[core.axis])


def _transformed_apply(core, x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    constants = x.detach(), scale.detach(), zero_point
    y = core.apply(*constants)
    inside, slope = _slopes(core, *constants, y)
    return transforms.straight_through(y, x, inside, _per_element(core, x, scale), slope)


def _inside(core, v: Tensor) -> Tensor:
    """True where the element was rounded only, not clipped."""
    element = core.format.element
    if core.format.is_float:
        return (v <= element.max_val) & (v >= (-element.max_val if core.signed else 0.0))
    return (v <= element.code_hi + 0.5) & (v >= element.code_lo - 0.5)
