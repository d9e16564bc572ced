"""The channels of two streams of wide integers, side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.streams.views import View, size_of
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.numbers.fixedpoint import MAX_WIDTH


@dataclass(frozen=True)
class Concat:
    operator = ops.WideConcat
    module = "mx_concat"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = True
    lowers = (("", "Concat"),)

    a: Wide
    b: Wide

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if any(low.elements(v).view is not None for v in node.inputs if low.carries(v)):
            return cls._lower_view(node, low)
        out, axis = node.outputs[0], node.attributes["axis"].value
        rank = None if out.shape is None else len(out.shape)
        if rank is None or axis % rank != 1 or len(node.inputs) < 2:
            raise Refused(
                f"joins {len(node.inputs)} tensors along axis {axis}; expected two or more, and the channels, axis 1"
            )
        sides = [low.wide(low.stream(v), node) for v in node.inputs]
        made = sides[0]
        for i, side in enumerate(sides[1:]):
            shape = None
            if made.shape is not None and side.shape is not None:
                if made.shape[:-1] != side.shape[:-1]:
                    raise Refused(f"joins frames of {list(made.shape)} and {list(side.shape)}; expected equal sizes")
                shape = (*made.shape[:-1], made.shape[-1] + side.shape[-1])
            made = low.add(cls._checked(node), [made, side], node, f"concat{i or ''}", ("joined",), shape)
        low.bind(out, made)
        return True

    @classmethod
    def _lower_view(cls, node: ir.Node, low: Lowering) -> bool:
        """Along the axis that comes last, channels of tokens or of a head; or along the one that comes first, tokens:
        then frames are joined whole."""
        sides = [low.wide(low.sequences(v), node) for v in node.inputs]
        if (blocked := next((s for s in sides if s.view is None), None)) is not None:
            low.bind(node.outputs[0], blocked)
            return True
        axis = node.attributes["axis"].value % len(sides[0].view.axes)
        inside = axis == len(sides[0].view.axes) - 1  # of one entry each: it may come last as well as first
        if all(s.view.trailing(axis) and (s.view.axes[axis] or inside) for s in sides):
            sides, joined = [low.in_vectors(s, axis) for s in sides], View.with_last
        elif all(s.view.leading(axis) for s in sides):
            sides, joined = [low.shaped(s, (math.prod(s.shape),)) for s in sides], View.with_first
        else:
            raise Refused(f"joins along axis {axis} of {sides[0].view}; expected the first or the last that comes")
        made, length = None, 0
        for i, side in enumerate(sides):
            shape = None if made is None else (*made.shape[:-1], made.shape[-1] + side.shape[-1])
            alike = made is None or joined(made.view, axis, 2).same(joined(side.view, axis, 2))
            if made is not None and (made.shape[:-1] != side.shape[:-1] or not alike):
                raise Refused(f"joins {made.view} and {side.view}, which come in different orders; expected one order")
            length += size_of(side.view.axes[axis])
            view = None if made is None else joined(made.view, axis, length)
            kind = f"concat{i - 1 or ''}"
            make = cls._checked(node)
            made = side if made is None else low.add(make, [made, side], node, kind, ("joined",), shape, view=view)
        low.bind(node.outputs[0], made)
        return True

    @classmethod
    def _checked(cls, node: ir.Node):
        def make(a: Wide, b: Wide) -> Concat:
            made = cls(a, b)
            if made.result.width > MAX_WIDTH:
                raise Refused(
                    f"its result needs {made.result.width} bits, at most {MAX_WIDTH} are exact; quantize before it"
                )
            return made

        return make

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Concat:
        return cls(*sources)

    @property
    def sources(self) -> tuple:
        return (self.a, self.b)

    @property
    def result(self) -> Wide:
        shape = (*self.a.shape[:-1], self.a.channels + self.b.channels)
        return Wide.holding(self.a.grid | self.b.grid, shape)

    def attributes(self) -> dict:
        result = self.result
        shifts = {"a_shift": self.a.lsb_exp - result.lsb_exp, "b_shift": self.b.lsb_exp - result.lsb_exp}
        return shifts | {"width": result.width, "lsb_exp": result.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return "Channels of two streams side by side, exact."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: {self.a.channels} and {self.b.channels} channels side by side"

    def foldings(self) -> list[Folding]:
        most = math.gcd(self.a.channels, self.b.channels)
        return [f for f in lane_foldings(most) if most % f.simd == 0]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        widths = {"AWidth": self.a.width, "BWidth": self.b.width}
        channels = {"AK": self.a.channels, "BK": self.b.channels, "Vectors": self.a.vectors}
        return widths | channels | {"Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.result.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        return Timing(np.arange(self.a.vectors), self.result.beats(folding.simd) // self.a.vectors, 1)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        values = folding.simd * self.result.width
        return {"unit": each(10), "values": each(values), "counters": each(self.result.channels.bit_length())}

    def bound(self, *inputs: np.ndarray) -> None:
        return None
