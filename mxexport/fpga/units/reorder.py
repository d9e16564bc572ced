"""Images as vectors, channel by channel: what Flatten makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.area import Area, ram
from mxexport.fpga.types import Wide
from mxexport.fpga.unit import Folding, Memory, Timing


@dataclass(frozen=True)
class Reorder:
    operator = ops.WideReorder
    module = "mx_reorder"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = ()  # part of Flatten and Reshape, see Lowering

    source: Wide

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Reorder:
        return cls(*sources)

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        return Wide((self.source.length,), self.source.width, self.source.lsb_exp)

    def attributes(self) -> dict:
        return {"width": self.source.width, "lsb_exp": self.source.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return "Images as vectors, channel by channel."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: {list(self.source.shape)} channel by channel"

    def foldings(self) -> list[Folding]:
        return [Folding(1, 1)]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return 1, 1

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {"K": self.source.channels, "Pixels": math.prod(self.source.shape[:-1])}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.source.length

    def timing(self, folding: Folding) -> Timing:
        return Timing(np.array([self.source.vectors - 1]), self.source.length, self.source.length + 2)

    def area(self, folding: Folding) -> Area:
        return Area(lut=120, ff=70) + ram(2 * self.source.length, self.source.width)

    def bound(self, x: np.ndarray) -> None:
        return None
