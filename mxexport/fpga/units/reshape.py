"""The same integers in the same order, seen in another way: in other vectors (channels as heads, heads as channels,
images as tokens), or in other units (times a power of two)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Timing, lane_counts
from mxexport.model import graph


@dataclass(frozen=True)
class Reshape:
    """`shape` of a frame that goes; `power`: what comes stands for so many powers of two more behind it."""

    operator = ops.WideReshape
    module = "mx_reshape"
    clocked = False
    status = {}
    memory_kinds = ()
    vectorwise = False
    lowers = ()  # wherever a unit needs other vectors, see Lowering.shaped

    source: Wide
    shape: tuple[int, ...]
    power: int = 0

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Reshape:
        a = graph.attributes(node)
        return cls(*sources, tuple(a["frame"]), a["lsb_exp"] - sources[0].lsb_exp)

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        return replace(self.source, shape=self.shape, lsb_exp=self.source.lsb_exp + self.power)

    def attributes(self) -> dict:
        return {"frame": list(self.shape), "width": self.source.width, "lsb_exp": self.result.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        times = f", times 2**{self.power}" * bool(self.power)
        return f"Frames of {list(self.source.shape)} as {list(self.shape)}{times}: the same integers."

    def comment(self, layer: str, folding: Folding) -> str:
        times = f", times 2**{self.power}" * bool(self.power)
        return f"{layer}: {list(self.source.shape)} as {list(self.shape)}{times}"

    def foldings(self) -> list[Folding]:
        """Lanes whose beats are the same on both sides: parts of the shorter vector, or whole ones of it."""
        kinds = (self.source, self.result)
        most = max(kind.channels for kind in kinds)
        if kinds[0].channels == kinds[1].channels:
            return [Folding(n, n) for n in lane_counts(most)]
        short = min(kind.channels for kind in kinds)
        counts = {1 << i for i in range(most.bit_length())} | {short << i for i in range((most // short).bit_length())}
        return [Folding(n, n) for n in sorted(counts) if not (short % n and (n % short or most % n))]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {"Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        came, goes = self.source.vectors, self.result.vectors
        needs = ((np.arange(goes) + 1) * came + goes - 1) // goes - 1
        share = (np.arange(goes) + 1) * came / goes - needs  # several vectors come of one, beat by beat
        return Timing(needs, self.cycles(folding) / goes, 0, share=share)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        return {}

    def bound(self, x: np.ndarray) -> None:
        return None
