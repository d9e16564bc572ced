"""Activations whose scales are found at run time: the rule is measured on the quantizer, and edge values check it.

There is one scale for each group, for all values along one dimension (a token, say) or for the tensor, from the largest
magnitude, or from the range together with a zero point.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mxexport.frontends.brevitas import rules
from mxexport.frontends.brevitas.quantizers import DynamicGroupQuantizer, DynamicQuantizer, Elements, MXRule, RangeRule
from mxexport.frontends.brevitas.reading import (
    FRACTIONS,
    HALF,
    MINUS_ZERO,
    Reading,
    is_power_of_two,
    read_elements,
    read_standard,
    refuse,
    refuse_half,
    rounding_of,
    saturation_message,
)

HALF_LOG2 = (
    "Brevitas finds its scales with a bfloat16 log2, which misrounds where a largest magnitude lies beside a step of "
    "the scale (within about 1% for magnitudes of 4 to 256, more beyond); such groups get the exact scale here"
)


def is_run_time(proxy: nn.Module) -> bool:
    """Whether a proxy of activations finds its scales at run time."""
    return hasattr(proxy, "group_size") or type(proxy).__name__.startswith("Dynamic")


def read_run_time(name: str, proxy: nn.Module, clipped: float | None, dtype: torch.dtype) -> Reading:
    """The quantizer of an activation of `dtype`; arguments and errors as in `activations.read_activation`.

    The rule is measured in float32, whose probes are fine enough, and checked in `dtype`.
    """
    _check_dtype(name, proxy, dtype)
    wide = _probe(name, copy.deepcopy(proxy).float() if dtype in HALF else proxy)
    if wide.grouped and rounding_of(name, proxy) != "ROUND":
        raise refuse(name, f"rounding {proxy.rounding_mode} of groupwise activations; expected ROUND")
    elements = read_elements(name, proxy, wide.first, -1 if wide.axis is None else wide.axis, wide.size)
    measured = wide.groups_of(_values_and_scales(wide.proxy, torch.float32))
    rule = _range_rule(wide, measured) if wide.has_zero_point else rules.measure_rule(name, measured, elements)
    if dtype in HALF and not isinstance(rule, MXRule):
        raise refuse_half(name, dtype, "float scales found at run time, which Brevitas rounds to it,")
    if wide.grouped:
        reading = Reading(DynamicGroupQuantizer(elements, rule))
    else:
        reading = read_standard(name, proxy, wide.first, rounding_of(name, proxy))
        reading.quantizer = DynamicQuantizer(reading.quantizer, rule, wide.axis)
        reading.tensors = {n: reading.tensors[n] for n in reading.quantizer.tensor_names}
    theirs = wide.groups_of(_values_and_scales(proxy, dtype, elements if wide.grouped else None))
    rules.check_rule(name, theirs, wide.groups_of(_ours(reading, dtype)), rule, elements, dtype)
    if isinstance(rule, MXRule):
        reading.notes += _mx_notes(rule, smallest=measured(torch.zeros(1, wide.size))[1])
    if isinstance(rule, RangeRule) and not rule.whole:
        reading.notes.append(FRACTIONS)
    if wide.grouped and not elements.element.signed_zero:
        reading.notes.append(MINUS_ZERO)
    if rules.is_one_bit_short(rule, elements):
        reading.warnings.append(saturation_message(elements, clipped, "the values seen"))
    if dtype in HALF:
        reading.warnings.append(HALF_LOG2)
    return reading


def _check_dtype(name: str, proxy: nn.Module, dtype: torch.dtype) -> None:
    if dtype == torch.float64:
        raise refuse(name, "float64 activations, and scales are float32 here; call model.float() first")
    if dtype == torch.float16:
        raise refuse_half(name, dtype, "scales found at run time, which float16 has no room for,")
    if dtype in HALF and not hasattr(proxy, "group_size"):
        raise refuse_half(name, dtype, "a scale without groups, for which QONNX's operators take float32,")


# --- probes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Probe:
    """A proxy, the quant tensor `first` it makes of ramps, and where the values lie that share a scale.

    grouped: groups of `size` along `axis`. Otherwise all values along `axis` share one, or (None) all of the tensor.
    rank: of tensors that the proxy takes.
    """

    proxy: nn.Module
    first: object
    grouped: bool
    axis: int | None
    size: int
    rank: int

    @property
    def has_zero_point(self) -> bool:
        return bool(self.first.zero_point.any())

    def groups_of(self, quantize: Callable[[Tensor], tuple[Tensor, Tensor]]) -> rules.GroupFunction:
        if self.axis is None:
            return rules.one_by_one(quantize)
        return rules.as_groups(quantize, self.axis, self.rank)


def _probe(name: str, proxy: nn.Module) -> _Probe:
    return _probe_groups(name, proxy) if hasattr(proxy, "group_size") else _probe_tensor(name, proxy)


def _probe_groups(name: str, proxy: nn.Module) -> _Probe:
    axis, size = proxy.group_dim, proxy.group_size
    rank = max(2, axis + 1 if axis >= 0 else -axis)
    shape = [1] * rank
    shape[axis], shape[0 if axis % rank else 1] = size, 3
    x = _ramp(*shape)
    q = _quantized(proxy, x)
    if q.value.shape != x.shape:
        raise refuse(
            name,
            f"Brevitas makes values of shape {tuple(q.value.shape)} of an input {tuple(x.shape)}; its zero points of "
            "groups need quantize_zero_point=False",
        )
    return _Probe(proxy, q, True, axis, size, rank)


def _probe_tensor(name: str, proxy: nn.Module) -> _Probe:
    """The lowest rank that the proxy takes says which dimension its scales leave out."""
    for rank in (2, 3, 4):
        shape = (2, 3, 4, 5)[:rank]
        with contextlib.suppress(RuntimeError):  # a view or permutation made for tensors of another rank
            q = _quantized(proxy, _ramp(*shape))
            break
    else:
        raise refuse(name, "Brevitas takes no tensor of rank 2, 3 or 4 here")
    if q.scale.numel() == 1:
        return _Probe(proxy, q, False, None, 16, rank)
    without = [tuple(1 if d == axis else n for d, n in enumerate(shape)) for axis in range(rank)]
    if tuple(q.scale.shape) not in without[1:]:
        raise refuse(
            name,
            f"a run-time scale of shape {tuple(q.scale.shape)} for a tensor {shape}; expected one for the tensor, or "
            "for all values along one dimension other than the first",
        )
    return _Probe(proxy, q, False, without.index(tuple(q.scale.shape)) - rank, 16, rank)


def _ramp(*shape: int) -> Tensor:
    return torch.linspace(-1 / 3, 1, math.prod(shape)).reshape(shape)


def _quantized(proxy: nn.Module, x: Tensor):
    return proxy.create_quant_tensor(proxy.fused_activation_quant_proxy.tensor_quant(x), x=x)


def _values_and_scales(proxy: nn.Module, dtype: torch.dtype, without_minus_zero: Elements | None = None):
    def theirs(x: Tensor) -> tuple[Tensor, Tensor]:
        q = _quantized(proxy, x.to(dtype))
        value, scale = q.value.float(), (q.scale_ if hasattr(q, "scale_") else q.scale).float()
        return rules.without_integer_minus_zero(value, without_minus_zero) if without_minus_zero else value, scale

    return theirs


def _ours(reading: Reading, dtype: torch.dtype):
    tensors = tuple(reading.tensors[n] for n in reading.quantizer.tensor_names)
    return lambda x: (reading.quantizer(x.to(dtype), *tensors).float(), torch.zeros(1))


def _range_rule(probe: _Probe, measured: rules.GroupFunction) -> RangeRule:
    zero_point = probe.first.zero_point
    smallest = float(measured(torch.zeros(1, probe.size))[1])
    return RangeRule(2.0 ** int(probe.first.bit_width) - 1, smallest, bool((zero_point == zero_point.round()).all()))


def _mx_notes(rule: MXRule, smallest: Tensor) -> list[str]:
    notes = ["scales are exact where Brevitas' float32 log2 misrounds, right beside a power of two"]
    if rule.code_min > 0 and not is_power_of_two(smallest):
        low = rule.code_min - 127 - rule.frac_bits
        notes.append(
            f"scales stop at 2**{low}, where Brevitas takes a smallest scale that is no power of two: groups with "
            f"no magnitude above 2**{low + rule.emax + rule.frac_bits + 1} (all-zero groups have equal values)"
        )
    return notes
