"""A border of zeros around frames of wide integers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.model import graph
from mxexport.model.rewriting import constant


@dataclass(frozen=True)
class Pad:
    operator = ops.WidePad
    module = "mx_pad"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = (("", "Pad"),)

    source: Wide
    pads: tuple[int, int, int, int]

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        x = node.inputs[0]
        source = low.wide(low.image(x, low.stream(x)), node)
        mode = node.attributes["mode"].value if "mode" in node.attributes else "constant"
        fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
        amounts = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if mode != "constant" or fill is None or np.any(fill):
            raise Refused(
                f"it pads with {mode if fill is not None else 'a computed value'} {np.ravel(fill)}; expected zeros"
            )
        if amounts is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
            raise Refused("its amounts are no constants for all axes; run mx.clean")
        rank = len(x.shape)
        before, after = amounts[:rank].tolist(), amounts[rank:].tolist()
        if any(before[:2] + after[:2]) or min(amounts) < 0:
            raise Refused(f"it pads by {before} and {after}; expected nothing but more height and width")
        down, across = ((*ends[2:], 0)[:2] for ends in (before, after))
        pads = (*down, *across)
        shape = None
        if source.shape is not None:
            shape = (source.shape[0] + pads[0] + pads[2], source.shape[1] + pads[1] + pads[3], source.shape[2])
        low.bind(node.outputs[0], low.add(lambda t: cls(t, pads), [source], node, "pad", ("padded",), shape))
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Pad:
        return cls(*sources, tuple(graph.attributes(node)["pads"]))

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        (height, width, channels), (top, left, bottom, right) = self.source.shape, self.pads
        return replace(self.source, shape=(height + top + bottom, width + left + right, channels))

    def attributes(self) -> dict:
        return {"pads": list(self.pads), "width": self.source.width, "lsb_exp": self.source.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"A border of zeros: {list(self.pads)}."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: a border of zeros, {list(self.pads)}, around {list(self.source.shape)}"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        (height, width, channels), (out_height, out_width, _) = self.source.shape, self.result.shape
        sizes = {"H": height, "W": width, "OutH": out_height, "OutW": out_width}
        return sizes | {"K": channels, "Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.result.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        (height, width, _), (top, left, *_) = self.source.shape, self.pads
        rows, columns = (
            np.clip(np.arange(n) - b, -1, m - 1)
            for n, b, m in zip(self.result.shape, (top, left), (height, width), strict=False)
        )
        needs = np.maximum.accumulate(
            np.where(
                columns < 0, np.maximum(rows, 0)[:, None] * width - 1, np.maximum(rows, 0)[:, None] * width + columns
            ).ravel()
        )
        return Timing(np.maximum(needs, 0), self.result.beats(folding.simd) // self.result.vectors, 1)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        counted = sum(n.bit_length() for n in self.source.shape)
        return {"unit": each(10), "counters": each(counted), "values": each(folding.simd * self.source.width)}

    def bound(self, *inputs: np.ndarray) -> None:
        return None
