"""Learned scales: exact values forward, the gradient of LSQ backward.

Source of the gradient: Esser et al., "Learned Step Size Quantization", ICLR 2020, equations 3 and 5, for any element
format: d y / d s = (y - x) / s where x was only rounded, y / s where it was clipped; times 1 / sqrt(N * max), N the
elements per scale. Rounding the scale to a power of two is passed straight through.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mxexport.formats import GroupFormat
from mxexport.quant import kernels, library

_TO_NEAREST = 1 << 22  # half a mantissa: 1.5 * 2**k and more become 2**(k+1)


def learned_scale(raw: Tensor, fmt: GroupFormat, elements: int) -> Tensor:
    """The scale that `raw` stands for: MX the nearest power of two (over 2**frac_bits), else its magnitude."""
    if raw.requires_grad and torch.is_grad_enabled():
        return _LearnedScale.apply(raw, fmt, elements)
    return _exact(raw, fmt)


def _exact(raw: Tensor, fmt: GroupFormat) -> Tensor:
    axis = raw.ndim - 1  # groups of one: any axis will do
    if fmt.is_mx:
        return library.mx_scale(raw, axis, 1, 0, _TO_NEAREST, fmt.step_frac_bits, 0, 254)
    return library.groupwise_scale(raw, axis, 1, 1.0, False)


class _LearnedScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, raw, fmt, elements):
        ctx.factor = 2.0**-fmt.step_frac_bits / math.sqrt(max(elements, 1) * fmt.element.max_val)
        ctx.save_for_backward(raw)
        return _exact(raw, fmt)

    @staticmethod
    def backward(ctx, grad):
        (raw,) = ctx.saved_tensors
        return grad * ctx.factor * torch.where(raw < 0, -1.0, 1.0), None, None


def learned_apply(core, x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """`core.apply(x, scale, zero_point)` (scales contracted) with gradients for x and scale."""
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
        core, axis, length = ctx.core, ctx.core.axis % x.ndim, x.shape[ctx.core.axis]
        size = core.group_size(x)
        s = kernels.expand(scale, axis, size, length)
        values = x.float()
        z = 0.0 if zero_point is None else kernels.expand(zero_point, axis, size, length)
        inside = _inside(core, values / s + z)
        slope = torch.where(inside, y.float() - values, y.float()) / s
        per_element = grad.float() * torch.nan_to_num(slope, posinf=0.0, neginf=0.0)
        grad_scale = kernels.split_groups(per_element, axis, size).sum(axis + 1)
        return grad * inside, grad_scale, None, None


def _inside(core, v: Tensor) -> Tensor:
    """True where the element was rounded only, not clipped."""
    element = core.format.element
    if core.format.is_float:
        return (v <= element.max_val) & (v >= (-element.max_val if core.signed else 0.0))
    return (v <= element.code_hi + 0.5) & (v >= element.code_lo - 0.5)
