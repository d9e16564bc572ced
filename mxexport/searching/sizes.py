"""Bytes of a quantized network as packed files have it: codes at their own width, scales, the rest as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from mxexport.numbers import groups, packing
from mxexport.quant.layers.layer import QuantLayer
from mxexport.reporting.layers import scale_bytes


def of_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, int]:
    """Bytes of the weights of every layer, quantized or not."""
    return {name: _of_layer(model, name) for name in layers}


def _of_layer(model: nn.Module, name: str) -> int:
    """A layer of a product in code that is not quantized is not there, and has no weights where it is."""
    layer = dict(model.named_modules()).get(name)
    if layer is None:
        return 0
    packed = _packed(layer) if isinstance(layer, QuantLayer) else {}
    floats = {n: p.numel() * p.element_size() for n, p in layer._parameters.items() if p is not None}
    return sum((floats | packed).values())


def stored(model: nn.Module) -> int:
    """Bytes of all parameters and floating buffers, each once; those of quantized weights packed."""
    found: dict[int, int] = {}
    for module in model.modules():
        packed = _packed(module) if isinstance(module, QuantLayer) else {}
        held = {
            **module._parameters,
            **{n: b for n, b in module._buffers.items() if b is not None and b.is_floating_point()},
        }
        for name, tensor in held.items():
            if tensor is not None:
                size = packed.get(name, tensor.numel() * tensor.element_size())
                found[id(tensor)] = min(size, found.get(id(tensor), size))
    return sum(found.values())


def _packed(layer: QuantLayer) -> dict[str, int]:
    """Name of a weight -> bytes of its codes and scales."""
    quantizers, found = layer.quantizers(), {}
    for attribute, name in layer._quantizers_of_weights().items():
        if (quantizer := quantizers.get(attribute)) is None or getattr(layer, name, None) is None:
            continue
        fmt, shape, axis = quantizer.format, tuple(layer.weight_shape(name)), quantizer.axis
        size = min(fmt.group_size or shape[axis], shape[axis])
        codes = math.prod(packing.packed_shape(shape, fmt.element.bits, axis, size))
        scales = math.prod(groups.contracted_shape(shape, axis, size)) if fmt.group_size else 1
        found[name] = codes + scale_bytes(fmt, scales)
    return found
