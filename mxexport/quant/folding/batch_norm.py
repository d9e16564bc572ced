"""Batch norm -> the convolution or linear layer before it, in float, before anything is quantized.

    norm(layer(x)) -> layer'(x)   where `fold_proof` shows that it may be done

In eval mode norm(y) = (y - mean) * a + beta with a = gamma / sqrt(var + eps), so weight' = weight * a per output
channel and bias' = (bias - mean) * a + beta (computed in float64, rounded once).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from mxexport.quant.layers.all_layers import quantized_kind
from mxexport.quant.layers.functional import FUNCTIONS, may_be_functional
from mxexport.quant.layers.products import mentions_of_product, observe

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


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
    identity = nn.Identity()
    for parent in model.modules():
        for child, module in parent._modules.items():
            if module is norm:
                parent._modules[child] = identity


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


def why_no_norm(norm: nn.Module) -> str | None:
    """Why this norm can go into no layer; None where it can."""
    if parametrize.is_parametrized(norm):
        return "is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first"
    if type(norm) not in _NORMS:
        known = next((kind for kind in _NORMS if isinstance(norm, kind)), None)
        return f"{type(norm).__name__} {'is no batch norm of torch' if known is None else _subclass(known)}"
    if "forward" in vars(norm):
        return "its forward was replaced"
    if isinstance(norm, LazyModuleMixin):
        return "has no shape yet; run the model once before converting it"
    if norm.running_mean is None or norm.running_var is None:
        return "has no running statistics: it takes those of every batch"
    if norm.running_mean.is_meta:
        return "its statistics have no data on device meta"
    if not all(part.isfinite().all() for part in _affine(norm)):
        return "its statistics or its weights give no finite factors"
    return None


def why_no_layer(layer: nn.Module, norm: nn.Module, name: str) -> str | None:
    """Why this layer (called `name`) can take in no norm; None where it can."""
    if parametrize.is_parametrized(layer):
        return f"{name} is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first"
    if quantized_kind(layer) is None and not _computes_around_its_product(layer):
        return f"{name} ({type(layer).__name__}) {_subclass(_known(layer))}"
    if "forward" in vars(layer) or "_conv_forward" in vars(layer):
        return f"the forward of {name} was replaced"
    if norm.num_features != _outputs(layer):
        return f"it has {norm.num_features} features, and {name} {_outputs(layer)} outputs"
    weight = _scale_outputs(layer, _affine(norm)[0]).to(layer.weight.dtype)
    if not weight.isfinite().all() and layer.weight.isfinite().all():
        return f"the folded weight of {name} would not fit {layer.weight.dtype}"
    return None


def _computes_around_its_product(layer: nn.Module) -> bool:
    """Whether a forward of its own returns one product of its own weight and bias as it comes, as
    `F.conv2d(pad(x), self.weight, self.bias)` does."""
    if not may_be_functional(layer):
        return False
    trial = copy.deepcopy(layer)
    if trial.bias is None:
        trial.bias = nn.Parameter(trial.weight.new_zeros(_outputs(layer)))
    seen = observe(trial)
    if isinstance(seen, str) or mentions_of_product(layer, _known(layer)) > 1:
        return False
    return seen.own_weight and seen.own_bias and seen.returned and seen.product == FUNCTIONS[_known(layer)]


def _known(layer: nn.Module) -> type[nn.Module]:
    return next(kind for kind in LAYERS if isinstance(layer, kind))


def _outputs(layer: nn.Module) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _subclass(kind: type) -> str:
    return f"is a subclass of {kind.__name__} and may compute otherwise"
