"""The product of two streams of wide integers, element by element: gates such as SwiGLU's, squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Area, Parts, each
from mxexport.fpga.datapaths import dots, latencies
from mxexport.fpga.datapaths.accumulator import dropped_bits
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.lowering.whole_numbers import are_whole
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.fpga.units.add import alike
from mxexport.model import graph
from mxexport.model.rewriting import constant
from mxexport.numbers.grids import Grid

PRODUCT_BITS = 62
"""Bits of an exact product at most."""


@dataclass(frozen=True)
class Multiply:
    operator = ops.WideMultiply
    module = "mx_multiply"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = True
    lowers = (("", "Mul"), ("", "Pow"))

    a: Wide
    b: Wide
    shift: int

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if node.op_type == "Mul" and any(constant(v) is not None for v in node.inputs):
            return False
        values = list(node.inputs)
        if node.op_type == "Pow":
            power = constant(values[1])
            if power is None or power.size != 1 or float(power.reshape(-1)[0]) != 2:
                raise Refused("it is a power that is not 2; expected squares")
            values = [values[0]] * 2
        sides = [low.wide(side, node) for side in alike(values, node, low, "multiplies")]
        if all(s.type is not None for s in sides) and sum(s.type.width for s in sides) > PRODUCT_BITS:
            sides = [low.narrowed(s, PRODUCT_BITS // 2, node) for s in sides]
        make = (lambda a, b: cls(a, b, 0)) if are_whole(node.outputs[0]) else cls.of
        made = low.add(make, sides, node, "multiply", ("product",), sides[0].shape or sides[1].shape)
        low.bind(node.outputs[0], made, node)
        return True

    @classmethod
    def of(cls, a: Wide, b: Wide) -> Multiply:
        return cls(a, b, max(dropped_bits(a.width + b.width, max(a.width, b.width)), 0))

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Multiply:
        return cls(*sources, graph.attributes(node)["shift"])

    @property
    def sources(self) -> tuple:
        return (self.a, self.b)

    @property
    def result(self) -> Wide:
        corners = [_rounded(x * y, self.shift) for x in _ends(self.a) for y in _ends(self.b)]
        grid = Grid(0, min(corners), max(corners))
        both = self.a.nonnegative and self.b.nonnegative
        return Wide(self.a.shape, grid.width, self.a.lsb_exp + self.b.lsb_exp + self.shift, both)

    def attributes(self) -> dict:
        return {"shift": self.shift, "width": self.result.width, "lsb_exp": self.result.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Product of two streams, rounded once to 2**{self.result.lsb_exp}."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: product of two streams of {list(self.a.shape)}"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.a.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {"AWidth": self.a.width, "BWidth": self.b.width, "Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.a.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        latency = 3 + latencies.wide_mul_latency(self.a.width, self.b.width)
        return Timing(np.arange(self.a.vectors), self.a.beats(folding.simd) // self.a.vectors, latency)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        lanes, made = folding.simd, dots.wide(self.a.width, self.b.width)
        if made.dsp == 1:  # whose own registers hold what is taken
            return {"unit": each(10), "slices": Area(dsp=lanes), "single": each(lanes * self.result.width)}
        return {"unit": each(10), "products": made * lanes, "values": each(lanes * self.result.width)}

    def bound(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The result is rounded once, each input perhaps once before; float32 rounds all three."""
        steps = 2.0 ** (self.a.lsb_exp - 1), 2.0 ** (self.b.lsb_exp - 1)
        own = np.abs(a) * steps[1] + np.abs(b) * steps[0] + steps[0] * steps[1]
        return own + 2.0**self.result.lsb_exp + 2.0**-22 * np.abs(a * b)


def _ends(kind: Wide) -> tuple[int, int]:
    top = 1 << (kind.width - 1)
    return (0 if kind.nonnegative else -top), top - 1


def _rounded(number: int, shift: int) -> int:
    """number / 2**shift to nearest, ties to even."""
    half = (1 << shift) >> 1
    return number if not shift else (number + half - 1 + (number >> shift & 1)) >> shift
