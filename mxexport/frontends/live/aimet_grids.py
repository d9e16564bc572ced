"""What AIMET's quantizers round to, read from the quantizer alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.numbers.formats import Element, FloatElement, GroupFormat, IntElement, find_format

_AFFINE = ("QuantizeDequantize", "GroupedBlockQuantizeDequantize")
_POWERS_OF_TWO = "_MXFP4QuantizeDequantize"
_FLOATS = ("FloatQuantizeDequantize", "QuantizeDequantize", _POWERS_OF_TWO)
_SPECIALS = {(4, 3, True, False): "nan", (4, 3, True, True): "fnuz", (5, 2, False, False): "ieee",
             (5, 2, True, True): "fnuz", (2, 1, True, False): "none"}  # fmt: skip
"""(exponent bits, mantissa bits, finite, unsigned zero) -> special values of the minifloat."""


@dataclass(frozen=True)
class Grid:
    """What one of its quantizers rounds to: codes of an element times scales, float32 in its own shape.

    `zero_point`: of integers, shaped like `scale`; None for minifloats. Values are (code - zero_point) * scale with
    unsigned codes. `divides`: by the scale, as the operators do.
    """

    element: Element
    scale: Tensor
    zero_point: Tensor | None
    block_size: tuple[int, ...] | None
    powers_of_two: bool = False

    @property
    def divides(self) -> bool:
        return self.zero_point is None or self.block_size is not None

    def format(self, size: int) -> GroupFormat:
        return find_format(self.element, size, "e8m0" if self.powers_of_two else "float32")


def read_grid(quantizer: nn.Module, what: str) -> Grid:
    """What one of AIMET's quantizers rounds to. Raises UnsupportedError."""
    name, home = type(quantizer).__name__, type(quantizer).__module__
    floats = ".float." in home
    if name not in (_FLOATS if floats else _AFFINE):
        raise UnsupportedError(f"its {what} has a {name}; carried are {', '.join(dict.fromkeys(_AFFINE + _FLOATS))}")
    scale = quantizer.get_scale()
    if scale is None:
        raise UnsupportedError(f"its {what} is quantized and was never calibrated; run compute_encodings() first")
    scale = scale.detach().float()
    block_size = tuple(int(size) for size in quantizer.block_size) if quantizer.block_size else None
    if floats:
        return Grid(_float_element(quantizer, what), scale, None, block_size, name == _POWERS_OF_TWO)
    low, high = int(quantizer.qmin), int(quantizer.qmax)
    if quantizer.zero_point_shift:
        raise UnsupportedError(f"its {what} has zero_point_shift {quantizer.zero_point_shift}; carried is 0")
    bits, zero = (high - low).bit_length(), -(quantizer.get_offset().detach().float() + low)
    strict = high - low == 2**bits - 2
    if not 2 <= bits <= 8 or (high - low != 2**bits - 1 and not (strict and (zero == high - low >> 1).all())):
        raise UnsupportedError(
            f"its {what} is quantized to integers of {low} to {high}; carried are 2 to 8 bits, all of their codes or "
            "as many below 0 as above"
        )
    return Grid(IntElement(bits, signed=strict), scale, zero.expand(scale.shape), block_size)


def _float_element(quantizer: nn.Module, what: str) -> FloatElement:
    found = tuple(quantizer._finfo)
    if found not in _SPECIALS:
        raise UnsupportedError(
            f"its {what} is quantized to floats of (exponent bits, mantissa bits, finite, unsigned zero) {found}; "
            f"carried are {', '.join(map(str, _SPECIALS))}"
        )
    exponent, mantissa, *_ = found
    return FloatElement(exponent, mantissa, _SPECIALS[found])
