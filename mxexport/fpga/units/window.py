"""The taps of every output pixel of a convolution: line buffers hold codes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.streams.types import Blocks
from mxexport.fpga.unit import Folding, Memory, Timing, block_foldings
from mxexport.model import graph


@dataclass(frozen=True)
class MXWindow:
    operator = ops.MXWindow
    module = "mx_window"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = ()  # part of a convolution, see MatMul

    source: Blocks
    window: Window

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> MXWindow:
        return cls(*sources, Window.of_attributes(graph.attributes(node)))

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Blocks:
        x = self.source
        channels = math.prod(self.window.kernel) * x.blocks * x.group_size
        return Blocks((*self.window.output(x.shape), channels), x.format, x.group_size, x.code_min, x.code_max)

    def attributes(self) -> dict:
        group = {"group_size": self.source.group_size}
        return group | self.window.attributes() | {"code_min": self.source.code_min}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Windows of {self.window}; taps outside the frame are zero blocks."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: windows of {self.window} over {list(self.source.shape)}"

    def foldings(self) -> list[Folding]:
        x, taps = self.source, math.prod(self.window.kernel)
        pixel = x.vector_lanes
        at_once = [Folding(taps * pixel, pixel, taps, n) for n in self.window.pixels_at_once(x.shape)]
        return block_foldings(x) + at_once

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return self.window.lanes(folding)

    def parameters(self, folding: Folding) -> dict[str, int]:
        x = self.source
        numbers = {"Bits": x.bits, "Simd": folding.simd, "Group": x.group_size, "Beats": self._beats(folding)}
        return self.window.sizes(x.shape) | numbers | {"Pixels": folding.at_once}

    def _beats(self, folding: Folding) -> int:
        """Of a pixel."""
        return self.source.beats(folding.simd) // self.source.vectors

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        x = self.source
        if folding.taps > 1:
            return x.vectors // folding.pixels
        return self.window.cycles(x.shape, self._beats(folding))

    def timing(self, folding: Folding) -> Timing:
        if folding.taps > 1:
            return self.window.at_once(self.source.shape, folding.pixels, 1)
        beats = self.result.beats(folding.simd) // self.result.vectors
        return Timing(self.window.needs(self.source.shape), beats, beats + 2, (self.window, self.source.shape))

    def through(self, folding: Folding) -> bool:
        return folding.taps > 1

    def parts(self, folding: Folding) -> Parts:
        bits = self.source.beat_bits(folding.simd)
        if folding.taps > 1:
            taken = {"taken": each(bits * folding.taps * self.window.made_at_once(folding.pixels))}
            return self.window.taps_parts(self.source.shape, bits, folding.pixels) | taken
        return self.window.line_parts(self.source, folding.simd)

    def bound(self, x: np.ndarray) -> None:
        return None
