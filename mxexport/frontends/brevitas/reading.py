"""Brevitas quantizers -> our quantizers with the scales Brevitas holds: read, never recomputed, checked bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.formats import FloatElement, IntElement
from mxexport.frontends.brevitas import rules
from mxexport.frontends.brevitas.quantizers import (
    BipolarQuantizer,
    DynamicGroupQuantizer,
    Elements,
    FloatQuantizer,
    GroupQuantizer,
    IntQuantizer,
    MXRule,
    Quantizer,
    equal_bits,
)
from mxexport.groups import contracted_shape

_ROUNDING = {"ROUND": "ROUND", "FLOOR": "FLOOR", "CEIL": "CEIL", "ROUND_TO_ZERO": "DOWN", "NONE": "ROUND"}
MINUS_ZERO = "Brevitas' -0 has no code in this format and becomes +0"


@dataclass
class Reading:
    """One quantizer: what replaces it, its tensors, the values to write (weights), and what to tell the user."""

    quantizer: Quantizer | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: Tensor | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def refuse(name: str, why: str) -> UnsupportedError:
    return UnsupportedError("from_brevitas: a quantizer cannot be converted", [(name, why)])


# --- weights and biases ---------------------------------------------------------------------------------------


def read_parameter(name: str, proxy: nn.Module, original: Tensor, quantized) -> Reading:
    """The quantizer of a weight or bias, from the quant tensor Brevitas made of it.

    Raises:
        UnsupportedError: a format without an operator, or values that ours cannot reproduce bit for bit.
    """
    if isinstance(quantized, Tensor) and not hasattr(quantized, "signed_t"):  # not quantized
        return Reading()
    if hasattr(quantized, "value_"):
        reading = _read_groups(name, proxy, original, quantized)
    else:
        reading = _read_standard(name, proxy, quantized)
    reading.quantizer.eval()
    _choose_values(name, reading, original.detach(), quantized.value.detach())
    return reading


def _choose_values(name: str, reading: Reading, original: Tensor, target: Tensor) -> None:
    """The float weight where our operator makes the same of it as Brevitas did, else the dequantized one."""
    if isinstance(reading.quantizer, GroupQuantizer):
        target = rules.without_integer_minus_zero(target, reading.quantizer.elements)
    ordered = tuple(reading.tensors[n] for n in reading.quantizer.tensor_names)
    candidates = [(original, target), (target, target)]
    if not isinstance(reading.quantizer, FloatQuantizer):
        candidates.append((target + 0.0, target + 0.0))
    for values, wanted in candidates:
        same = equal_bits(reading.quantizer(values, *ordered), wanted)
        if same.all():
            break
    else:
        where = tuple(int(i) for i in torch.argwhere(~same)[0])
        raise refuse(
            name,
            f"value {float(wanted[where])!r} at {where} is not a fixed point of "
            f"{type(reading.quantizer).__name__}; {int((~same).sum())} of {wanted.numel()} differ",
        )
    reading.values = values.clone()
    if values is not original:
        reading.notes.append("written dequantized: Brevitas does not just round it to nearest under its final scale")
    if not equal_bits(wanted, target).all():
        reading.notes.append(MINUS_ZERO)


def _read_groups(name: str, proxy: nn.Module, original: Tensor, q) -> Reading:
    axis = q.group_dim % original.ndim
    elements = _elements(name, proxy, q, axis)
    reading = Reading()
    scale = _contracted(q.scale_, original, axis, q.group_size)
    zero_point = _contracted(q.zero_point_, original, axis, q.group_size) if q.zero_point_.any() else None
    zero_groups = ~(_grouped(q, original).ne(0).any(axis + 1))
    scale = _tidy_scales(reading, scale, zero_groups, elements)
    fmt = elements.format(_is_power_of_two(scale))
    reading.quantizer = GroupQuantizer(elements, fmt, zero_point is not None)
    reading.tensors = {"scale": scale}
    if zero_point is not None:
        reading.tensors["zero_point"] = zero_point
        if (zero_point != zero_point.round()).any():
            reading.notes.append("its zero points are not whole numbers")
    if fmt.is_mx and not fmt.is_float:
        _warn_of_saturation(reading, original, scale, elements)
    if not elements.element.signed_zero and (q.value.eq(0) & q.value.signbit()).any():
        reading.notes.append(MINUS_ZERO)
    return reading


def _grouped(q, original: Tensor) -> Tensor:
    """Dequantized values (..., n, G, ...), whatever shape Brevitas keeps them in."""
    axis = q.group_dim % original.ndim
    padding = -original.shape[axis] % q.group_size
    padded = nn.functional.pad(q.value, [0, 0] * (original.ndim - 1 - axis) + [0, padding])
    return padded.unflatten(axis, (-1, q.group_size))


def _contracted(tensor: Tensor, original: Tensor, axis: int, group_size: int) -> Tensor:
    tensor = tensor.detach().float()
    if tensor.ndim == original.ndim + 1:
        tensor = tensor.squeeze(axis + 1)
    return tensor.broadcast_to(contracted_shape(tuple(original.shape), axis, group_size)).clone()


def _is_power_of_two(scale: Tensor) -> bool:
    return bool(((torch.frexp(scale).mantissa == 0.5) | torch.isnan(scale)).all())


def _tidy_scales(reading: Reading, scale: Tensor, zero_groups: Tensor, elements: Elements) -> Tensor:
    """Scales as E8M0 wants them, where that changes no value: NaN for Inf, the lowest code for a group of zeros."""
    scale = torch.where(torch.isinf(scale), torch.nan, scale)
    odd = (torch.frexp(scale).mantissa != 0.5) & ~torch.isnan(scale)
    if not odd.any() or not elements.format(True).is_mx:
        return scale
    if not (odd & ~zero_groups).any():
        found = float(scale[odd][0])
        reading.warnings.append(
            f"{int(odd.sum())} groups of zeros have the scale {found:.3g} in Brevitas, which is no power of two; "
            "they get scale code 0 (their values stay 0)"
        )
        lowest = torch.ldexp(torch.tensor(1.0), torch.tensor(-127 - elements.format(True).step_frac_bits))
        return torch.where(odd, lowest, scale)
    if (~odd).float().mean() > 0.5:
        reading.notes.append("the scales of its tiniest groups are no powers of two; all are written as float32")
    return scale


def _warn_of_saturation(reading: Reading, original: Tensor, scale: Tensor, elements: Elements) -> None:
    step = scale.repeat_interleave(elements.group_size, elements.axis).narrow(
        elements.axis, 0, original.shape[elements.axis]
    )
    clipped = saturated_fraction(original / step, elements)
    amax = (original / step).abs()
    if clipped > 0 and amax[torch.isfinite(amax)].max() >= 1.5 * elements.code_limits[1]:
        reading.warnings.append(saturation_message(elements, clipped, "its values"))


def saturated_fraction(scaled: Tensor, elements: Elements) -> float:
    low, high = elements.code_limits
    rounded = torch.round(scaled)
    return float(((rounded > high) | (rounded < low)).float().mean())


def saturation_message(elements: Elements, clipped: float | None, what: str) -> str:
    measured = f"{100 * clipped:.3g}% of {what} saturate" if clipped is not None else f"{what} saturate (not measured)"
    return (
        f"Brevitas' MXInt{elements.element.bits} scale is one bit below that of OCP MXINT{elements.element.bits}: "
        f"{measured}; exported as trained"
    )


# --- elements -------------------------------------------------------------------------------------------------


def _elements(name: str, proxy: nn.Module, q, axis: int) -> Elements:
    if hasattr(q, "exponent_bias"):
        return Elements(_float_element(name, proxy, q), axis, q.group_size, bool(q.signed))
    bits, signed, narrow = int(q.bit_width), bool(q.signed), bool(proxy.is_narrow_range)
    if not 2 <= bits <= 8:
        raise refuse(name, f"{bits}-bit groupwise integers; expected 2 to 8 bits")
    if narrow and not signed:
        raise refuse(name, "unsigned integers with narrow_range; expected the full range")
    return Elements(IntElement(bits, signed), axis, q.group_size, signed, narrow)


def _largest_float(proxy: nn.Module, q) -> float:
    """Brevitas' largest finite value: all bits set, or what its special values leave."""
    clamp = next(m for m in proxy.modules() if type(m).__name__ == "FloatClamp")
    exponent, mantissa = int(q.exponent_bit_width), int(q.mantissa_bit_width)
    all_bits = (2 - 2.0**-mantissa) * 2.0 ** (2**exponent - 1 - int(q.exponent_bias))
    return all_bits if clamp.max_available_float is None else min(all_bits, float(clamp.max_available_float()))


