"""max(x, 0) on wide integers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Timing, lane_foldings


@dataclass(frozen=True)
class Relu:
    operator = ops.Eltwise
    module = "mx_relu"
    clocked = True
    status = {}
    memory_kinds = ()
    vectorwise = True
    lowers = (("", "Relu"),)

    source: Wide

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        source = low.wide(low.elements(node.inputs[0]), node)
        made = low.add(cls, [source], node, "relu", ("relu",), source.shape)
        low.bind(node.outputs[0], made)
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Relu:
        return cls(*sources)

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        return replace(self.source, nonnegative=True)

    def attributes(self) -> dict:
        return {"relu": 1, "width": self.source.width, "lsb_exp": self.source.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return "ReLU on the wide integers, exact."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: max(x, 0)"

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
        return Timing(np.arange(self.source.vectors), self.source.beats(folding.simd) // self.source.vectors, 1)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        return {"unit": each(1), "values": each(folding.simd * self.source.width)}

    def bound(self, x: np.ndarray) -> None:
        return None
