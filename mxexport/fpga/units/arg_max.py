"""Which channel holds the largest value: the class that a network names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.model import graph
from mxexport.model.rewriting import attribute


@dataclass(frozen=True)
class ArgMax:
    operator = ops.WideArgMax
    module = "mx_arg_max"
    clocked = True
    status = {}
    memory_kinds = ()
    vectorwise = False
    lowers = (("", "ArgMax"),)

    source: Wide

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        x, axis = node.inputs[0], attribute(node, "axis", 0)
        rank = None if x.shape is None else len(x.shape)
        if rank is None or axis % rank != 1 or attribute(node, "select_last_index", 0):
            raise Refused(f"it looks along axis {axis}; expected the channels, axis 1, and the first among equals")
        source = low.wide(low.stream(x), node)
        shape = None if source.shape is None else (*source.shape[:-1], 1)
        low.bind(node.outputs[0], low.add(cls, [source], node, "arg_max", ("index",), shape))
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> ArgMax:
        graph.attributes(node)
        return cls(*sources)

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        return Wide((*self.source.shape[:-1], 1), (self.source.channels - 1).bit_length() + 1, 0)

    def attributes(self) -> dict:
        return {"width": self.result.width, "lsb_exp": 0}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return "The channel of the largest value, the first among equals."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: the largest of {self.source.channels} channels"

    def foldings(self) -> list[Folding]:
        return [Folding(1, f.simd) for f in lane_foldings(self.source.channels)]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, 1

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {"Width": self.source.width, "K": self.source.channels, "Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        latency = 2 + (folding.simd - 1).bit_length()
        return Timing(np.arange(self.source.vectors), self.source.beats(folding.simd) // self.source.vectors, latency)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        lanes, width, index = min(folding.simd, self.source.channels), self.source.width, self.result.width
        found = {"unit": each(10), "best": each(width + index)}
        return found | {"compared": each((lanes - 1) * width), "indices": each((lanes - 1) * index)}

    def bound(self, x: np.ndarray) -> np.ndarray:
        """Values that float32 cannot tell apart may change places; a half else, so that numbers are equal."""
        ends = np.sort(x, -1)[..., -2:]
        close = np.ptp(ends, -1, keepdims=True) <= 2.0**-22 * np.abs(ends).max(-1, keepdims=True)
        return np.where(close, np.inf, 0.5)
