"""Weights and biases: scales read from the quant tensor Brevitas made, values checked bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mxexport.frontends.brevitas import rules
from mxexport.frontends.brevitas.quantizers import Elements, FloatQuantizer, GroupQuantizer, equal_bits
from mxexport.frontends.brevitas.reading import (
    FRACTIONS,
    HALF,
    MINUS_ZERO,
    NEGATIVE_SCALES,
    Reading,
    is_power_of_two,
    read_elements,
    read_standard,
    refuse,
    refuse_half,
    saturated_fraction,
    saturation_message,
)
from mxexport.numbers.formats import FloatElement
from mxexport.numbers.groups import contracted_shape


def read_parameter(name: str, proxy: nn.Module, original: Tensor, quantized) -> Reading:
    """The quantizer of a weight or bias, from the quant tensor Brevitas made of it.

    Raises:
        UnsupportedError: a format without an operator, or values that ours cannot reproduce bit for bit.
    """
    if not proxy.is_quant_enabled:
        return Reading()
    if isinstance(quantized, Tensor):
        raise refuse(name, f"{type(proxy).__name__} gives a plain tensor; expected a quant tensor with its scale")
    if hasattr(quantized, "value_"):
        reading = _read_groups(name, proxy, original, quantized)
    elif original.dtype in HALF:
        raise refuse_half(name, original.dtype, "a scale without groups, for which QONNX's operators take float32,")
    else:
        reading = read_standard(name, proxy, quantized)
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
    elements = read_elements(name, proxy, q, axis, q.group_size)
    reading = Reading()
    scale = _contracted(q.scale_, original, axis, q.group_size)
    if isinstance(elements.element, FloatElement) and (scale < 0).any():
        scale = scale.abs()
        reading.notes.append(NEGATIVE_SCALES)
    zero_point = _contracted(q.zero_point_, original, axis, q.group_size) if q.zero_point_.any() else None
    zero_groups = ~(_grouped(q, original).ne(0).any(axis + 1))
    scale = _tidy_scales(reading, scale, zero_groups, elements)
    fmt = elements.format(is_power_of_two(scale))
    reading.quantizer = GroupQuantizer(elements, fmt, zero_point is not None)
    reading.tensors = {"scale": scale}
    if zero_point is not None:
        reading.tensors["zero_point"] = zero_point
        if (zero_point != zero_point.round()).any():
            reading.notes.append(FRACTIONS)
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
