"""Tokens that a mask from outside empties: ones and zeros for all their channels, which values are multiplied with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_counts
from mxexport.fpga.units.multiply import Multiply
from mxexport.model import graph
from mxexport.numbers.groups import group_count


@dataclass(frozen=True)
class Keep:
    """`source`: (tokens, 1), a key each; ones for all `channels` of a token whose key is above zero (`keep`: 1), or is
    not (0)."""

    operator = ops.WideKeep
    module = "mx_keep"
    clocked = True
    status = {}
    memory_kinds = ()
    vectorwise = False
    lowers = (("", "Where"),)

    source: Wide
    channels: int
    keep: int

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        """A Where that empties tokens: values times what this unit puts out."""
        known = low.emptied.get(node)
        if known is None:
            return False
        values = low.wide(low.sequences(known.values), node)
        if values.view is None:
            low.bind(node.outputs[0], values)
            return True
        before, tokens, inside = values.view.around(known.axis)
        if before != 1:
            raise Refused(f"it empties entries of axis {known.axis} of {values.view}; expected the first that comes")
        keys = low.keys(known.keys, node)
        view, values = values.view, low.shaped(values, (tokens, inside))
        ones = low.add(
            lambda t: cls(t, inside, known.keys.keep), [low.shaped(keys, (tokens, 1))], node, "keep", ("kept",),
            (tokens, inside),
        )  # fmt: skip
        low.bind(
            node.outputs[0],
            low.add(Multiply.of, [values, ones], node, "empty", ("emptied",), (tokens, inside), view=view),
        )
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Keep:
        a = graph.attributes(node)
        return cls(*sources, a["channels"], a["keep"])

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        return Wide((*self.source.shape[:-1], self.channels), 2, 0, nonnegative=True)

    def attributes(self) -> dict:
        return {"channels": self.channels, "keep": self.keep, "width": 2, "lsb_exp": 0}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Ones for the {self.channels} channels of vectors that are kept, zeros for those of others."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: which of {math.prod(self.source.shape)} vectors are kept"

    def foldings(self) -> list[Folding]:
        return [Folding(n, 1) for n in lane_counts(self.channels)]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return 1, folding.pe

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {"Width": self.source.width, "Lanes": folding.pe}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.result.beats(folding.pe)

    def timing(self, folding: Folding) -> Timing:
        return Timing(np.arange(self.source.vectors), group_count(self.channels, folding.pe), 1)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        beats = group_count(self.channels, folding.pe)
        return {"unit": each(4), "keys": each(self.source.width), "counter": each(beats.bit_length())}

    def bound(self, *inputs: np.ndarray) -> None:
        return None
