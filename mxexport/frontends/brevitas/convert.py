"""Finds the Brevitas layers of a model and puts converted layers in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from mxexport.errors import UnsupportedError
from mxexport.frontends.brevitas.activations import read_activation
from mxexport.frontends.brevitas.layers import (
    ConvertedActivation,
    ConvertedAdd,
    ConvertedLayer,
    ConvertedPassing,
    ConvertedTruncPool,
    ConvertedWeightLayer,
    activation_function,
    computation,
    pooling,
)
from mxexport.frontends.brevitas.observing import Observed, observe
from mxexport.frontends.brevitas.parameters import read_parameter
from mxexport.frontends.brevitas.reading import Reading, at, read_truncation, refuse
from mxexport.frontends.brevitas.recurrent import convert_recurrent


@dataclass
class Conversion:
    """What was found on the way: replacements, what to tell, what cannot be converted.

    `dtype`: that of the model's parameters, which activations without any share.
    """

    seen: Observed
    dtype: torch.dtype
    replaced: dict[nn.Module, ConvertedLayer] = field(default_factory=dict)
    told: list[tuple[str, str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def take(self, layer: ConvertedLayer, name: str, role: str, reading: Reading) -> None:
        layer.install(role, reading.quantizer, reading.tensors)
        where = at(name, role)
        layer.notes += [(where, note) for note in (*reading.warnings, *reading.notes)]
        self.told += [(where, warning) for warning in reading.warnings]


def convert_layers(model: nn.Module, args: tuple | None) -> tuple[nn.Module, list[tuple[str, str]]]:
    """`model` (in eval mode, ours to change) with every Brevitas layer replaced, and (where, what) to warn of.

    Raises:
        UnsupportedError: lists every layer that cannot be converted.
    """
    from brevitas.proxy.quant_proxy import QuantProxyFromInjector

    work = Conversion(
        observe(model, args), next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    )
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        if convert := _converter(module):
            inside = (*inside, f"{name}." if name else "")
            try:
                _check_own_code(name, module)
                _check_parameters(name, module)
                work.replaced[module] = convert(work, name, module)
                _tell_of_hooks(work, name, module)
            except UnsupportedError as error:
                work.problems += error.problems or [(name, str(error))]
            except Exception as error:  # Brevitas' own code runs here
                what = f"Brevitas fails on this {type(module).__name__}: {type(error).__name__}: {error}"
                work.problems.append((name, what))
        elif isinstance(module, QuantProxyFromInjector) and module.is_quant_enabled:
            owner = name.rpartition(".")[0]
            kind = type(model.get_submodule(owner)).__name__
            work.problems.append((name, f"{type(module).__name__} of {kind}: this layer is not known here"))
    if work.problems:
        problems = [(where or type(model).__name__, what) for where, what in work.problems]
        raise UnsupportedError("from_brevitas: layers that cannot be converted", problems)
    return _swap(model, work.replaced), work.told


def _check_own_code(name: str, module: nn.Module) -> None:
    """A subclass that computes something else must not be replaced by what its base computes."""
    for method in ("forward", "forward_impl", "inner_forward_impl", "quant_weight"):
        function = getattr(type(module), method, None)
        if function is not None and function.__module__.split(".")[0] != "brevitas":
            raise refuse(name, f"{type(module).__name__} overrides {method}; expected a layer of Brevitas as it is")


def _check_parameters(name: str, module: nn.Module) -> None:
    """What probes of the quantizers cannot work with."""
    for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        where = at(name, key)
        if tensor.device.type != "cpu":
            raise refuse(where, f"is on device {tensor.device}; give the model with its data on the CPU")
        if tensor.dtype == torch.float64:
            raise refuse(where, "is float64, and scales are float32 here; call model.float() first")


def _tell_of_hooks(work: Conversion, name: str, module: nn.Module) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        work.told.append((name, "the layer's forward hooks are left out"))


def _swap(model: nn.Module, replaced: dict[nn.Module, ConvertedLayer]) -> nn.Module:
    if model in replaced:
        return replaced[model]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in replaced:
                parent._modules[name] = replaced[child]
    return model


def _converter(module: nn.Module) -> Callable[[Conversion, str, nn.Module], ConvertedLayer] | None:
    from brevitas import nn as qnn
    from brevitas.nn.mixin.acc import TruncMixin
    from brevitas.nn.mixin.base import QuantLayerMixin
    from brevitas.nn.quant_layer import QuantNonLinearActLayer, QuantWeightBiasInputOutputLayer

    if isinstance(module, (QuantWeightBiasInputOutputLayer, qnn.QuantEmbedding)):
        return _weight_layer
    if isinstance(module, QuantNonLinearActLayer):
        return _activation
    if isinstance(module, qnn.QuantEltwiseAdd):
        return _add
    if isinstance(module, (qnn.TruncAvgPool2d, qnn.TruncAdaptiveAvgPool2d)) and module.is_trunc_quant_enabled:
        return _truncating
    if isinstance(module, (qnn.QuantRNN, qnn.QuantLSTM)):
        return convert_recurrent
    if isinstance(module, (qnn.QuantUpsample, qnn.QuantUpsamplingNearest2d, qnn.QuantUpsamplingBilinear2d)):
        return _upsampling
    if isinstance(module, QuantLayerMixin) and not isinstance(module, TruncMixin):
        return _unknown
    return None


def _weight_layer(work: Conversion, name: str, layer: nn.Module) -> ConvertedLayer:
    compute = computation(layer)
    if compute is None:
        _unknown(work, name, layer)
    where = at(name, "weight")
    weight = read_parameter(where, layer.weight_quant, layer.weight, _quant_weight(where, layer))
    bias = _read_bias(work, name, layer)
    converted = ConvertedWeightLayer(
        type(layer).__name__,
        weight.parameter(layer.weight),
        None if bias is None else bias.parameter(layer.bias),
        compute,
        with_value=_returns_quant_tensors(layer),
    )
    work.take(converted, name, "weight", weight)
    if bias is not None:
        work.take(converted, name, "bias", bias)
    for role in ("input", "output"):
        _take_activation(work, converted, name, role, layer)
    return converted


def _read_bias(work: Conversion, name: str, layer: nn.Module) -> Reading | None:
    if getattr(layer, "bias", None) is None:
        return None
    proxy = layer.bias_quant
    if not proxy.is_quant_enabled:
        return Reading()
    where = at(name, "bias")
    if not proxy.requires_input_scale:
        return read_parameter(where, proxy, layer.bias, proxy(layer.bias))
    quantized = work.seen.bias(where, proxy)
    if quantized is None:
        quantized = proxy(layer.bias, _own_quant_input(where, layer), _quant_weight(where, layer))
    return read_parameter(where, proxy, layer.bias, quantized)


def _quant_weight(where: str, layer: nn.Module):
    """Brevitas' quant tensor; accumulator-aware quantizers ask for the bit width of the input."""
    if layer.weight_quant.requires_quant_input:
        return layer.quant_weight(_own_quant_input(where, layer))
    return layer.quant_weight()


