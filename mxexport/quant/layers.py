"""All QAT layers: the float layer's parameters and state_dict names, quantized on the way into the product."""

from __future__ import annotations

import sys

from torch import nn

from mxexport.quant.activation import QuantAdd, QuantIdentity, QuantMatMul, QuantReLU
from mxexport.quant.attention import QuantMultiheadAttention
from mxexport.quant.conv import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
)
from mxexport.quant.layer import QuantLayer
from mxexport.quant.linear import QuantEmbedding, QuantLinear, QuantTransposedLinear

QUANT_LAYERS: dict[type[nn.Module], type[QuantLayer]] = {
    nn.Linear: QuantLinear,
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.ConvTranspose3d: QuantConvTranspose3d,
    nn.Embedding: QuantEmbedding,
    nn.MultiheadAttention: QuantMultiheadAttention,
}
"""Float layer -> quantized layer: what `quantize_model` converts."""


def quantized_kind(layer: nn.Module) -> type[QuantLayer] | None:
    """What a float layer becomes: by `QUANT_LAYERS`, and for `Conv1D` of transformers; None for others.

    Transformers is asked only where somebody has loaded it already: no model holds its layers otherwise.
    """
    conv1d = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    return QuantTransposedLinear if type(layer) is conv1d else QUANT_LAYERS.get(type(layer))


__all__ = [
    "QUANT_LAYERS",
    "QuantAdd",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantEmbedding",
    "QuantIdentity",
    "QuantLayer",
    "QuantLinear",
    "QuantMatMul",
    "QuantMultiheadAttention",
    "QuantReLU",
    "QuantTransposedLinear",
    "quantized_kind",
]
