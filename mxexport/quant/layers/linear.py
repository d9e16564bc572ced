"""Layers with one weight matrix: linear, either way round, and embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.numbers.formats import ScaleRule
from mxexport.quant.layers.layer import QuantLayer, apply
from mxexport.quant.quantizers.spec import Format, make_weight_quantizer


class QuantLinear(QuantLayer, nn.Linear):
    """`nn.Linear` whose weight [O, I] is grouped along I and whose input is grouped along its last axis."""

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self._quantized(x)
        return nn.functional.linear(x, weight, self.quant_bias())


class QuantTransposedLinear(QuantLayer, nn.Module):
    """A linear layer that stores its weight as [I, O]: `Conv1D` of transformers, which GPT-2 is made of.

    The weight is grouped along axis 0, the input along its last axis. `quantize_model` makes these from the layers it
    finds; there is nothing to construct, for the float layer is not torch's own.
    """

    weight_axis = 0
    channel_axis = 1

    def _input_length(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self._quantized(x)
        return torch.matmul(x, weight) + self.quant_bias()


class QuantEmbedding(QuantLayer, nn.Embedding):
    """`nn.Embedding` whose table [V, D] is grouped along D; it has no activation to quantize.

    So a table that is tied to the weight of a linear layer has the same groups in both places.

    Raises:
        UnsupportedError: `max_norm` or `sparse`.
    """

    def __init__(self, *args, weight: Format = "mxint8", scale_rule: ScaleRule = "floor", **kwargs):
        super().__init__(*args, weight=weight, activation=None, scale_rule=scale_rule, **kwargs)
        if reason := self.refusal(self):
            raise UnsupportedError(f"QuantEmbedding: {reason}")

    def set_formats(
        self, weight: Format, activation: Format = None, scale_rule: ScaleRule = "floor", bias_format: str = "float"
    ) -> None:
        """Choose the format of the table; there is no activation and no bias to apply the others to."""
        self._hold(
            weight_quant=make_weight_quantizer(weight, self.weight, self.weight_axis, self.channel_axis, scale_rule)
        )

    @classmethod
    def refusal(cls, layer: nn.Embedding) -> str | None:
        if layer.max_norm is not None:
            return "max_norm rescales the table in place at each look-up; normalize it once and set max_norm=None"
        if layer.sparse:
            return "sparse gradients do not pass a quantizer of the whole table; set sparse=False"
        return None

    def forward(self, x: Tensor) -> Tensor:
        weight = apply(self.weight_quant, self.weight)
        return nn.functional.embedding(x, weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)
