"""Hard-swish: x * relu6(x + 3) / 6."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each, total
from mxexport.fpga.datapaths import dots, latencies
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.model import graph
from mxexport.numbers.fixedpoint import MAX_WIDTH

_LEAST, _MOST = 16, 20
"""Fraction bits: enough that rounding stays far below the next quantizer's, few enough for small products."""


@dataclass(frozen=True)
class HardSwish:
    operator = ops.WideHardSwish
    module = "mx_hard_swish"
    clocked = True
    status = {}
    memory_kinds = ()
    vectorwise = True
    lowers = (("", "HardSwish"),)

    source: Wide

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        source = low.wide(low.elements(node.inputs[0]), node)
        if source.type is not None and (drop := -_MOST - source.type.lsb_exp) > 0:
            source = low.narrowed(source, source.type.width + 1 - drop, node)

        def make(source: Wide) -> HardSwish:
            made = cls(source)
            if source.lsb_exp > 0 or made.result.width > MAX_WIDTH:
                raise Refused(f"its input has {source.width} bits of 2**{source.lsb_exp}; quantize before it")
            return made

        low.bind(node.outputs[0], low.add(make, [source], node, "hard_swish", ("hard_swish",), source.shape))
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> HardSwish:
        graph.attributes(node)
        return cls(*sources)

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def fraction(self) -> int:
        return max(-self.source.lsb_exp, _LEAST)

    @property
    def shift(self) -> int:
        return self.fraction + self.source.lsb_exp

    @property
    def result(self) -> Wide:
        return Wide(self.source.shape, self.source.width + self.shift, -self.fraction)

    def attributes(self) -> dict:
        numbers = {"shift": self.shift, "fraction": self.fraction}
        return numbers | {"width": self.result.width, "lsb_exp": self.result.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return "x * relu6(x + 3) / 6, rounded once."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: x * relu6(x + 3) / 6 with {self.fraction} fraction bits"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {"Width": self.source.width, "Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        latency = 3 + sum(latencies.wide_mul_latency(*factors) for factors in self._factors)
        return Timing(np.arange(self.source.vectors), self.source.beats(folding.simd) // self.source.vectors, latency)

    @property
    def _factors(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Bits of the factors of its two products: v and v + 3, and a third of their product."""
        return (self.fraction + 4,) * 2, (self.fraction + 6, self.fraction + 8)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        lanes, first = folding.simd, self._factors[0][0]
        made = total(dots.wide(*factors, signed=False) for factors in self._factors)
        values = {"values": each(lanes * self.result.width), "bounded": each(lanes * self.source.width)}
        return values | {"unit": each(10), "products": made * lanes, "near": each(lanes * first)}

    def bound(self, x: np.ndarray) -> np.ndarray:
        """One rounding here, perhaps one of the input before (the slope is at most 1.5), a few in float32."""
        return 2.0**self.result.lsb_exp + 2.0**self.source.lsb_exp + 2.0**-20 * np.abs(x)
