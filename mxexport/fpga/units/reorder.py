"""Images as vectors, channel by channel: what Flatten makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Area, Parts, each, ram
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Timing
from mxexport.numbers.groups import group_count


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
        return replace(self.source, shape=(self.source.length,))

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
        most = min(self.source.vectors, self.source.channels)
        return [Folding(n, n) for n in (1 << i for i in range(most.bit_length()))]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {"K": self.source.channels, "Pixels": self.source.vectors, "Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return max(self.source.beats(folding.simd), self.result.beats(folding.simd))

    def timing(self, folding: Folding) -> Timing:
        out = self.result.beats(folding.simd)
        return Timing(np.array([self.source.vectors - 1]), out, out + 4)

    def through(self, folding: Folding) -> bool:
        return False

    def parts(self, folding: Folding) -> Parts:
        lanes, width = folding.simd, self.source.width
        segments = self.source.vectors // lanes
        banks = -(-self.source.vectors // segments)
        depth = 2 * segments * group_count(self.source.channels, lanes)
        memory = ram(depth, lanes * width)
        return {
            "unit": each(1),
            "counters": each(self.source.beats(lanes).bit_length() + depth.bit_length()),
            "spans": each(8 * depth.bit_length() * (lanes > 1)),  # beats begin in one pixel and end in another
            "chosen": Area(lut=(banks + lanes) * width * lanes / 3),
            "banks": each(banks),
            "lanes": each(lanes * banks.bit_length()),
            "words": Area(ff=banks * lanes * width * (not memory.bram36)),  # block RAM has registers
            "values": Area(ff=(banks + lanes * (banks > 1)) * width),
            "memories": Area(lut=memory.lut, bram36=memory.bram36) * banks,
        }

    def bound(self, x: np.ndarray) -> None:
        return None
