"""Every pixel several times: nearest-neighbour upsampling."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each, ram
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.model import graph

_REPEATING = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}


@dataclass(frozen=True)
class Upsample:
    operator = ops.WideUpsample
    module = "mx_upsample"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = (("", "Resize"), ("", "Upsample"))

    source: Wide
    scales: tuple[int, int]

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        x, out = node.inputs[0], node.outputs[0]
        source = low.wide(low.image(x, low.stream(x)), node)
        a = {name: attribute.value for name, attribute in node.attributes.items()}
        if a.get("mode", "nearest") != "nearest":
            raise Refused(f"its mode is {a['mode']}; units repeat pixels, mode nearest")
        sizes = [v.shape[2:] if v.shape is not None else () for v in (x, out)]
        if not all(isinstance(d, int) for size in sizes for d in size) or len(sizes[0]) not in (1, 2):
            raise Refused(f"its sizes are {x.shape} and {out.shape}; expected known heights and widths")
        scales = [new // old for old, new in zip(*sizes, strict=True)]
        if any(old * s != new for old, new, s in zip(*sizes, scales, strict=True)):
            raise Refused(f"it makes {list(sizes[1])} of {list(sizes[0])}; expected whole multiples")
        mode, rounding = (
            a.get("coordinate_transformation_mode", "half_pixel"),
            a.get("nearest_mode", "round_prefer_floor"),
        )
        if (mode, rounding) not in _REPEATING and max(scales) > 1:
            raise Refused(
                f"its coordinates are {mode} with {rounding}; expected those that repeat pixels, asymmetric with floor"
            )
        scales = (*scales, 1)[:2]
        shape = (
            None
            if source.shape is None
            else (source.shape[0] * scales[0], source.shape[1] * scales[1], source.shape[2])
        )
        low.bind(out, low.add(lambda t: cls(t, scales), [source], node, "upsample", ("upsampled",), shape))
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Upsample:
        return cls(*sources, tuple(graph.attributes(node)["scales"]))

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        (height, width, channels), x = self.source.shape, self.source
        return replace(x, shape=(height * self.scales[0], width * self.scales[1], channels))

    def attributes(self) -> dict:
        return {"scales": list(self.scales), "width": self.source.width, "lsb_exp": self.source.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Every pixel {self.scales[0]} times down and {self.scales[1]} times across."

    def comment(self, layer: str, folding: Folding) -> str:
        return (
            f"{layer}: pixels of {list(self.source.shape)} {self.scales[0]} times down, {self.scales[1]} times across"
        )

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        height, width, channels = self.source.shape
        return {"H": height, "W": width, "K": channels, "Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.result.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        (height, width, _), beats = self.source.shape, self.source.beats(folding.simd) // self.source.vectors
        rows = np.repeat(np.arange(1, height + 1) * width - 1, width * self.scales[0] * self.scales[1])
        return Timing(rows, beats, beats + 2)

    def through(self, folding: Folding) -> bool:
        return False

    def parts(self, folding: Folding) -> Parts:
        x = self.source
        beats = x.beats(folding.simd) // x.vectors
        depth, bits = x.shape[1] * beats, folding.simd * x.width
        return {"unit": each(10), "counters": each(depth.bit_length()), "values": each(bits), "row": ram(depth, bits)}

    def bound(self, *inputs: np.ndarray) -> None:
        return None
