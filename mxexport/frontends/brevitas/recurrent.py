"""Brevitas' QuantRNN and QuantLSTM: parameters and quantizers of every gate.

Brevitas allows no groups there (it refuses groupwise weights of shared quantizers, and groupwise activations of its
cells), so what is read here has one scale for a tensor or a channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from mxexport.frontends.brevitas.activations import read_activation
from mxexport.frontends.brevitas.layers import ConvertedLayer, activation_function
from mxexport.frontends.brevitas.parameters import read_parameter
from mxexport.frontends.brevitas.reading import Reading, at, refuse
from mxexport.frontends.brevitas.recurrent_layers import (
    LSTM_GATES,
    LSTM_STATES,
    ConvertedDirection,
    ConvertedLSTM,
    ConvertedRNN,
    ConvertedStack,
)

if TYPE_CHECKING:
    from mxexport.frontends.brevitas.convert import Conversion


def convert_recurrent(work: Conversion, name: str, stack: nn.Module) -> ConvertedLayer:
    """The converted form of a QuantRNN or QuantLSTM. Raises UnsupportedError for a quantizer that has none."""
    layers = nn.ModuleList()
    for number, directions in enumerate(stack.layers):
        places = [at(name, f"layers.{number}.{d}") for d in range(len(directions))]
        layers.append(nn.ModuleList(_direction(work, *each) for each in zip(places, directions, strict=True)))
    joined = getattr(stack, "cat_output_cell_states", True)
    with_value = bool(stack.layers[-1][0].return_quant_tensor)
    return ConvertedStack(type(stack).__name__, layers, joined, with_value=with_value)


def _direction(work: Conversion, name: str, layer: nn.Module) -> ConvertedDirection:
    cell = layer.cell
    if hasattr(layer, "gate_params"):
        kind, gates = ConvertedRNN, {"gate": layer.gate_params}
        proxies = {"gate_acc": cell.gate_acc_quant, "output": cell.output_quant}
        functions = {"act": activation_function(cell.act_fn)}
    else:
        kind = ConvertedLSTM
        gates = {gate: getattr(layer, f"{gate}_gate_params") for gate in LSTM_GATES}
        gates = {gate: params for gate, params in gates.items() if params is not None}
        acts = {role: getattr(cell, f"{role}_quant") for role in LSTM_STATES}
        proxies = {f"{gate}_acc": getattr(cell, f"{gate}_acc_quant") for gate in gates}
        proxies |= {"output": cell.output_quant, **acts}
        functions = {role: _function(proxy) for role, proxy in acts.items()}
    options = {"hidden_size": layer.hidden_size, "batch_first": cell.batch_first, "backward": cell.reverse_input}
    converted = kind(type(layer).__name__, tuple(gates), functions, **options)
    if not layer.quantize_output_only:
        proxies["input"] = layer.io_quant
    for gate, params in gates.items():
        _take_parameters(work, converted, name, gate, layer, params)
    dtype = next(iter(gates.values())).hidden_weight.weight.dtype
    for role, proxy in proxies.items():
        reading = read_activation(at(name, role), proxy, work.seen.clipped(proxy), dtype)
        work.take(converted, name, role, reading)
    return converted


def _function(proxy: nn.Module):
    """What is computed in front of a quantizer: a sigmoid, a tanh, or nothing."""
    fused = proxy.fused_activation_quant_proxy
    return activation_function(None if fused is None else fused.activation_impl)


def _take_parameters(
    work: Conversion, converted: ConvertedDirection, name: str, gate: str, layer: nn.Module, params: nn.Module
) -> None:
    quantized = {}
    for role, holder in (("weight_ih", params.input_weight), ("weight_hh", params.hidden_weight)):
        where = at(name, f"{gate}_{role}")
        if holder.weight_quant.requires_quant_input:
            raise refuse(where, "an accumulator-aware quantizer in a recurrent layer; expected one of the weight alone")
        quantized[role] = holder()
        reading = read_parameter(where, holder.weight_quant, holder.weight, quantized[role])
        setattr(converted, f"{gate}_{role}", reading.parameter(holder.weight))
        work.take(converted, name, f"{gate}_{role}", reading)
    if params.bias is None:
        return
    reading = _read_bias(work, at(name, f"{gate}_bias"), layer, params, quantized["weight_ih"])
    setattr(converted, f"{gate}_bias", reading.parameter(params.bias))
    work.take(converted, name, f"{gate}_bias", reading)


def _read_bias(work: Conversion, where: str, layer: nn.Module, params: nn.Module, weight) -> Reading:
    proxy = params.bias_quant
    if not proxy.is_quant_enabled:
        return Reading()
    quantized = work.seen.bias(where, proxy)
    if quantized is None:
        if proxy.requires_input_scale and not layer.io_quant.is_quant_enabled:
            raise refuse(
                where, "its scale follows the input's, which an earlier layer sets; give example inputs (args)"
            )
        x = layer.io_quant(torch.zeros(1, layer.input_size, dtype=params.hidden_weight.weight.dtype))
        quantized = proxy(params.bias, x, weight)
    return read_parameter(where, proxy, params.bias, quantized)
