"""The sum or difference of two streams of wide integers: residual connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.errors import UnsupportedError
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.lowering.broadcast import spread
from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.streams.views import View, size_of
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.fpga.units.affine import Affine
from mxexport.model.constants import constant_array
from mxexport.numbers.fixedpoint import MAX_WIDTH


@dataclass(frozen=True)
class Add:
    operator = ops.WideAdd
    module = "mx_add"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = True
    lowers = (("", "Add"), ("", "Sub"))

    a: Wide
    b: Wide

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if any(not low.carries(v) and constant_array(v) is not None for v in node.inputs):
            return low.constant_behind_a_refusal(node)
        sides = [low.wide(side, node) for side in alike(node.inputs, node, low, "adds")]
        if node.op_type == "Sub":
            sides[1] = low.add(Affine.negated, [sides[1]], node, "negate", ("negated",), sides[1].shape)
        shapes, sides = [s.shape for s in sides], _fitting(sides, node, low)

        def make(a: Wide, b: Wide) -> Add:
            made = cls(a, b)
            if made.result.width > MAX_WIDTH:
                needs = f"its exact sum needs {made.result.width} bits, at most {MAX_WIDTH} are exact"
                raise UnsupportedError(f"compile: node {node.name!r}: {needs}; quantize both branches")
            return made

        low.bind(node.outputs[0], low.add(make, sides, node, "add", ("sum",), shapes[0] or shapes[1]))
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Add:
        return cls(*sources)

    @property
    def sources(self) -> tuple:
        return (self.a, self.b)

    @property
    def result(self) -> Wide:
        return Wide.holding(self.a.grid + self.b.grid, self.a.shape)

    def attributes(self) -> dict:
        result = self.result
        shifts = {"a_shift": self.a.lsb_exp - result.lsb_exp, "b_shift": self.b.lsb_exp - result.lsb_exp}
        return shifts | {"width": result.width, "lsb_exp": result.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Sum of two streams, exact in {self.result.width} bits."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: sum of two streams of {list(self.a.shape)}"

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
        return Timing(np.arange(self.a.vectors), self.a.beats(folding.simd) // self.a.vectors, 1)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        made, taken = (folding.simd * width for width in (self.result.width, min(s.width for s in self.sources)))
        return {"unit": each(10), "sums": each(made), "values": each(taken)}

    def bound(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Both sides and their sum are rounded to float32 once each; one side perhaps to its step, to fit."""
        own = 2.0 ** (max(self.a.lsb_exp, self.b.lsb_exp) - 1) if self.result.width > _ROUNDED_BITS else 2.0**-149
        return 2.0**-23 * (np.abs(a) + np.abs(b)) + own


_ROUNDED_BITS = 54
"""Of a sum that would have more than 63: float32, with which it is compared, holds 24."""


def _fitting(sides: list[Pending], node: ir.Node, low: Lowering) -> list[Pending]:
    """Both operands; where their exact sum has too many bits, sides of a fine step are rounded to a coarser one."""
    if any(s.type is None for s in sides):
        return sides
    sum_of = Wide.holding(sides[0].type.grid + sides[1].type.grid, sides[0].type.shape)
    if sum_of.width <= MAX_WIDTH:
        return sides
    coarse = sum_of.lsb_exp + sum_of.width - _ROUNDED_BITS - 1
    kept = [s.type.width + 1 - max(coarse - s.type.lsb_exp, 0) for s in sides]
    if min(kept) < 2:
        return sides  # one side is nothing beside the other: who makes it says so
    return [low.narrowed(s, bits, node) if bits <= s.type.width else s for s, bits in zip(sides, kept, strict=True)]


def alike(values: Sequence[ir.Value], node: ir.Node, low: Lowering, does: str) -> list[Pending]:
    """Both operands of a node that `does` something to them element by element, in vectors of one length; one is
    brought into the order of the other where one axis makes the difference. Raises Refused where that is not enough,
    or where no repeating makes shapes equal."""
    if all(low.elements(v).view is None for v in values):
        sides = [low.stream(v) for v in values]
        shapes = [s.shape for s in sides]
        if None in shapes or shapes[0] == shapes[1]:
            return sides
    a, b = (low.sequences(v) for v in values)
    if a.view is None or b.view is None:
        return [a, b]  # behind a refusal
    if not a.view.same(b.view):
        a, b = _spread(a, b, low, node, does) if _lengths(a.view) != _lengths(b.view) else (a, b)
        a, b = (a, b) if a.view.same(b.view) else _turned(a, b, low, node, does)
    shape = min(a.shape, b.shape, key=len)
    return [low.shaped(a, shape), low.shaped(b, shape)]


def _lengths(view: View) -> list[int]:
    """Of axes; one that is repeated has one entry."""
    return [size_of(tuple(a for a in axis if not a.repeated)) for axis in view.axes]


def _spread(a: Pending, b: Pending, low: Lowering, node: ir.Node, does: str) -> list[Pending]:
    """Two operands of which one is repeated until it has the shape of the other."""
    for other, one in ((a, b), (b, a)):
        found = spread(low.wide(one, node), other.view, node, low)
        if found is not None:
            return [a, found] if one is b else [found, b]
    raise Refused(f"{does} {a.view} and {b.view}; expected equal shapes, or one side of which the other repeats axes")


def _turned(a: Pending, b: Pending, low: Lowering, node: ir.Node, does: str) -> list[Pending]:
    """Two operands in one order: that of the first, or of the second."""
    for other, one in ((a, b), (b, a)):
        for axis in range(len(one.view.axes)):
            try:
                found = one.view.turned(axis)
            except Refused:  # another axis may come first
                continue
            if found.same(other.view):
                made = low.turned(low.wide(one, node), axis)
                return [a, made] if one is b else [made, b]
    raise Refused(f"{does} {a.view} and {b.view}, which come in different orders; expected one order")
