"""Live modules of microxcaling (package `mx` of microsoft/microxcaling): Linear and Conv1d to Conv3d, by `mx_specs`.

Weights are what its own function makes of them. Scales follow floor, found from a float32 logarithm. Inputs are carried
where they are rounded to even: Linear with round_mx_output "even". Its convolutions round ties away from zero whatever
is asked for, so they are carried with inputs in float. -0 that comes in becomes +0.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.inputs import ToolInput
from mxexport.frontends.live.layers import ToolLayer, rule_note
from mxexport.numbers.formats import GroupFormat, get_format
from mxexport.quant import QUANT_LAYERS, Quantizer

TOOL, PACKAGE = "microxcaling", "mx"
_FORMATS = {
    "fp8_e4m3": "mxfp8_e4m3",
    "fp8_e5m2": "mxfp8_e5m2",
    "fp6_e3m2": "mxfp6_e3m2",
    "fp6_e2m3": "mxfp6_e2m3",
    "fp4_e2m1": "mxfp4_e2m1",
    "fp4": "mxfp4_e2m1",
    "int8": "mxint8",
    "int4": "mxint4",
    "int2": "mxint2",
}
_WANTED = {
    "bfloat": (0, 32),
    "fp": (0,),
    "scale_bits": (0, 8),
    "shared_exp_method": ("max",),
    "mx_flush_fp32_subnorms": (False,),
}
_CARRIED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def owns(module: nn.Module) -> bool:
    """`mx` is a short name for a package: its modules hold `mx_specs`."""
    return hasattr(module, "mx_specs")


def read(module: nn.Module, kind: type[nn.Module]) -> ToolLayer | None:
    """What a microxcaling layer does; None where it computes in float. Raises UnsupportedError."""
    specs: Mapping = module.mx_specs
    rounded = specs["bfloat"] or specs["fp"]
    if module.mx_none or not (rounded or (kind is not nn.ReLU and (specs["w_elem_format"] or specs["a_elem_format"]))):
        return None
    for key, wanted in _WANTED.items():
        if specs[key] not in wanted:
            raise UnsupportedError(f"mx_specs[{key!r}] is {specs[key]!r}; carried is {' or '.join(map(repr, wanted))}")
    if kind not in _CARRIED:
        named = ", ".join(carried.__name__ for carried in _CARRIED)
        raise UnsupportedError(f"its {kind.__name__} has arithmetic of its own; carried are {named}")
    layer, rounding = QUANT_LAYERS[kind], specs["round_mx_output"] if kind is nn.Linear else "nearest"
    weight_format, input_format = (_format(specs, f"{side}_elem_format") for side in ("w", "a"))
    input_quant = None
    if input_format is not None:
        if rounding != "even":
            remedy = 'set round_mx_output="even"' if kind is nn.Linear else "leave a_elem_format out for convolutions"
            raise UnsupportedError(f"its inputs are rounded {rounding!r}, ties away from zero or worse; {remedy}")
        zeros = "cleared before" if input_format.is_float else "kept"
        input_quant = ToolInput(input_format, layer.input_axis, "floor", zeros=zeros)
    if weight_format is None:
        return ToolLayer(module.weight.detach(), None, input_quant, notes=rule_note("floor", TOOL))
    values = _quantized(module, specs, layer.weight_axis, rounding)
    core = Quantizer(weight_format, layer.weight_axis, "floor")
    return ToolLayer(values, core, input_quant, notes=rule_note("floor", TOOL))


def _format(specs: Mapping, key: str) -> GroupFormat | None:
    element, size = specs[key], specs["block_size"]
    if element is None:
        return None
    name = _FORMATS.get(getattr(element, "name", element))
    if name is None or not isinstance(size, int) or size < 1:
        raise UnsupportedError(
            f"mx_specs has {key} {element!r} with block_size {size!r}; carried are {', '.join(_FORMATS)} with a "
            "block_size of 1 and more"
        )
    return get_format(f"{name}_g{size}")


def _quantized(module: nn.Module, specs: Mapping, axis: int, rounding: str) -> Tensor:
    """The weight behind the tool's own function: where its modules live, it is imported."""
    package = next(base.__module__ for base in type(module).__mro__ if base.__module__.startswith(f"{PACKAGE}."))
    operators = sys.modules[f"{package.partition('.')[0]}.mx_ops"]
    with torch.no_grad():
        weight, element = module.weight.detach().clone(), specs["w_elem_format"]
        return operators.quantize_mx_op(weight, specs, elem_format=element, axes=[axis], round=rounding)
