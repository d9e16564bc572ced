"""A model with live quantized modules of another tool -> the mxexport model of the same values.

Taken are AMD Quark, NVIDIA ModelOpt, AIMET and microxcaling, recognised by the packages of their classes.
What the tool itself can compute here decides: weights are the values its own forward multiplies with. What differs:

    inputs    the tool's scale rule, exactly. Where it rounds a logarithm (microxcaling; floor and ceil of Quark),
              largest magnitudes a few steps beside a power of two take another scale there; notes of layers say so
    zeros     the sign of zero where a tool clears it, unless asked for (`exact_zeros`)
    products  in float32, whatever the model's type
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from types import ModuleType

import torch
from torch import nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.assembling import assemble
from mxexport.frontends.inputs import ToolInput
from mxexport.frontends.live import aimet, microxcaling, modelopt, quark
from mxexport.frontends.live.layers import float_kind, float_layer, quantized_layer, tool_of
from mxexport.quant import QUANT_LAYERS, QuantLayer
from mxexport.quant.report import ConversionReport, ConvertedLayer, FloatLayer, attach, describe

_TOOLS: dict[str, ModuleType] = {tool.PACKAGE: tool for tool in (quark, modelopt, microxcaling, aimet)}
"""Package -> the module here that reads it: its `TOOL`, and `read(module, kind)`."""


def is_fake_quantized(model: object) -> bool:
    """Whether a module of `model` is one of the tools'. Imports none of them."""
    return isinstance(model, nn.Module) and any(_package(module) for module in model.modules())


def from_fake_quantized(model: nn.Module, *, exact_zeros: bool = False) -> nn.Module:
    """The mxexport model (float32, eval mode, no trainable weights) of a model that another tool has quantized.

    `model` holds live quantized layers of AMD Quark, NVIDIA ModelOpt, AIMET or microxcaling, and is left as it is.

    Args:
        model: as the tool left it, calibrated, on the CPU.
        exact_zeros: also clear the sign of zero where the tool does, at two subtractions for each input quantizer.

    Raises:
        UnsupportedError: no such layer, or layers that cannot be carried (each is named).
    """
    if not is_fake_quantized(model):
        found = "no layer of these tools" if isinstance(model, nn.Module) else f"a {type(model).__name__}"
        raise UnsupportedError(f"from_fake_quantized: expected a model quantized with {_named_tools()}, found {found}")
    replacements, problems = _replacements(model, exact_zeros)
    if problems:
        raise UnsupportedError("from_fake_quantized: layers that cannot be carried", problems)
    _tell_lower_precision(model)
    result = assemble(model, replacements, "from_fake_quantized").requires_grad_(False)
    for name, module in result.named_modules():
        if isinstance(module, QuantLayer):
            module.notes = [(name, note) for note in module.notes]
    attach(_report(result, set(replacements)), result)
    return result


def _named_tools() -> str:
    return ", ".join(tool.TOOL for tool in _TOOLS.values())


def _package(module: nn.Module | None) -> str | None:
    """The tool's package that a module is of, as a key of `_TOOLS`."""
    found = [package for package in sorted(tool_of(module)) if package in _TOOLS]
    return next((p for p in found if p != microxcaling.PACKAGE or microxcaling.owns(module)), None)


def _replacements(model: nn.Module, exact_zeros: bool) -> tuple[dict[str, nn.Module], list[tuple[str, str]]]:
    """Name -> the layer that takes its place, and what cannot be carried."""
    modules = dict(model.named_modules())
    replacements: dict[str, nn.Module] = {}
    problems: list[tuple[str, str]] = []
    for name, module in reversed(modules.items()):  # layers before what holds them
        package = _package(module)
        held = any(_package(modules.get(above)) for above in _above(name))
        if package is None or (held and float_kind(module, package) is None):  # a layer answers for its quantizers
            continue
        memo = {id(modules[taken]): new for taken, new in replacements.items()}
        try:
            replacements[name] = copy.deepcopy(_converted(module, package, exact_zeros), memo)
        except UnsupportedError as error:
            problems.append((name or "the model itself", str(error)))
    return replacements, problems[::-1]


def _above(name: str) -> list[str]:
    """Names of the modules that hold the one called `name`."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts))] if name else []


def _converted(module: nn.Module, package: str, exact_zeros: bool) -> nn.Module:
    """Ours for a tool's module; they share parameters. Raises UnsupportedError."""
    tool, kind = _TOOLS[package], float_kind(module, package)
    if kind is None:
        raise UnsupportedError(f"{type(module).__name__} stands outside of {tool.TOOL}'s layers, and is not carried")
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise UnsupportedError("its tensors are on the meta device and hold no values")
    layer = tool.read(module, kind)
    plain = float_layer(module, kind, package, getattr(tool, "TABLES", ()))
    if "forward" in vars(plain):
        raise UnsupportedError("its forward was replaced on this object; what it computes now is not known")
    if layer is None:
        return plain
    if not exact_zeros:
        sides = {"input_quant": layer.input_quant, "output_quant": layer.output_quant}
        kept = {side: replace(q, zeros="kept") for side, q in sides.items() if isinstance(q, ToolInput)}
        layer = replace(layer, **kept)
    return quantized_layer(plain, layer)


def _tell_lower_precision(model: nn.Module) -> None:
    half = [name for name, p in model.named_parameters() if p.dtype in (torch.float16, torch.bfloat16)]
    if half:
        warnings.warn(
            f"{len(half)} parameters are in half precision, in which the tool also multiplies; this model multiplies "
            "in float32, so outputs differ by rounding (codes and scales do not)",
            stacklevel=3,
        )


def _described(name: str, layer: QuantLayer) -> ConvertedLayer:
    entry, output = describe(name, layer, "floor"), getattr(layer, "output_quant", None)
    if output is None:
        return entry
    return replace(entry, note=", ".join(filter(None, (entry.note, f"output {output.format.name}"))))


def _report(result: nn.Module, taken: set[str]) -> ConversionReport:
    report = ConversionReport()
    for name, module in result.named_modules():
        if isinstance(module, QuantLayer):
            report.converted.append(_described(name, module))
        elif name in taken:
            report.left.append(FloatLayer(name, type(module).__name__, "its quantizers are switched off", True))
        elif type(module) in QUANT_LAYERS:
            report.left.append(FloatLayer(name, type(module).__name__, "float in the tool's model", True))
    return report
