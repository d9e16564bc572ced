"""Activations: static scales are read, the rule of those found at run time is measured; edge values check both."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mxexport.frontends.brevitas import rules
from mxexport.frontends.brevitas.quantizers import DynamicGroupQuantizer, MXRule, equal_bits
from mxexport.frontends.brevitas.reading import (
    HALF,
    MINUS_ZERO,
    Reading,
    is_power_of_two,
    read_elements,
    read_standard,
    refuse,
    refuse_half,
    saturation_message,
)

HALF_LOG2 = (
    "Brevitas finds its scales with a bfloat16 log2, which misrounds where a largest magnitude lies beside a step of "
    "the scale (within about 1% for magnitudes of 4 to 256, more beyond); such groups get the exact scale here"
)
_ROUNDING = {"ROUND": "ROUND", "FLOOR": "FLOOR", "CEIL": "CEIL", "ROUND_TO_ZERO": "DOWN", "NONE": "ROUND"}


def read_activation(name: str, proxy: nn.Module, clipped: float | None, dtype: torch.dtype) -> Reading:
    """The quantizer of an activation of `dtype`. `clipped`: measured share of saturated values, None if not measured.

    Raises:
        UnsupportedError: a scale found at run time by a rule that has no operator, or bits that differ.
    """
    if not proxy.is_quant_enabled:
        return Reading()
    tensor_quant = proxy.fused_activation_quant_proxy.tensor_quant
    if hasattr(proxy, "group_size"):
        return _read_dynamic_groups(name, proxy, clipped, dtype)
    if type(proxy).__name__.startswith("Dynamic"):
        raise refuse(name, f"{type(proxy).__name__}: a scale found at run time, without groups; use a groupwise one")
    if dtype in HALF:
        raise refuse_half(name, dtype, "a scale without groups, for which QONNX's operators take float32,")
    q = proxy.create_quant_tensor(tensor_quant(torch.tensor(0.0)), x=None)
    reading = read_standard(name, proxy, q, _rounding(name, proxy))
    _check_static(name, reading, tensor_quant)
    return reading


def _read_dynamic_groups(name: str, proxy: nn.Module, clipped: float | None, dtype: torch.dtype) -> Reading:
    """The rule is measured in float32, whose probes are fine enough, and checked in `dtype`."""
    if dtype == torch.float64:
        raise refuse(name, "float64 activations, and scales are float32 here; call model.float() first")
    if dtype == torch.float16:
        raise refuse_half(name, dtype, "scales found at run time, which float16 has no room for,")
    if _rounding(name, proxy) != "ROUND":
        raise refuse(name, f"rounding {proxy.rounding_mode} of groupwise activations; expected ROUND")
    wide = copy.deepcopy(proxy).float() if dtype in HALF else proxy
    axis, size = proxy.group_dim, proxy.group_size
    rank = max(2, axis + 1 if axis >= 0 else -axis)
    zeros = torch.zeros([size if i == axis % rank else 1 for i in range(rank)])
    elements = read_elements(name, proxy, _quantized(name, wide, zeros), axis)
    groups = rules.as_groups(_values_and_scales(name, wide, torch.float32), axis)
    rule = rules.measure_rule(name, groups, elements)
    if dtype in HALF and not isinstance(rule, MXRule):
        raise refuse_half(name, dtype, "float scales found at run time, which Brevitas rounds to it,")
    quantizer = DynamicGroupQuantizer(elements, rule)
    theirs = rules.as_groups(_values_and_scales(name, proxy, dtype), axis)
    ours = rules.as_groups(lambda x: (quantizer(x.to(dtype)).float(), quantizer.scale(x.to(dtype))), axis)
    rules.check_rule(name, theirs, ours, rule, elements, dtype)
    reading = Reading(quantizer)
    if isinstance(rule, MXRule):
        reading.notes += _mx_notes(rule, smallest=groups(torch.zeros(1, size))[1])
    if not elements.element.signed_zero:
        reading.notes.append(MINUS_ZERO)
    if rules.is_one_bit_short(rule, elements):
        reading.warnings.append(saturation_message(elements, clipped, "the values seen"))
    if dtype in HALF:
        reading.warnings.append(HALF_LOG2)
    return reading


def _quantized(name: str, proxy: nn.Module, x: Tensor):
    q = proxy.create_quant_tensor(proxy.fused_activation_quant_proxy.tensor_quant(x), x=x)
    if q.zero_point_.any():
        raise refuse(name, "a zero point found at run time; expected a symmetric quantizer")
    return q


def _values_and_scales(name: str, proxy: nn.Module, dtype: torch.dtype):
    def theirs(x: Tensor) -> tuple[Tensor, Tensor]:
        q = _quantized(name, proxy, x.to(dtype))
        return q.value.float(), q.scale_.float()

    return theirs


def _mx_notes(rule: MXRule, smallest: Tensor) -> list[str]:
    notes = ["scales are exact where Brevitas' float32 log2 misrounds, right beside a power of two"]
    if rule.code_min > 0 and not is_power_of_two(smallest):
        low = rule.code_min - 127 - rule.frac_bits
        notes.append(
            f"scales stop at 2**{low}, where Brevitas takes a smallest scale that is no power of two: groups with "
            f"no magnitude above 2**{low + rule.emax + rule.frac_bits + 1} (all-zero groups have equal values)"
        )
    return notes


def _check_static(name: str, reading: Reading, tensor_quant) -> None:
    values = rules.edge_groups(8).flatten()
    shape = reading.tensors["scale"].shape
    x = values.reshape(-1, *[1] * (len(shape) - 1)).expand(-1, *shape[1:]).contiguous() if len(shape) else values
    ordered = tuple(reading.tensors[n] for n in reading.quantizer.tensor_names)
    expected, actual = tensor_quant(x)[0], reading.quantizer(x, *ordered)
    same = equal_bits(expected, actual)
    if not same.all():
        where = tuple(int(i) for i in torch.argwhere(~same)[0])
        raise refuse(
            name,
            f"{float(x[where])!r} gives {float(expected[where])!r} in Brevitas and {float(actual[where])!r} here "
            f"({int((~same).sum())} of {same.numel()} probes)",
        )


def _rounding(name: str, proxy: nn.Module) -> str:
    mode = str(proxy.rounding_mode).upper().split(".")[-1]
    if mode not in _ROUNDING:
        raise refuse(name, f"rounding {mode}; expected one of {', '.join(_ROUNDING)}")
    return _ROUNDING[mode]