def _float_element(name: str, proxy: nn.Module, q) -> FloatElement:
    if not q.saturating:
        raise refuse(name, "a float quantizer that does not saturate")
    exponent, mantissa, bias = int(q.exponent_bit_width), int(q.mantissa_bit_width), int(q.exponent_bias)
    largest = _largest_float(proxy, q)
    for specials in ("none", "nan", "ieee", "fnuz"):
        element = FloatElement(exponent, mantissa, specials)
        if element.bits <= 8 and (element.bias, element.max_val) == (bias, largest):
            return element
    raise refuse(name, f"float e{exponent}m{mantissa} with bias {bias} and largest value {largest}: no such format")


# --- without groups -------------------------------------------------------------------------------------------


def _rounding(name: str, proxy: nn.Module) -> str:
    mode = str(proxy.rounding_mode).upper().split(".")[-1]
    if mode not in _ROUNDING:
        raise refuse(name, f"rounding {mode}; expected one of {', '.join(_ROUNDING)}")
    return _ROUNDING[mode]


def _read_standard(name: str, proxy: nn.Module, q, rounding: str = "ROUND") -> Reading:
    """A QONNX operator for a scale per tensor or channel."""
    tensors = {"scale": q.scale.detach().float()}
    if hasattr(q, "exponent_bias"):
        if not (q.saturating and q.signed):
            raise refuse(name, "an unsigned float quantizer, or one that does not saturate")
        tensors |= {n: getattr(q, n).detach().float() for n in FloatQuantizer.tensor_names[1:-1]}
        tensors["max_val"] = torch.tensor(_largest_float(proxy, q))
        return Reading(FloatQuantizer(q.inf_values is not None, q.nan_values is not None, rounding), tensors)
    if int(q.bit_width) == 1 and q.signed:
        return Reading(BipolarQuantizer(), tensors)
    tensors |= {"zero_point": q.zero_point.detach().float(), "bit_width": q.bit_width.detach().float().reshape(())}
    return Reading(IntQuantizer(bool(q.signed), bool(proxy.is_narrow_range), rounding), tensors)


