"""The average of every window of wide integers, rounded once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga import dots, latencies
from mxexport.fpga.area import Area, Parts, each
from mxexport.fpga.lowering import Lowering
from mxexport.fpga.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing
from mxexport.fpga.windows import Window, check_whole_image
from mxexport.model import graph
from mxexport.model.rewriting import attribute, reduced_axes
from mxexport.numbers import spatial


@dataclass(frozen=True)
class AveragePool:
    operator = ops.WideAveragePool
    module = "mx_average_pool"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = (("", "AveragePool"), ("", "GlobalAveragePool"), ("", "ReduceMean"))

    source: Wide
    window: Window

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        x = node.inputs[0]
        if node.op_type == "ReduceMean" and low.elements(x).view is not None:
            return cls._lower_mean(node, low)
        if low.elements(x).blocked is not None and len(x.shape or ()) == 3:
            low.bind(node.outputs[0], low.elements(x))  # tokens, perhaps, behind a refusal
            return True
        source = low.wide(low.image(x, low.stream(x)), node)
        if node.op_type == "AveragePool":
            window = Window.of_node(node, tuple(node.attributes["kernel_shape"].value), source.shape)
            counted = "count_include_pad" in node.attributes and node.attributes["count_include_pad"].value
            if any(window.pads) and not counted:
                raise Refused("it leaves padding out of the count; set count_include_pad, or pool without padding")
            if window.dilations != (1, 1):
                raise Refused("it has dilations; pool with adjacent taps")
        else:
            if node.op_type == "ReduceMean":
                check_whole_image(node)
            window = None if source.shape is None else Window(source.shape[:2])
        shape = None if source.shape is None else (*window.output(source.shape), source.shape[2])
        low.bind(node.outputs[0], low.add(lambda t: cls(t, window), [source], node, "pool", ("pool",), shape))
        return True

    @classmethod
    def _lower_mean(cls, node: ir.Node, low: Lowering) -> bool:
        """The mean of all tokens: of an image of one column."""
        source, axes = low.sequences(node.inputs[0]), reduced_axes(node) or []
        rank = len(source.view.axes)
        if rank != 3 or [a % rank for a in axes] not in ([1], [2]):
            raise Refused(f"it looks at axes {axes} of {source.view}; expected that of the tokens")
        tokens, channels = (axes[0] % rank, 3 - axes[0] % rank)
        kept = attribute(node, "keepdims", 1)
        image = low.wide(low.settled(source, source.view.transposed([0, channels, tokens])), node)
        made = low.add(lambda t: cls(t, Window(t.shape[:2])), [image], node, "pool", ("pool",), (1, 1, image.shape[2]))
        view = source.view.cut(tokens, 1)
        low.bind(node.outputs[0], replace(made, view=view if kept else view.without(tokens)))
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> AveragePool:
        return cls(*sources, Window.of_attributes(graph.attributes(node)))

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def divisor(self) -> int:
        return self.window.kernel[0] * self.window.kernel[1]

    @property
    def shift(self) -> int:
        """Bits below those of the input: a power of two rounds nothing, others by less than float32 would."""
        return (self.divisor - 1).bit_length()

    @property
    def result(self) -> Wide:
        x = self.source
        held = Wide.holding(x.grid.at(x.lsb_exp - self.shift), (*self.window.output(x.shape), x.channels))
        return replace(held, nonnegative=x.nonnegative)

    def attributes(self) -> dict:
        window = self.window.attributes()
        window.pop("dilations")
        numbers = {"divisor": self.divisor, "shift": self.shift}
        return window | numbers | {"width": self.result.width, "lsb_exp": self.result.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Average of windows of {self.window}, rounded once."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: average of windows of {self.window} over {list(self.source.shape)}"

    def foldings(self) -> list[Folding]:
        return self.window.pool_foldings(self.source)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return self.window.lanes(folding)

    def parameters(self, folding: Folding) -> dict[str, int]:
        return self.window.pool_parameters(self.source, folding) | {"Width": self.source.width}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.window.pool_cycles(self.source, folding)

    def timing(self, folding: Folding) -> Timing:
        sums = latencies.sum_latency(self.divisor) if folding.taps > 1 else 0
        return self.window.pooled(self.source, folding, 1 + latencies.divide_latency(*self._divided) + sums)

    @property
    def _divided(self) -> tuple[int, int]:
        """Bits of a sum, and those added below."""
        return self.source.width + (self.divisor - 1).bit_length(), self.shift

    def through(self, folding: Folding) -> bool:
        return folding.taps > 1 or self.window.is_frame(self.source.shape)

    def parts(self, folding: Folding) -> Parts:
        x, result, lanes = self.source, self.result.width, folding.simd
        sums = x.width + (self.divisor - 1).bit_length()
        plain = self.divisor & (self.divisor - 1) == 0  # no product
        divide = (
            Area(ff=self.source.width) if plain else dots.wide(*latencies.divide_factors(*self._divided), signed=False)
        )
        if folding.taps > 1:
            made = lanes * self.window.made_at_once(folding.pixels)
            found = self.window.taps_parts(x.shape, x.beat_bits(lanes), folding.pixels)
            found |= {"added": each(sums * (folding.taps - 1) * made), "padded": each(x.width * folding.taps * made)}
        else:
            made, found = lanes, self.window.pool_parts(x, lanes) | {"sums": each(sums * lanes)}
        rest = each(made * ((self.divisor - 1).bit_length() + 2) * (not plain))
        return found | {
            "divided": divide * made,
            "magnitudes": each(made * sum(self._divided)),
            "rest": rest,
            "values": each(made * result),
        }

    def bound(self, x: np.ndarray) -> np.ndarray:
        """Float32 sums in some order and divides: (taps + 2) * 2**-23 of the average magnitude; we round once."""
        taps = spatial.taps(np.abs(x), self.window.kernel, self.window.strides, self.window.pads, (1, 1), 0)
        return (self.divisor + 2) * 2.0**-23 * taps.mean(-2) + 2.0**self.result.lsb_exp
