"""Layers without weights: quantized activations, products and sums of two activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mxexport.numbers.formats import ScaleRule
from mxexport.quant.layers.layer import QuantLayer, apply
from mxexport.quant.quantizers.spec import Format, as_spec, make_activation_quantizer


class _ChannelQuant(QuantLayer):
    """Quantizes along a given axis; by default channels: axis 1 of inputs of rank 4 and 5, else the last axis."""

    prefixes: tuple[str, ...] = ("output",)

    def __init__(self, activation: Format = "mxint8", *, axis: int | None = None, scale_rule: ScaleRule = "floor"):
        nn.Module.__init__(self)
        self.axis = axis
        self.set_formats(None, as_spec(activation), scale_rule)

    def set_formats(
        self, weight: Format, activation: Format, scale_rule: ScaleRule = "floor", bias_format: str = "float"
    ) -> None:
        """Choose the activation format; there is no weight."""
        last = -1 if self.axis is None else self.axis
        for prefix in self.prefixes:
            # A quantizer belongs to one axis, and the rank is known only when data comes.
            channels = None if self.axis is not None else make_activation_quantizer(activation, 1, scale_rule)
            given = make_activation_quantizer(activation, last, scale_rule)
            self._hold(**{f"{prefix}_quant": given, f"{prefix}_channel_quant": channels})

    def _apply_to(self, prefix: str, x: Tensor) -> Tensor:
        channels = self.axis is None and x.ndim in (4, 5)
        return apply(getattr(self, f"{prefix}_channel_quant" if channels else f"{prefix}_quant"), x)

    def extra_repr(self) -> str:
        q = getattr(self, f"{self.prefixes[0]}_quant")
        return f"activation={None if q is None else q.format.name}, axis={self.axis}"


class QuantIdentity(_ChannelQuant):
    """Its input, quantized along `axis` (default: channel axis 1 of rank 4 and 5, else the last axis)."""

    def forward(self, x: Tensor) -> Tensor:
        return self._apply_to("output", x)


class QuantReLU(_ChannelQuant):
    """ReLU, its output quantized along `axis` (default: channel axis 1 of rank 4 and 5, else the last axis)."""

    def forward(self, x: Tensor) -> Tensor:
        return self._apply_to("output", torch.relu(x))


class QuantAdd(_ChannelQuant):
    """Residual addition a + b, both quantized along `axis` first (default as QuantIdentity); the sum is in float.

    a and b: float tensors whose shapes broadcast.
    """

    prefixes = ("input", "other")

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self._apply_to("input", a) + self._apply_to("other", b)


class QuantMatMul(QuantLayer):
    """a @ b of two activations, each quantized along the axis summed over: a [..., M, K] on -1, b [..., K, N] on -2."""

    def __init__(self, activation: Format = "mxint8", *, scale_rule: ScaleRule = "floor"):
        nn.Module.__init__(self)
        self.set_formats(None, as_spec(activation), scale_rule)

    def set_formats(
        self, weight: Format, activation: Format, scale_rule: ScaleRule = "floor", bias_format: str = "float"
    ) -> None:
        """Choose the format of both operands; there is no weight."""
        self._hold(
            input_quant=make_activation_quantizer(activation, -1, scale_rule),
            other_quant=make_activation_quantizer(activation, -2, scale_rule),
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(apply(self.input_quant, a), apply(self.other_quant, b))
