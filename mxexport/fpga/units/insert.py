"""Zero blocks between pixels: what a transposed convolution slides over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.streams.types import Blocks
from mxexport.fpga.unit import Folding, Memory, Timing, block_foldings
from mxexport.model import graph


@dataclass(frozen=True)
class Insert:
    operator = ops.MXInsert
    module = "mx_insert"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = ()  # part of a transposed convolution, see MatMul

    source: Blocks
    steps: tuple[int, int]
    more: tuple[int, int]

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Insert:
        a = graph.attributes(node)
        return cls(*sources, tuple(a["steps"]), tuple(a["more"]))

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Blocks:
        x = self.source
        size = ((n - 1) * s + 1 + m for n, s, m in zip(x.shape[:2], self.steps, self.more, strict=True))
        return Blocks((*size, x.channels), x.format, x.group_size, x.code_min, x.code_max)

    def attributes(self) -> dict:
        numbers = {"group_size": self.source.group_size, "steps": list(self.steps), "more": list(self.more)}
        return numbers | {"code_min": self.source.code_min}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Zero blocks between pixels, {list(self.steps)} apart."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: pixels of {list(self.source.shape)} {list(self.steps)} apart, zeros between them"

    def foldings(self) -> list[Folding]:
        return block_foldings(self.source)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        x, (out_height, out_width, _) = self.source, self.result.shape
        sizes = {"H": x.shape[0], "W": x.shape[1], "OutH": out_height, "OutW": out_width}
        beats = x.beats(folding.simd) // x.vectors
        return sizes | {"Bits": x.bits, "Simd": folding.simd, "Group": x.group_size, "Beats": beats}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.result.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        (height, width, _), result = self.source.shape, self.result
        y, x = np.arange(result.shape[0])[:, None], np.arange(result.shape[1])
        column = np.where(y % self.steps[0], width - 1, np.minimum(x // self.steps[1], width - 1))
        row = np.minimum(y // self.steps[0], height - 1)
        column = np.where(y // self.steps[0] > row, width - 1, column)
        return Timing((row * width + column).ravel(), result.beats(folding.simd) // result.vectors, 1)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        counted = sum((n - 1).bit_length() for n in self.result.shape)
        return {"unit": each(10), "values": each(self.source.beat_bits(folding.simd)), "counters": each(counted)}

    def bound(self, *inputs: np.ndarray) -> None:
        return None
