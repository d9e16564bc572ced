"""All QAT layers: the float layer's parameters and state_dict names, quantized on the way into the product."""

from __future__ import annotations

import sys

from torch import nn

from mxexport.quant.layers.activation import QuantAdd, QuantIdentity, QuantMatMul, QuantReLU
from mxexport.quant.layers.attention import QuantMultiheadAttention
from mxexport.quant.layers.conv import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
)
from mxexport.quant.layers.dot_product_attention import QuantScaledDotProductAttention
from mxexport.quant.layers.layer import QuantLayer
from mxexport.quant.layers.linear import QuantEmbedding, QuantLinear, QuantTransposedLinear
from mxexport.quant.layers.recurrent import QuantGRU, QuantLSTM, QuantRNN

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
    nn.RNN: QuantRNN,
    nn.LSTM: QuantLSTM,
    nn.GRU: QuantGRU,
}
"""Float layer -> quantized layer: what `quantize_model` converts."""


_ELSEWHERE = {
    ("transformers.pytorch_utils", "Conv1D"): QuantTransposedLinear,
    ("timm.layers.linear", "Linear"): QuantLinear,  # casts for TorchScript, and else is torch's
}
"""Layers of other libraries that compute what torch's do: (module, class) -> quantized layer."""

_SAYS_NOTHING_OF_PRODUCTS = {"__init__", "__repr__", "extra_repr", "reset_parameters"}


def quantized_kind(layer: nn.Module) -> type[QuantLayer] | None:
    """What a float layer becomes; None where that is not known.

    By `QUANT_LAYERS`, subclasses included that only construct, initialize or print otherwise; and some layers of other
    libraries, which are asked only where somebody has loaded them: no model holds their layers otherwise.
    """
    own = type(layer)
    for (module, name), kind in _ELSEWHERE.items():
        if own is getattr(sys.modules.get(module), name, None):
            return kind
    known = next((base for base in own.__mro__ if base in QUANT_LAYERS), None)
    return QUANT_LAYERS[known] if known and _computes_as(own, known) else None


def _computes_as(own: type, known: type) -> bool:
    between = own.__mro__[: own.__mro__.index(known)]
    added = {name for cls in between for name, value in vars(cls).items() if _acts(value)}
    return added <= _SAYS_NOTHING_OF_PRODUCTS and not any(cls.__module__.startswith("torch.nn.") for cls in between)


def _acts(value: object) -> bool:
    return (callable(value) or hasattr(value, "__get__")) and not isinstance(value, staticmethod)


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
    "QuantGRU",
    "QuantIdentity",
    "QuantLSTM",
    "QuantLayer",
    "QuantLinear",
    "QuantMatMul",
    "QuantMultiheadAttention",
    "QuantRNN",
    "QuantReLU",
    "QuantScaledDotProductAttention",
    "QuantTransposedLinear",
    "quantized_kind",
]
