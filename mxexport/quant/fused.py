"""Fake quantization to MX formats as one differentiable step: the native kernel where it can run, else torch."""

from __future__ import annotations

import torch
from torch import Tensor

from mxexport.quant import kernels, native
from mxexport.quant.kernels import MXSpec


def applies_to(x: Tensor) -> bool:
    """True in plain eager execution; tracers (export, torch.compile, functorch) need the `mxexport::` operators."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return type(x) in (Tensor, torch.nn.Parameter) and x.ndim > 0 and x.numel() > 0


def quantize_dequantize(x: Tensor, spec: MXSpec) -> Tensor:
    """Shape and dtype of `x`; straight-through gradient where the value was not clipped.

    Keeps `x` and the contracted scales for the backward pass, nothing of the size of `x` beside it.
    """
    values, _ = _QuantizeDequantize.apply(x, spec)
    return values


def _use_native(x: Tensor) -> bool:
    return x.device.type == "cpu" and native.available()


class _QuantizeDequantize(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, spec: MXSpec) -> tuple[Tensor, Tensor]:
        engine = native if _use_native(x) else kernels
        values, scale = engine.mx_quantize_dequantize(x.float(), spec)
        return values.to(x.dtype), scale

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.spec = inputs
        ctx.save_for_backward(x, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, grad, _):
        x, scale = ctx.saved_tensors
        engine = native if _use_native(x) else kernels
        return engine.straight_through(x.float(), scale, grad.float(), ctx.spec).to(grad.dtype), None
