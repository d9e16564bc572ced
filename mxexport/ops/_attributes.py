"""Attributes of operators: their kinds, their ranges, and those that several operators share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real


@dataclass(frozen=True)
class Attribute:
    """`kind` is `i` (int), `f` (float) or `ints`, as qonnx names them. Every attribute is written on every node.

    `low` and `high` bound each number; what lies outside has no meaning. `rtl`: the SystemVerilog parameter that takes
    the number, on operators that are hardware units; several for the first of several numbers.
    """

    kind: str
    meaning: str
    low: float = -math.inf
    high: float = math.inf
    rtl: str = ""

    def called(self, rtl: str) -> Attribute:
        """The same attribute, read by hardware under that name."""
        return replace(self, rtl=rtl)

    def range(self) -> str:
        """The bounds in words."""
        if self.high == math.inf:
            return "any" if self.low == -math.inf else f"at least {self.low:g}"
        if self.low == -math.inf:
            return f"at most {self.high:.10g}"
        return f"{self.low:.9g} to {self.high:.9g}"

    def allows(self, value) -> bool:
        wanted = Real if self.kind == "f" else Integral
        numbers = value if self.kind == "ints" and isinstance(value, Sequence) else [value]
        return all(isinstance(number, wanted) and self.low <= number <= self.high for number in numbers)


AXIS = Attribute("i", "axis the groups run along; negative ones count from the back")
GROUP_SIZE = Attribute("i", "elements per group; the last group may be short and counts as zero-padded", high=2**31 - 1)
SHAPE = Attribute("ints", "shape of Y", 0)
ROUND_BIAS = Attribute("i", "the scale rule: 0 floor, 0x7FFFFF ceil, others round to the element", 0, 0x7FFFFF)
FRAC_BITS = Attribute("i", "fraction bits of an integer element (the scale is its step), else 0", 0, 22)
EMAX = Attribute("i", "exponent of the element format's largest normal number", -126, 127)
CODE_MIN = Attribute("i", "lowest E8M0 code", 0, 254)
CODE_MAX = Attribute("i", "highest E8M0 code", 0, 254)
WIDTH = Attribute("i", "bits of one wide integer, sign included", 1, 64)
LSB_EXP = Attribute("i", "exponent of the wide integer's least significant bit", -1000, 1000)
KERNEL_SHAPE = Attribute("ints", "height and width of a window", 1, rtl="KernelH KernelW")
STRIDES = Attribute("ints", "pixels from one window to the next, down and across", 1, rtl="StrideH StrideW")
PADS = Attribute(
    "ints", "pixels outside the frame that windows reach: top, left, bottom, right", 0, rtl="PadTop PadLeft"
)
DILATIONS = Attribute("ints", "pixels from one tap to the next, down and across", 1, rtl="DilationH DilationW")
POSITIVE = 2.0**-149
LARGEST = (2 - 2.0**-23) * 2.0**127
