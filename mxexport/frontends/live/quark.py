"""Live modules of AMD Quark 0.13: Linear, Conv1d to Conv3d (as far as Quark has them), transposed ones, Embedding.

Weights are those that the layer's own forward multiplies with, frozen or not. FP4, FP6 and FP8 follow `even`, floor or
ceil; MX INT8 adds 0x4000, which is none of the rules (its table gives int8 eight bits of mantissa). FP4 and FP6 have +0
only. Outputs of layers are quantized along any axis; embeddings never quantize theirs, whatever their config says.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.checkpoints.quark import FORMATS
from mxexport.frontends.inputs import ToolInput
from mxexport.frontends.live.layers import ToolLayer, rule_note
from mxexport.numbers.formats import GroupFormat, ScaleRule, get_format
from mxexport.quant import QUANT_LAYERS, Quantizer

TOOL, PACKAGE = "Quark", "quark"
_INT8_RULES = {"even": 0x4000}
_RULES = ("even", "floor", "ceil", *_INT8_RULES.values())
_KINDS = {f"{kind}FakeQuantize" for kind in ("StaticScaled", "DynamicScaled", "FrozenScaled", "NonScaled")}
_READ = ("dtype", "mx_element_dtype", "qscheme", "group_size", "ch_axis", "scale_format", "scale_calculation_mode",
         "is_scale_quant")  # fmt: skip


def read(module: nn.Module, kind: type[nn.Module]) -> ToolLayer | None:
    """What the quantizers of a Quark layer do; None where it has none. Raises UnsupportedError."""
    held = {what: getattr(module, f"_{what}_quantizer", None) for what in ("weight", "input", "output", "bias")}
    if getattr(module, "_weight_quantizer_inv", None) is not None:
        raise UnsupportedError("its weight came quantized by another tool; load it dequantized")
    if type(module).__name__ == "QLoRaQuantLinear" and module.active_adapters and not module.merged_weight:
        raise UnsupportedError("its adapters (LoRA) are not merged; call merge() on the layer first")
    if kind is nn.Embedding:  # its forward reads the table, and calls no other quantizer
        held["input"] = held["output"] = None
    if not getattr(held["output"], "is_fake_quant_enabled", True):
        held["output"] = None
    if held["bias"] is not None and getattr(held["bias"], "is_fake_quant_enabled", True):
        raise UnsupportedError("its bias is quantized; leave biases out of the config")
    if all(held[what] is None for what in ("weight", "input", "output")):
        return None
    if (layer := QUANT_LAYERS.get(kind)) is None:
        raise UnsupportedError(f"{kind.__name__} has no quantized form; leave it out of the config")
    weight_quant, scale, notes = None, None, []
    if held["weight"] is not None:
        fmt, rule = _format(held["weight"], "weight", layer.weight_axis, module.weight.ndim)
        weight_quant = Quantizer(fmt, layer.weight_axis, rule)
        scale = _kept_scale(held["weight"], module.weight, fmt)
    input_quant = output_quant = None
    if held["input"] is not None:
        rank = None if kind is nn.Linear else module.weight.ndim
        input_quant = _activation(*_format(held["input"], "input", layer.input_axis, rank), layer.input_axis)
    if held["output"] is not None:
        axis = getattr(getattr(held["output"], "quant_spec", None), "ch_axis", -1)
        output_quant = _activation(*_format(held["output"], "output", axis, None), axis)
    rules = dict.fromkeys(quantizer.scale_rule for quantizer in (input_quant, output_quant) if quantizer is not None)
    notes = [note for rule in rules for note in rule_note(rule, TOOL)]
    return ToolLayer(_values(module), weight_quant, input_quant, scale, notes, output_quant)


def _activation(fmt: GroupFormat, rule: ScaleRule, axis: int) -> ToolInput:
    zeros = "kept" if "mxfp8" in fmt.name or not fmt.is_float else "cleared after"
    return ToolInput(fmt, axis, rule, zeros=zeros)


def _values(module: nn.Module) -> Tensor:
    """The weight as the layer's forward multiplies with it. Raises UnsupportedError."""
    quantizer = module._weight_quantizer
    if isinstance(module, nn.Embedding) or quantizer is None or quantizer.frozen_params:  # tables hold their values
        return module.weight.detach()
    quantizer = copy.deepcopy(quantizer)  # it observes what passes
    try:
        with torch.no_grad():
            return quantizer(module.weight.detach())
    except Exception as error:  # its kernels fail in their own ways
        raise UnsupportedError(f"Quark cannot quantize its weight here: {str(error).partition(chr(10))[0]}") from error


def _format(quantizer: nn.Module, what: str, axis: int, rank: int | None) -> tuple[GroupFormat, ScaleRule]:
    """Format and rule of one quantizer, whose groups have to run along `axis`. `rank`: of its tensors; None where they
    may have any, and axes count from the end. Raises UnsupportedError where that is not carried.
    """
    if not getattr(quantizer, "is_fake_quant_enabled", True):
        raise UnsupportedError(f"fake quantization of its {what} is switched off; call enable_fake_quant() first")
    spec = getattr(quantizer, "quant_spec", None)
    found = {name: _name(getattr(spec, name, None)) for name in _READ}
    mode = found["scale_calculation_mode"] or "even"
    name = FORMATS.get(found["dtype"])
    if found["dtype"] == "mx" and found["mx_element_dtype"] == "int8":
        name, mode = "mxint8", _INT8_RULES.get(mode, mode)
    elif (found["qscheme"], found["scale_format"], found["is_scale_quant"]) != ("per_group", "e8m0", False):
        name = None
    size = found["group_size"]
    if name is None or mode not in _RULES or not isinstance(size, int) or type(quantizer).__name__ not in _KINDS:
        told = ", ".join(f"{key} {value!r}" for key, value in found.items() if value is not None)
        raise UnsupportedError(
            f"its {what} has a {type(quantizer).__name__} with {told or 'no config'}; carried are "
            f"{', '.join(FORMATS)} per group with scales of e8m0, and mx of int8, under even, floor or ceil"
        )
    if found["ch_axis"] != axis and (rank is None or found["ch_axis"] % rank != axis % rank):
        raise UnsupportedError(
            f"groups of its {what} run along axis {found['ch_axis']}, which its products do not sum over; set ch_axis="
            f"{axis if rank is None else axis % rank} for such layers"
        )
    return get_format(f"{name}_g{size}"), mode


def _kept_scale(quantizer: nn.Module, weight: Tensor, fmt: GroupFormat) -> Tensor | None:
    """The scale [O, n] of a frozen weight [O, K]; that of convolutions lies in another order, and is found instead."""
    scale = getattr(quantizer, "scale", None)
    expected = (weight.shape[0], -(-weight.shape[1] // fmt.group_size))
    if scale is None or weight.ndim != 2 or tuple(scale.shape) != expected or not quantizer.frozen_params:
        return None
    return scale.detach().float().clone()


def _name(value: object) -> object:
    """The name of a member of Quark's enums; others as they are."""
    return getattr(value, "value", value)
