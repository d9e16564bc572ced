"""The largest value of every window of wide integers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.datapaths.windows import Window, check_whole_image
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing
from mxexport.fpga.units.reduction import lower_reduction
from mxexport.model import graph


@dataclass(frozen=True)
class MaxPool:
    operator = ops.WideMaxPool
    module = "mx_max_pool"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = (("", "MaxPool"), ("", "GlobalMaxPool"), ("", "ReduceMax"))

    source: Wide
    window: Window

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        x = node.inputs[0]
        if node.op_type == "ReduceMax" and low.elements(x).view is not None:
            return lower_reduction(node, low, cls)
        source = low.wide(low.image(x, low.stream(x)), node)
        if node.op_type == "ReduceMax":
            check_whole_image(node)
        if node.op_type != "MaxPool":
            window = None if source.shape is None else Window(source.shape[:2])
        else:
            window = Window.of_node(node, tuple(node.attributes["kernel_shape"].value), source.shape)
            if window.dilations != (1, 1):
                raise Refused("it has dilations; pool with adjacent taps")
        shape = None if source.shape is None else (*window.output(source.shape), source.shape[2])
        low.bind(node.outputs[0], low.add(lambda t: cls(t, window), [source], node, "pool", ("pool",), shape))
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> MaxPool:
        return cls(*sources, Window.of_attributes(graph.attributes(node)))

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        x = self.source
        return replace(x, shape=(*self.window.output(x.shape), x.channels))

    def attributes(self) -> dict:
        window = self.window.attributes()
        window.pop("dilations")
        return window | {"width": self.source.width, "lsb_exp": self.source.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Largest of windows of {self.window}, exact."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: largest of windows of {self.window} over {list(self.source.shape)}"

    def foldings(self) -> list[Folding]:
        return self.window.pool_foldings(self.source)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return self.window.lanes(folding)

    def parameters(self, folding: Folding) -> dict[str, int]:
        return self.window.pool_parameters(self.source, folding)

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.window.pool_cycles(self.source, folding)

    def timing(self, folding: Folding) -> Timing:
        levels = (math.prod(self.window.kernel) - 1).bit_length()
        return self.window.pooled(self.source, folding, max(levels, 1) if folding.taps > 1 else 1)

    def through(self, folding: Folding) -> bool:
        return folding.taps > 1 or self.window.is_frame(self.source.shape)

    def parts(self, folding: Folding) -> Parts:
        x = self.source
        if folding.taps > 1:
            made = folding.simd * self.window.made_at_once(folding.pixels)
            compared = {
                "compared": each(x.width * (folding.taps - 1) * made),
                "padded": each(x.width * folding.taps * made),
            }
            return self.window.taps_parts(x.shape, x.beat_bits(folding.simd), folding.pixels) | compared
        return self.window.pool_parts(x, folding.simd) | {"values": each(folding.simd * x.width)}

    def bound(self, x: np.ndarray) -> None:
        return None