def _own_quant_input(where: str, layer: nn.Module):
    """A quant tensor as the layer's own input quantizer makes them: its scale and bit width are what is wanted."""
    if not layer.input_quant.is_quant_enabled:
        raise refuse(where, "its scale follows the input's, which an earlier layer sets; give example inputs (args)")
    if isinstance(layer, nn.Linear):
        shape = (1, layer.in_features)
    else:
        shape = (1, layer.in_channels, *[1] * len(layer.kernel_size))
    return layer.input_quant(torch.zeros(shape, dtype=layer.weight.dtype))


def _activation(work: Conversion, name: str, layer: nn.Module) -> ConvertedLayer:
    fused = layer.act_quant.fused_activation_quant_proxy
    function = activation_function(None if fused is None else fused.activation_impl)
    converted = ConvertedActivation(type(layer).__name__, function, with_value=_returns_quant_tensors(layer))
    for role in ("input", "act"):
        _take_activation(work, converted, name, role, layer)
    return converted


def _add(work: Conversion, name: str, layer: nn.Module) -> ConvertedLayer:
    converted = ConvertedAdd(type(layer).__name__, with_value=_returns_quant_tensors(layer))
    for role in ("input", "output"):
        _take_activation(work, converted, name, role, layer)
    return converted


def _take_activation(work: Conversion, converted: ConvertedLayer, name: str, role: str, layer: nn.Module) -> None:
    proxy = getattr(layer, f"{role}_quant", None)
    if proxy is None:  # an embedding quantizes its weight only
        return
    where = at(name, role)
    dtype = getattr(getattr(layer, "weight", None), "dtype", work.dtype)
    work.take(converted, name, role, read_activation(where, proxy, work.seen.clipped(proxy), dtype))


def _returns_quant_tensors(layer: nn.Module) -> bool:
    return bool(getattr(layer, "return_quant_tensor", False))


def _upsampling(work: Conversion, name: str, layer: nn.Module) -> ConvertedLayer:
    if layer.mode != "nearest":
        raise refuse(
            name,
            f"{type(layer).__name__} with mode {layer.mode!r} rounds to the scale of a quant tensor; use nn.Upsample "
            "and a QuantIdentity",
        )
    compute = partial(F.interpolate, size=layer.size, scale_factor=layer.scale_factor, mode="nearest")
    return ConvertedPassing(type(layer).__name__, compute, with_value=_returns_quant_tensors(layer))


def _unknown(work: Conversion, name: str, layer: nn.Module) -> ConvertedLayer:
    reason = "this kind of layer is not known here"
    if isinstance(layer, nn.Embedding):
        reason = "max_norm rescales the table in place at each look-up; normalize it once and set max_norm=None"
    raise refuse(name, f"{type(layer).__name__}: {reason}")


def _truncating(work: Conversion, name: str, layer: nn.Module) -> ConvertedLayer:
    size, with_value = work.seen.sizes.get(layer), _returns_quant_tensors(layer)
    converted = ConvertedTruncPool(type(layer).__name__, pooling(layer), size, with_value=with_value)
    where = at(name, "trunc")
    average = work.seen.average(where, layer.trunc_quant)
    if average is not None:  # of plain tensors Brevitas takes the average only
        work.take(converted, name, "trunc", read_truncation(where, layer.trunc_quant, average))
    return converted
