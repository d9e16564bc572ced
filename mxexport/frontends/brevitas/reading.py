"""What readings of weights and of activations share: elements, QONNX's own quantizers, what is told."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.brevitas.quantizers import (
    BipolarQuantizer,
    Elements,
    FloatQuantizer,
    IntQuantizer,
    Quantizer,
    TruncQuantizer,
    equal_bits,
)
from mxexport.numbers.formats import FloatElement, IntElement

_ROUNDING = {"ROUND": "ROUND", "FLOOR": "FLOOR", "CEIL": "CEIL", "ROUND_TO_ZERO": "DOWN", "NONE": "ROUND"}
HALF = (torch.float16, torch.bfloat16)
FRACTIONS = "its zero points are not whole numbers"
NEGATIVE_SCALES = "its negative scales are written as their magnitudes: with signed floats the values are equal"
MINUS_ZERO = "Brevitas' -0 has no code in this format and becomes +0"


@dataclass
class Reading:
    """One quantizer: what replaces it, its tensors, the values to write (weights), and what to tell the user."""

    quantizer: Quantizer | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: Tensor | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def parameter(self, original: nn.Parameter) -> nn.Parameter:
        """What is written for a weight or bias: `original` itself where it is not quantized."""
        return original if self.values is None else nn.Parameter(self.values, requires_grad=original.requires_grad)


def at(name: str, role: str) -> str:
    return f"{name}.{role}" if name else role


def refuse(name: str, why: str) -> UnsupportedError:
    return UnsupportedError("from_brevitas: a quantizer cannot be converted", [(name, why)])


def refuse_half(name: str, dtype: torch.dtype, what: str) -> UnsupportedError:
    return refuse(name, f"{what} in {str(dtype).removeprefix('torch.')}; call model.float() first")


def is_power_of_two(scale: Tensor) -> bool:
    return bool(((torch.frexp(scale).mantissa == 0.5) | torch.isnan(scale)).all())


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


def read_elements(name: str, proxy: nn.Module, q, axis: int, group_size: int) -> Elements:
    """The element format of a quant tensor `q` of Brevitas. Raises UnsupportedError where there is none."""
    if hasattr(q, "exponent_bias"):
        return Elements(_float_element(name, proxy, q), axis, group_size, bool(q.signed))
    bits, signed, narrow = int(q.bit_width), bool(q.signed), bool(proxy.is_narrow_range)
    if not 2 <= bits <= 8:
        raise refuse(name, f"{bits}-bit integers, groupwise or under run-time scales; expected 2 to 8 bits")
    if narrow and not signed:
        raise refuse(name, "unsigned integers with narrow_range; expected the full range")
    return Elements(IntElement(bits, signed), axis, group_size, signed, narrow)


def _largest_float(proxy: nn.Module, q) -> float:
    """Brevitas' largest finite value: all bits set, or what its special values leave."""
    # Under BREVITAS_JIT=1 modules are scripted and keep their class as a name only.
    clamp = next(m for m in proxy.modules() if "FloatClamp" in (type(m).__name__, getattr(m, "original_name", "")))
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


def read_standard(name: str, proxy: nn.Module, q, rounding: str = "ROUND") -> Reading:
    """A QONNX operator for a scale per tensor or channel."""
    tensors = {"scale": q.scale.detach().float()}
    if hasattr(q, "exponent_bias"):
        if not (q.saturating and q.signed):
            raise refuse(name, "an unsigned float quantizer, or one that does not saturate")
        tensors |= {n: getattr(q, n).detach().float() for n in FloatQuantizer.tensor_names[1:-1]}
        tensors["max_val"] = torch.tensor(_largest_float(proxy, q))
        negative = bool((tensors["scale"] < 0).any())
        tensors["scale"] = tensors["scale"].abs()
        quantizer = FloatQuantizer(q.inf_values is not None, q.nan_values is not None, rounding)
        return Reading(quantizer, tensors, notes=[NEGATIVE_SCALES] if negative else [])
    if int(q.bit_width) == 1 and q.signed:
        return Reading(BipolarQuantizer(), tensors)
    tensors |= {"zero_point": q.zero_point.detach().float(), "bit_width": q.bit_width.detach().float().reshape(())}
    return Reading(IntQuantizer(bool(q.signed), bool(proxy.is_narrow_range), rounding), tensors)


def read_truncation(name: str, proxy: nn.Module, q) -> Reading:
    """The quantizer that drops low bits of quant tensors like `q`, checked on edge values.

    Raises:
        UnsupportedError: bits that differ.
    """
    signed, bits = bool(q.signed), proxy.tensor_quant.msb_clamp_bit_width_impl().detach().float()
    drop = proxy.tensor_quant.trunc_scaling_impl(q.value, q.bit_width, bits, q.signed)
    tensors = {
        "scale": q.scale.detach().float(),
        "zero_point": q.zero_point.detach().float(),
        "drop": drop.detach().float(),
        "bit_width": bits.reshape(()),
    }
    rounding = _rounding(name, type(proxy.tensor_quant.float_to_int_impl).__name__.removesuffix("Ste"))
    reading = Reading(TruncQuantizer(IntQuantizer(signed, bool(proxy.is_narrow_range), rounding)), tensors)
    largest = 2.0 ** float(q.bit_width)
    codes = torch.cat([torch.linspace(-largest, largest, 4097), torch.arange(-600, 600) / 2])
    x = (codes.reshape(-1, *[1] * (q.value.ndim - 1)) * tensors["scale"]).contiguous()
    expected = proxy.tensor_quant(x, q.scale, q.zero_point, q.bit_width, q.signed)[0]
    same = equal_bits(expected + 0.0, reading.quantizer(x, *tensors.values()) + 0.0)
    if signed:
        reading.notes.append(MINUS_ZERO)
    if not same.all():
        raise refuse(name, f"{int((~same).sum())} of {same.numel()} probes differ from Brevitas")
    return reading


def rounding_of(name: str, proxy: nn.Module) -> str:
    """QONNX's name of a proxy's rounding mode. Raises UnsupportedError where there is none."""
    return _rounding(name, str(proxy.rounding_mode).upper().split(".")[-1])


def _rounding(name: str, mode: str) -> str:
    mode = mode.upper()
    if mode not in _ROUNDING:
        raise refuse(name, f"rounding {mode}; expected one of {', '.join(_ROUNDING)}")
    return _ROUNDING[mode]
