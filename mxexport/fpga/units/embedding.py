"""A row of a table for every number that comes: embeddings of tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each, rom
from mxexport.fpga.datapaths import latencies
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.lowering.whole_numbers import equal
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.streams.views import View
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import attribute
from mxexport.numbers.fixedpoint import round_to_lsb
from mxexport.numbers.grids import Grid, grid_of
from mxexport.numbers.groups import group_count

_BITS = 30
"""Of an entry at most: float32 has 24 of each, and codes with shared scales a few of each and their range."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """`table` int64 [V, C] in units of 2**lsb_exp."""

    operator = ops.WideEmbedding
    module = "mx_embedding"
    clocked = True
    status = {}
    memory_kinds = ("table",)
    vectorwise = False
    lowers = (("", "Gather"), ("", "Equal"))

    source: Wide
    table: np.ndarray
    lsb_exp: int

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if node.op_type == "Equal":
            return equal(node, low)
        table = constant_array(node.inputs[0])
        if table is None or not low.carries(node.inputs[1]):
            return False
        if table.ndim != 2 or attribute(node, "axis", 0) % 2 != 0 or not np.isfinite(table).all():
            raise Refused(f"its table has shape {table.shape}; expected finite rows [entries, channels], along axis 0")
        source = low.sequences(node.inputs[1])
        if source.shape is None:
            low.bind(node.outputs[0], source)
            return True
        tokens, channels = source.shape[0], table.shape[1]
        if len(source.view.axes) != 2:
            raise Refused(f"its numbers come as {source.view}; expected (batch, tokens)")
        numbers = low.shaped(low.wide(source, node), (tokens, 1))
        shape = (tokens, channels)
        made = low.add(lambda t: cls.of(t, table), [numbers], node, "embedding", ("rows",), shape, view=View.of(shape))
        low.bind(node.outputs[0], made)
        return True

    @classmethod
    def of(cls, source: Wide, table: np.ndarray) -> Embedding:
        """`table` float [V, C]. Raises Refused where what comes is no whole number."""
        if source.lsb_exp != 0:
            raise Refused(f"its numbers come in steps of 2**{source.lsb_exp}; expected whole numbers")
        values = table.astype(np.float64)
        top = int(np.frexp(np.abs(values).max(initial=0))[1])
        lsb_exp = max(grid_of(table.astype(np.float32)).exponent, top - (_BITS - 1))
        return cls(source, round_to_lsb(values, lsb_exp), lsb_exp)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Embedding:
        return cls(*sources, constant_array(node.inputs[1]), graph.attributes(node)["lsb_exp"])

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        shape = (*self.source.shape[:-1], self.table.shape[1])
        return Wide.holding(Grid.within(self.lsb_exp, int(np.abs(self.table).max(initial=0))), shape)

    def attributes(self) -> dict:
        return {"width": self.result.width, "lsb_exp": self.lsb_exp}

    def constants(self) -> dict[str, np.ndarray]:
        return {"table": self.table}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Rows of a table of {len(self.table)}, exact in {self.result.width} bits."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: rows of a table [{len(self.table)}, {self.table.shape[1]}]"

    def foldings(self) -> list[Folding]:
        return [replace(f, simd=1) for f in lane_foldings(self.result.channels)]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return 1, folding.pe

    def parameters(self, folding: Folding) -> dict[str, int]:
        sizes = {"Width": self.source.width, "Rows": len(self.table), "Lanes": folding.pe}
        return sizes | {"Beats": group_count(self.result.channels, folding.pe)}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """Word (row, beat), field l = channel beat*lanes + l."""
        lanes, channels = folding.pe, self.table.shape[1]
        padded = np.pad(self.table, ((0, 0), (0, group_count(channels, lanes) * lanes - channels)))
        return {"table": Memory(padded.reshape(-1, lanes), self.result.width)}

    def cycles(self, folding: Folding) -> int:
        return self.result.beats(folding.pe)

    def timing(self, folding: Folding) -> Timing:
        beats = group_count(self.result.channels, folding.pe)
        latency = latencies.times_latency(self._index_bits + 1, beats) + 2 + beats
        return Timing(np.arange(self.source.vectors), beats, latency)

    @property
    def _index_bits(self) -> int:
        return max((len(self.table) - 1).bit_length(), 1)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        lanes, beats, index = folding.pe, group_count(self.result.channels, folding.pe), self._index_bits
        bits, words = index + beats.bit_length(), len(self.table) * beats
        return {
            "unit": each(10),
            "index": each(index + self.source.width),
            "places": each(2 * bits),
            "table": rom(words, lanes * self.result.width),
        }

    def bound(self, x: np.ndarray) -> np.ndarray:
        """Entries of more bits than a row holds are rounded."""
        return np.full((*x.shape[:-1], self.table.shape[1]), 2.0 ** (self.lsb_exp - 1))