# --- activations ----------------------------------------------------------------------------------------------


def read_activation(name: str, proxy: nn.Module, clipped: float | None) -> Reading:
    """The quantizer of an activation. `clipped`: measured share of saturated values, None if not measured.

    Raises:
        UnsupportedError: a scale found at run time by a rule that has no operator, or bits that differ.
    """
    if not proxy.is_quant_enabled:
        return Reading()
    tensor_quant = proxy.fused_activation_quant_proxy.tensor_quant
    if hasattr(proxy, "group_size"):
        return _read_dynamic_groups(name, proxy, tensor_quant, clipped)
    if type(proxy).__name__.startswith("Dynamic"):
        raise refuse(name, f"{type(proxy).__name__}: a scale found at run time, without groups; use a groupwise one")
    q = proxy.create_quant_tensor(tensor_quant(torch.tensor(0.0)), x=None)
    reading = _read_standard(name, proxy, q, _rounding(name, proxy))
    _check_static(name, reading, tensor_quant)
    return reading


def _read_dynamic_groups(name: str, proxy: nn.Module, tensor_quant, clipped: float | None) -> Reading:
    def theirs(x: Tensor) -> tuple[Tensor, Tensor]:
        q = proxy.create_quant_tensor(tensor_quant(x), x=x)
        if q.zero_point_.any():
            raise refuse(name, "a zero point found at run time; expected a symmetric quantizer")
        return q.value, q.scale_

    if _rounding(name, proxy) != "ROUND":
        raise refuse(name, f"rounding {proxy.rounding_mode} of groupwise activations; expected ROUND")
    axis, size = proxy.group_dim, proxy.group_size
    rank = max(2, axis + 1 if axis >= 0 else -axis)
    zeros = torch.zeros([size if i == axis % rank else 1 for i in range(rank)])
    elements = _elements(name, proxy, proxy.create_quant_tensor(tensor_quant(zeros), x=zeros), axis)
    groups = rules.as_groups(theirs, axis)
    rule = rules.measure_rule(name, groups, elements)
    quantizer = DynamicGroupQuantizer(elements, rule)
    rules.check_rule(name, groups, rules.as_groups(lambda x: (quantizer(x), quantizer.scale(x)), axis), rule, elements)
    reading = Reading(quantizer)
    if isinstance(rule, MXRule):
        reading.notes.append("scales are exact where Brevitas' float32 log2 misrounds, right beside a power of two")
        smallest = groups(torch.zeros(1, size))[1]
        if rule.code_min > 0 and not _is_power_of_two(smallest):
            low = rule.code_min - 127 - rule.frac_bits
            reading.notes.append(
                f"scales stop at 2**{low}, where Brevitas takes a smallest scale that is no power of two: groups with "
                f"no magnitude above 2**{low + rule.emax + rule.frac_bits + 1} (all-zero groups have equal values)"
            )
    if not elements.element.signed_zero:
        reading.notes.append(MINUS_ZERO)
    if rules.is_one_bit_short(rule, elements):
        reading.warnings.append(saturation_message(elements, clipped, "the values seen"))
    return reading


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
