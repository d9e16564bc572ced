"""Brevitas and torchao on the same tensor and format, where they are installed and have the format."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

from mxexport.numbers.formats import get_format

_TORCHAO = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp4_e2m1": torch.float4_e2m1fn_x2,
}


def torchao(name: str, x: torch.Tensor) -> Callable[[], object] | None:
    """Quantize to codes with torchao (it does not dequantize in the same call)."""
    to_mx = _find("torchao.prototype.mx_formats.mx_tensor", "to_mx")
    return (lambda: to_mx(x, _TORCHAO[name], 32)) if to_mx and name in _TORCHAO else None


def brevitas_layer(name: str, x: torch.Tensor) -> torch.nn.Module | None:
    """A Brevitas layer with the weight `x`; its `quant_weight()` quantizes and dequantizes."""
    linear = _find("brevitas.nn", "QuantLinear")
    if linear is None:
        return None
    formats, element = importlib.import_module("brevitas.quant.experimental.mx_quant_ocp"), get_format(name).element
    quantizer = formats.MXInt8Weight
    if get_format(name).is_float:
        widths = {"exponent_bit_width": element.exponent_bits, "mantissa_bit_width": element.mantissa_bits}
        quantizer = formats.MXFloat8e4m3Weight.let(bit_width=element.bits, **widths)
    layer = linear(x.shape[1], x.shape[0], bias=False, weight_quant=quantizer)
    layer.weight.data.copy_(x)
    return layer


def _find(module: str, name: str):
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        return None
