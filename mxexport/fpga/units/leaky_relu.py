"""Leaky ReLU: negative values times a slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Area, Parts, each
from mxexport.fpga.datapaths import dots, latencies
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.model import graph

_MOST = 39  # bits: the product with a slope of 24 stays exact in 63


@dataclass(frozen=True)
class LeakyRelu:
    operator = ops.WideLeakyRelu
    module = "mx_leaky_relu"
    clocked = True
    status = {}
    memory_kinds = ()
    vectorwise = True
    lowers = (("", "LeakyRelu"),)

    source: Wide
    slope: int
    shift: int

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        alpha = node.attributes["alpha"].value if "alpha" in node.attributes else 0.01
        mantissa, exponent = np.frexp(np.float32(alpha))
        slope, shift = int(mantissa * 2.0**24), 24 - int(exponent)  # a float32 holds 24 bits: exact
        while slope and slope % 2 == 0 and shift > 0:
            slope, shift = slope // 2, shift - 1
        if not 0 <= alpha < 1 or shift > 62:
            raise Refused(f"its slope is {alpha}; expected a number from 2**-38 up to, not including, 1, or 0")
        source = low.narrowed(low.wide(low.elements(node.inputs[0]), node), _MOST, node)

        def make(source: Wide) -> LeakyRelu:
            return cls(source, slope, max(shift, 0) if slope else 0)

        low.bind(node.outputs[0], low.add(make, [source], node, "leaky_relu", ("leaky_relu",), source.shape))
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> LeakyRelu:
        a = graph.attributes(node)
        return cls(*sources, a["slope"], a["shift"])

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        return self.source

    def attributes(self) -> dict:
        numbers = {"slope": self.slope, "shift": self.shift}
        return numbers | {"width": self.source.width, "lsb_exp": self.source.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Negative values times {self.slope} / 2**{self.shift}, rounded once."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: negative values times {self.slope} / 2**{self.shift}"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {"Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        latency = 2 + latencies.wide_mul_latency(*self._factors)
        return Timing(np.arange(self.source.vectors), self.source.beats(folding.simd) // self.source.vectors, latency)

    @property
    def _factors(self) -> tuple[int, int]:
        """Bits of a magnitude and of the slope."""
        return self.source.width + 1, max(self.slope.bit_length() + 1, 2)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        lanes, width = folding.simd, self.source.width
        if not self.slope:
            return {"unit": each(10), "kept": each(3 * lanes * width)}
        plain = self.slope & (self.slope - 1) == 0  # no product
        made = dots.wide(*self._factors, signed=False) if not plain else Area(ff=width)
        delayed = each(lanes * width)
        return {
            "unit": each(10),
            "lanes": each(lanes),
            "values": delayed,
            "products": made * lanes,
            "rounded": each(lanes * self.shift),
        }

    def bound(self, x: np.ndarray) -> np.ndarray:
        """One rounding here, perhaps one of the input before, two in float32."""
        return 2.0**self.source.lsb_exp + 2.0**-22 * np.abs(x)
