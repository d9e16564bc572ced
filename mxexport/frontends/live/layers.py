"""Layers of ours in the place of a tool's: its parameters, its quantized weight, a quantizer for its input."""

from __future__ import annotations

import types
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.numbers.formats import ScaleRule
from mxexport.quant import QUANT_LAYERS, Quantizer, QuantLayer
from mxexport.quant.kernels import operators
from mxexport.quant.quantizers.sources import DynamicScale, StaticScale

_STEPS = (1.0, 2.0, 0.5, 4.0, 0.25)
"""Times the scale that a rule finds, in the order in which they are tried."""


def tool_of(module: nn.Module) -> set[str]:
    """Top packages of the classes that make up `module`. Asks for names only, so no tool is imported."""
    return {base.__module__.partition(".")[0] for base in type(module).__mro__}


@dataclass(frozen=True)
class ToolLayer:
    """What a tool's layer does to its operands.

    `weight`: the values that the tool multiplies with, float32. `weight_quant`: under whose scales these values stay as
    they are; None for a weight in float. `weight_scale`, `weight_zero_point`: their contracted scale and zero point
    where the tool has kept them. `output_quant`: what the tool does to the result.
    """

    weight: Tensor
    weight_quant: Quantizer | None
    input_quant: Quantizer | StaticScale | None
    weight_scale: Tensor | None = None
    notes: list[str] = field(default_factory=list)
    output_quant: Quantizer | StaticScale | None = None
    weight_zero_point: Tensor | None = None


def float_kind(module: nn.Module, tool: str) -> type[nn.Module] | None:
    """The class that `module` was of before `tool` took it; None for modules of its own, such as quantizers."""
    others = [base for base in type(module).__mro__ if base.__module__.partition(".")[0] != tool]
    kind = next(base for base in others if issubclass(base, nn.Module))
    if kind is nn.modules.conv._ConvNd:  # Quark's convolutions are torch's in all but their class
        kind = getattr(nn, type(module).__name__.removeprefix("Quant"), nn.Module)
    return None if kind in (nn.Module, nn.Sequential) else kind


def float_layer(module: nn.Module, kind: type[nn.Module], tool: str, left_out: tuple[str, ...] = ()) -> nn.Module:
    """The layer of class `kind` that `module` was before `tool` took it.

    Parameters, buffers, layers and hooks are shared; quantizers and attributes that are the tool's are left out, and
    those called as in `left_out`.
    """
    made = kind.__new__(kind)
    # Containers are copied so that what is left out here does not leave `module`.
    made.__dict__.update({k: v.copy() if isinstance(v, (dict, set)) else v for k, v in vars(module).items()})
    for table in (made._modules, made.__dict__):
        for name in [name for name, value in table.items() if name in left_out or _is_left_out(value, tool)]:
            del table[name]
    return made


def _is_left_out(value: object, tool: str) -> bool:
    if isinstance(value, types.MethodType):  # put on the object, as a forward of the tool's
        return (value.__module__ or "").partition(".")[0] == tool
    held = value if isinstance(value, (list, tuple)) else [value]
    own = any(type(thing).__module__.partition(".")[0] == tool for thing in held)
    return own and not (isinstance(value, nn.Module) and float_kind(value, tool) is not None)


def quantized_layer(plain: nn.Module, layer: ToolLayer) -> QuantLayer:
    """Our layer in the place of a float layer, whose parameters it shares. Raises UnsupportedError."""
    kind = QUANT_LAYERS[type(plain)]
    if (reason := kind.refusal(plain)) is not None:
        raise UnsupportedError(reason)
    made = kind.__new__(kind)
    made.__dict__.update(vars(plain))
    values = layer.weight.detach().float().contiguous()
    if layer.weight_quant is not None and not layer.weight_quant.format.is_float:
        values = values + 0.0  # integer codes have no -0
    made.weight = nn.Parameter(values, requires_grad=False)
    held = weight_source(values, layer.weight_quant, layer.weight_scale, layer.weight_zero_point)
    made._hold(weight_quant=held, input_quant=layer.input_quant)
    made.notes = layer.notes
    if layer.output_quant is not None:
        output = layer.output_quant
        made.output_quant = output if isinstance(output, nn.Module) else DynamicScale(output)
        made.register_forward_hook(_quantize_output, prepend=True)  # the tool's forward did it before hooks
    return made


def _quantize_output(module: QuantLayer, _: tuple, y: Tensor) -> Tensor:
    return module.output_quant(y)


def weight_source(
    values: Tensor, quantizer: Quantizer | None, scale: Tensor | None = None, zero_point: Tensor | None = None
) -> Quantizer | StaticScale | None:
    """A quantizer under which quantized `values` keep their bits.

    It finds scales by its rule where that does it. Else it holds them: those given, or for each group the rule's, two
    or four times as much, or as little. Tools round logarithms, and take another scale than their rule says.

    Raises:
        UnsupportedError: no such scale.
    """
    if quantizer is None:
        return None
    found = quantizer.scale(values)
    if scale is None and _same(quantizer.apply(values, found), values).all():
        return quantizer
    if scale is None:
        scale = _fitting_scale(values, quantizer, found)
    if not (same := _same(quantizer.apply(values, scale, zero_point), values)).all():
        raise UnsupportedError(
            f"{int((~same).sum())} values of its weight are no numbers of {quantizer.format.name} under their scales"
        )
    source = StaticScale(quantizer)
    source.stored_scale, source.stored_zero_point = scale, zero_point
    return source


def _fitting_scale(values: Tensor, quantizer: Quantizer, found: Tensor) -> Tensor:
    axis, size = quantizer.axis % values.ndim, quantizer.group_size(values)
    fitting, open_groups = found.clone(), torch.ones_like(found, dtype=torch.bool)
    for step in _STEPS:
        scale = found * step
        differs = ~_same(quantizer.apply(values, scale), values)
        fits = ~operators.split_groups(differs, axis, size).any(axis + 1)
        fitting = torch.where(open_groups & fits, scale, fitting)
        open_groups &= ~fits
    return fitting


def _same(a: Tensor, b: Tensor) -> Tensor:
    return a.view(torch.int32) == b.contiguous().view(torch.int32)


def rule_note(rule: ScaleRule, tool: str) -> list[str]:
    """What is to be said of input scales under floor and ceil, which some tools find from a rounded logarithm."""
    if rule not in ("floor", "ceil"):
        return []
    return [
        f"{tool} finds {rule} scales of activations from a float32 logarithm, which is wrong for largest magnitudes a "
        "few steps beside a power of two; here they are exact"
    ]
