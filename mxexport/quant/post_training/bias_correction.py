"""Bias correction: what rounding the weights adds to every output on average is taken off the bias.

    bias -= (Wq - W) E[x]

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2.
E[x] comes from the batch norms before the layer (`moments`) or from calibration inputs (`observed_means`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from mxexport.quant.calling import call_in_eval
from mxexport.quant.layers.all_layers import quantized_kind
from mxexport.quant.layers.conv import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
)
from mxexport.quant.layers.functional import FunctionalLayer
from mxexport.quant.layers.layer import QuantLayer
from mxexport.quant.layers.linear import QuantLinear, QuantTransposedLinear

_CONVS = (QuantConv1d, QuantConv2d, QuantConv3d)
_TRANSPOSED = (QuantConvTranspose1d, QuantConvTranspose2d, QuantConvTranspose3d)
CORRECTED = (QuantLinear, QuantTransposedLinear, *_CONVS, *_TRANSPOSED)
"""Kinds of layers that have one weight, one bias and one input."""


def may_correct(layer: nn.Module) -> bool:
    """Whether the layer's output has its own bias on top of its own weight's product."""
    if isinstance(layer, FunctionalLayer):
        return layer.observed.own_weight and layer.observed.own_bias and layer.bias is not None
    return isinstance(layer, CORRECTED)


@torch.no_grad()
def correct_bias(layer: QuantLayer, mean: Tensor) -> float:
    """Take the mean error off the bias in place, a new one where there is none; the largest change.

    mean: E[x] of every input channel [I]. Zeros that a convolution pads with count as data: the error of its border
    is not looked at apart.
    """
    weight = layer.weight.double()
    shift = mean_response(layer, layer.weight_quant(layer.weight).double() - weight, mean.to(weight))
    if layer.bias is None:
        layer.bias = nn.Parameter(-shift.to(layer.weight.dtype))
    else:
        layer.bias.copy_(layer.bias.double() - shift)
    return float(shift.abs().max()) if shift.numel() else 0.0


def mean_response(layer: nn.Module, weight: Tensor, mean: Tensor) -> Tensor:
    """Mean of every output channel [O]: the layer's product of `weight`, in the layer's shape, and inputs of `mean`."""
    if isinstance(layer, nn.Linear):
        return weight @ mean
    if isinstance(layer, QuantTransposedLinear):
        return mean @ weight
    taps, groups = weight.flatten(2).sum(2), layer.groups
    by_group = mean.view(groups, -1)
    if isinstance(
        layer, _ConvTransposeNd
    ):  # [I, O / groups]; an output meets one tap in as many as the stride has places
        taps = taps.view(groups, by_group.shape[1], -1) / math.prod(layer.stride)
        return torch.einsum("gio,gi->go", taps, by_group).flatten()
    return torch.einsum("goi,gi->go", taps.view(groups, -1, by_group.shape[1]), by_group).flatten()


def observed_means(model: nn.Module, names: Iterable[str], calibration: object) -> dict[str, Tensor]:
    """Layer name -> mean of each input channel [I] (float64) while the float model runs `calibration`.

    calibration: as `calling.calls` takes it. Layers that do not run are left out.
    """
    totals: dict[str, list] = {}

    def watch(name: str, axis: int):
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = (*args, *kwargs.values())[0].detach().double().movedim(axis, 0).flatten(1)
            seen = totals.setdefault(name, [0.0, 0])
            seen[0], seen[1] = seen[0] + x.sum(1), seen[1] + x.shape[1]

        return hook

    hooks = []
    for name in names:
        layer = model.get_submodule(name)
        kind = quantized_kind(layer)
        if kind is None or issubclass(kind, CORRECTED):  # None: a subclass, converted as what it is a subclass of
            axis = kind.input_axis if kind else -1 if isinstance(layer, nn.Linear) else 1
            hooks.append(layer.register_forward_pre_hook(watch(name, axis), with_kwargs=True))
    try:
        call_in_eval(model, calibration)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / count for name, (total, count) in totals.items() if count}
