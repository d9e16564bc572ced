"""Batch norm -> the convolution or linear layer before it, in float, before anything is quantized.

    norm(layer(x)) -> layer'(x)   when the norm is the layer's only reader and both are called once

In eval mode norm(y) = (y - mean) * a + beta with a = gamma / sqrt(var + eps), so weight' = weight * a per output
channel and bias' = (bias - mean) * a + beta (computed in float64, rounded once).
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


def find_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """(layer, batch norm) names where the norm alone reads the layer and both are called once.

    Every module's own forward is traced with its children as black boxes, so one that cannot be traced hides only the
    pairs it calls itself.
    """
    scratch = copy.deepcopy(model)  # a forward may keep what it saw
    pairs, calls = [], Counter()
    for prefix, module in list(scratch.named_modules()):
        if not module._modules:
            continue
        for node in _traced(module):
            name = f"{prefix}.{node.target}".lstrip(".")
            calls[name] += 1
            before = node.args[0] if node.args else None
            if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
                pairs.append((f"{prefix}.{before.target}".lstrip("."), name))
    shared = _shared(model)
    return [
        (layer, norm)
        for layer, norm in pairs
        if calls[layer] == calls[norm] == 1
        and not {layer, norm} & shared
        and _fits(model.get_submodule(layer), model.get_submodule(norm))
    ]


def fold_pair(model: nn.Module, layer_name: str, norm_name: str) -> None:
    """Fold one pair in place; the norm's place is taken by `nn.Identity`."""
    layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
    factor, shift = _affine(norm)
    with torch.no_grad():
        bias = shift if layer.bias is None else layer.bias.double() * factor + shift
        layer.weight.copy_(_scale_outputs(layer, factor).to(layer.weight.dtype))
        bias = bias.to(layer.weight.dtype)
        if layer.bias is None:
            layer.bias = nn.Parameter(bias)
        else:
            layer.bias.copy_(bias)
    parent, _, child = norm_name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        factor = norm.weight.double() * factor
    shift = -norm.running_mean.double() * factor
    return factor, shift + norm.bias.double() if norm.affine else shift


def _scale_outputs(layer: nn.Module, factor: Tensor) -> Tensor:
    weight = layer.weight.double()
    if not isinstance(layer, _TRANSPOSED):
        return weight * factor.view(-1, *[1] * (weight.ndim - 1))
    # [I, O / groups, ...]: the input channels of group j make the outputs of group j.
    grouped = weight.unflatten(0, (layer.groups, -1))
    return (grouped * factor.view(layer.groups, 1, -1, *[1] * (weight.ndim - 2))).flatten(0, 1)


class _ChildrenAreLeaves(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _traced(module: nn.Module) -> list[fx.Node]:
    """Calls of submodules in the module's own forward; none where it cannot be traced."""
    try:
        graph = _ChildrenAreLeaves().trace(module)
    except Exception:  # any code may run here: a forward that does not trace has no pairs to offer
        return []
    return [node for node in graph.nodes if node.op == "call_module"]


def _shared(model: nn.Module) -> set[str]:
    """Names of modules that have two names, or a weight that another module has, too."""
    owners: dict[int, set[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for item in (module, *module._parameters.values()):
            if item is not None:
                owners.setdefault(id(item), set()).add(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


def _fits(layer: nn.Module, norm: nn.Module) -> bool:
    if type(layer) not in _LAYERS or type(norm) not in _NORMS or norm.running_mean is None:
        return False
    # Of a rank-3 output a 1-D norm would take axis 1, which is not the linear layer's output axis.
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return norm.num_features == outputs
