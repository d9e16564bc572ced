"""Activations as the tools quantize them, where that is more than one of our quantizers.

Zeros: compressed-tensors makes +0 of a -0 that comes in and keeps the sign of what rounds to zero; Quark's FP4 and FP6
have +0 only. That changes no product but the sign of a sum that is zero, and costs two subtractions for each
quantizer, so models leave it out unless they are asked for it (`exact_zeros`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mxexport.frontends.stored import to_nearest
from mxexport.numbers import numerics
from mxexport.ops import MXFloatQuant
from mxexport.quant import Quantizer
from mxexport.quant.kernels import library, operators

Zeros = Literal["kept", "cleared before", "cleared after"]


@dataclass(frozen=True)
class ToolInput(Quantizer):
    """`zeros`: whether -0 becomes +0 before it is quantized, or after."""

    zeros: Zeros = "kept"

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x)
        x = without_minus_zero(x) if self.zeros == "cleared before" else x
        y = self.quantized(x)
        return without_minus_zero(y) if self.zeros == "cleared after" else y

    def quantized(self, x: Tensor) -> Tensor:
        return super().__call__(x)


class FullRange(Quantizer):
    """Signed integers that take their most negative code, too."""

    def apply(self, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        if self.scaling_per_output != "group":
            scale = self.expand_scale(scale, x)
        a = {"bit_width": self.format.element.bits, "signed": True, "narrow": False}
        return library.groupwise_quant(x, scale, zero_point, self.axis % x.ndim, self.group_size(x), **a)


@dataclass(frozen=True)
class NVFP4Input(ToolInput):
    """E4M3 block scales under a stored scale of the tensor; every operation rounded to float32.

    A group that holds NaN is NaN. `level`: the stored float32 number.
    """

    level: float = 1.0

    def quantized(self, x: Tensor) -> Tensor:
        a = MXFloatQuant.attributes_of(self.format.element)
        a |= {"signed": True, "signed_zero": True}
        return library.mx_float_quant(x, self.group_scale(x), x.ndim - 1, self.format.group_size, **a)

    def group_scale(self, x: Tensor) -> Tensor:
        """Contracted float32 scales of `x`, groups along its last axis."""
        blocks = operators.split_groups(x.float(), x.ndim - 1, self.format.group_size)
        nan = blocks.isnan()  # apart: onnxruntime's largest value need not be NaN where there is one
        amax = torch.where(nan, 0.0, blocks.abs()).amax(-1)
        scale = self.block_scale(amax, amax.new_full((), self.level))
        return torch.where(nan.float().amax(-1) > 0, torch.nan, scale)

    def block_scale(self, amax: Tensor, level: Tensor) -> Tensor:
        """Float32 scales of blocks, shape of `amax`. Numbers are tensors: torch divides by reciprocals of others."""
        raise NotImplementedError


class CompressedTensorsNVFP4Input(NVFP4Input):
    """block = e4m3(min(amax / 6 * level, 448)), 0.125 for 0; scale = block / level. `level` is near 448 * 6 / amax."""

    def block_scale(self, amax: Tensor, level: Tensor) -> Tensor:
        code = _e4m3(amax / amax.new_full((), 6.0) * level)
        return torch.where(code == 0, 0.125, code) / level


class ModelOptNVFP4Input(NVFP4Input):
    """scale = e4m3(min(amax / (6 * level), 448)) * level, 1 where that is below 1e-5. `level` is amax / (448 * 6).

    As its Triton kernel computes with correctly rounded divisions; on a GPU they are approximate.
    """

    def block_scale(self, amax: Tensor, level: Tensor) -> Tensor:
        scale = _e4m3(amax / (amax.new_full((), 6.0) * level)) * level
        return torch.where(scale >= amax.new_full((), 1e-5), scale, 1.0)


def _e4m3(wanted: Tensor) -> Tensor:
    """To the nearest block scale; beyond the largest to that."""
    return to_nearest(wanted.clamp(max=448.0), numerics.NVFP4_SCALE)


def without_minus_zero(x: Tensor) -> Tensor:
    """0 - (0 - x): as x, with +0 for -0. A runtime may drop the addition of 0."""
    zero = x.new_zeros(())
    return zero - (zero - x)
