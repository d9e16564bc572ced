"""Weights of quantized layers that a model reads past its layers: `F.linear(x, self.qkv.weight)`."""

from __future__ import annotations

import onnx_ir as ir
import torch

from mxexport.ops import DOMAIN, qonnx_general
from mxexport.quant import QuantLayer

_LAYOUT = {"Cast", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def bypassed_layers(model: ir.Model, module: torch.nn.Module) -> list[tuple[str, str]]:
    """(layer, what happens) for every layer whose quantized weight something reads in float.

    The file computes what the model does; but the layer was to be quantized, and there it is not.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    in_float = {id(p) for m in module.modules() if not isinstance(m, QuantLayer) for p in m._parameters.values()}
    notes, told = [], set()
    for layer, attribute, weight in _quantized_weights(module):
        stored = [model.graph.initializers[n] for n in names.get(id(weight), ()) if n in model.graph.initializers]
        if id(weight) in told | in_float or not any(map(_read_in_float, stored)):
            continue
        told.add(id(weight))
        what = f"{attribute} is read by code outside its layer, in float: quantizers act where layers are called"
        notes.append((layer, what))
    return notes


def _quantized_weights(module: torch.nn.Module):
    for name, layer in module.named_modules():
        if isinstance(layer, QuantLayer):
            for quantizer, attribute in layer._quantizers_of_weights().items():
                weight = getattr(layer, attribute, None)
                if getattr(layer, quantizer, None) is not None and isinstance(weight, torch.nn.Parameter):
                    yield name, attribute, weight


def _read_in_float(value: ir.Value) -> bool:
    if value.is_graph_output():
        return True
    for node in value.consumers():
        if node.domain == "" and node.op_type in _LAYOUT:
            if any(map(_read_in_float, node.outputs)):
                return True
        elif node.domain not in (DOMAIN, qonnx_general.DOMAIN):
            return True
    return False
