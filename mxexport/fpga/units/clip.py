"""Values kept between two bounds: ReLU6, Hardtanh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.lowering import turns
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, in_width, lane_foldings
from mxexport.fpga.units.affine import Affine
from mxexport.model import graph
from mxexport.model.rewriting import constant
from mxexport.numbers.fixedpoint import round_to_lsb


@dataclass(frozen=True)
class Clip:
    """`width` of the result, where it is more than what lies between the bounds needs."""

    operator = ops.WideClip
    module = "mx_clip"
    clocked = False
    status = {}
    memory_kinds = ()
    vectorwise = True
    lowers = (("", "Clip"),)

    source: Wide
    low: int
    high: int
    width: int = 0

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        bounds = [-np.inf, np.inf]
        for i, value in enumerate(node.inputs[1:3]):
            if value is not None and (found := constant(value)) is None:
                raise Refused("its bounds are no constants; expected initializers")
            bounds[i] = bounds[i] if value is None else float(found)
        if np.isnan(bounds).any() or bounds[0] > bounds[1]:
            raise Refused(f"its bounds are {bounds[0]} and {bounds[1]}; expected the lower one first")
        source = low.wide(low.elements(node.inputs[0]), node)
        if (lsb_exp := low.between_turns(node)) is not None:
            source = low.add(lambda t: Affine.onto(t, lsb_exp), [source], node, "round", ("rounded",), source.shape)
            low.bind(node.outputs[0], low.add(cls.going_around, [source], node, "clip", ("clip",), source.shape))
            return True

        def make(source: Wide) -> Clip:
            top = 2 ** (source.width - 1)
            ends = [
                round_to_lsb(np.clip(b, -top * 2.0**source.lsb_exp, top * 2.0**source.lsb_exp), source.lsb_exp)
                for b in bounds
            ]
            return cls(source, max(int(ends[0]), -top), min(int(ends[1]), top - 1))

        low.bind(node.outputs[0], low.add(make, [source], node, "clip", ("clip",), source.shape))
        return True

    @classmethod
    def going_around(cls, source: Wide) -> Clip:
        """What goes around in turns: as much as so many bits hold, in either direction."""
        top = 2 ** (turns.WIDTH - 1) - 1
        return cls(source, -top, top, turns.WIDTH)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Clip:
        a = graph.attributes(node)
        return in_width(cls(*sources, a["low"], a["high"]), a["width"])

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        grid = self.source.grid.clipped(self.low, self.high)
        return Wide(self.source.shape, max(grid.width, self.width), self.source.lsb_exp)

    def attributes(self) -> dict:
        numbers = {"low": self.low, "high": self.high}
        return numbers | {"width": self.result.width, "lsb_exp": self.source.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Between {self.low} and {self.high}, exact."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: between {self.low} and {self.high}"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        words = {}
        for name, bound in (("Low", self.low), ("High", self.high)):
            upper, lower = np.array([bound]).view(np.int32)[::-1].tolist()
            words |= {f"{name}Upper": upper, f"{name}Lower": lower}
        return words | {"Width": self.source.width, "Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        return Timing(np.arange(self.source.vectors), self.source.beats(folding.simd) // self.source.vectors, 0)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        if self.low == self.high:
            return {"constant": each(1)}
        bounds = bool(self.low) + bool(self.high)  # zero is a sign
        source, result = self.source.width * folding.simd, self.result.width * folding.simd
        return {"lanes": each(folding.simd), "compared": each(source * bounds), "values": each(result)}

    def bound(self, x: np.ndarray) -> np.ndarray:
        """Bounds that do not lie on the grid are rounded to it; float32 rounds the values."""
        return 2.0 ** (self.source.lsb_exp - 1) + 2.0**-23 * np.abs(x)
