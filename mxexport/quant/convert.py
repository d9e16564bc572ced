"""float model -> trainable quantized model."""

from __future__ import annotations

import copy
import fnmatch
import warnings
from collections.abc import Sequence

from torch import nn

from mxexport.errors import UnsupportedError
from mxexport.formats import GroupFormat, get_format
from mxexport.quant.layers import QUANT_LAYERS, QuantLayer


def quantize_model(
    model: nn.Module,
    weight: str | GroupFormat | None = "mxint8",
    activation: str | GroupFormat | None = "mxint8",
    *,
    exclude: Sequence[str] = (),
    scale_rule: str = "floor",
) -> nn.Module:
    """A trainable copy of `model` with linear and conv layers quantized; the model given is left as it is.

    Parameter and state_dict names stay. `exclude` holds module names or shell patterns ("head", "blocks.*.fc2").
    Layers with weights of other kinds stay in float; they are named in a warning.

    Raises:
        FormatError: unknown format or scale rule.
        UnsupportedError: no layer could be quantized, or an `exclude` entry matches no module.
    """
    weight = None if weight is None else get_format(weight)
    activation = None if activation is None else get_format(activation)
    _check_patterns(model, exclude)
    quantized, left = copy.deepcopy(model), []
    names = {module: name for name, module in quantized.named_modules()}
    replacements: dict[nn.Module, QuantLayer] = {}
    for module, name in names.items():
        if any(fnmatch.fnmatchcase(name, p) for p in exclude) or isinstance(module, QuantLayer):
            continue
        if kind := QUANT_LAYERS.get(type(module)):
            replacements[module] = kind.from_float(module, weight, activation, scale_rule)
        elif "weight" in module._parameters and module._parameters["weight"].ndim > 1:
            left.append((name, f"{type(module).__name__} has no quantized form yet"))
    if not replacements:
        raise UnsupportedError("quantize_model: the model has no layer to quantize (Linear, Conv2d)", left)
    if left:
        warnings.warn("left in float: " + "; ".join(f"{n}: {why}" for n, why in left), stacklevel=2)
    if quantized in replacements:
        return replacements[quantized]
    for parent in list(names):
        for child_name, child in parent._modules.items():
            if child in replacements:
                parent._modules[child_name] = replacements[child]
    return quantized


def _check_patterns(model: nn.Module, patterns: Sequence[str]) -> None:
    names = [name for name, _ in model.named_modules()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UnsupportedError(f"exclude: {pattern!r} matches no module; modules: {', '.join(filter(None, names))}")
