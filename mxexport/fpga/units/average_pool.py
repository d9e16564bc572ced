"""The average of every window of wide integers, rounded once, or (`total`) their sum."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Area, Parts, each
from mxexport.fpga.datapaths import dots, latencies
from mxexport.fpga.datapaths.windows import Window, check_whole_image
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.lowering.whole_numbers import running_sum
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing
from mxexport.fpga.units.reduction import lower_reduction
from mxexport.model import graph
from mxexport.model.rewriting import attribute
from mxexport.numbers import spatial
from mxexport.numbers.fixedpoint import MAX_WIDTH
from mxexport.numbers.grids import Grid


@dataclass(frozen=True)
class AveragePool:
    operator = ops.WideAveragePool
    module = "mx_average_pool"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = (("", "AveragePool"), ("", "GlobalAveragePool"), ("", "ReduceMean"), ("", "ReduceSum"), ("", "CumSum"))

    source: Wide
    window: Window
    total: bool = False

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if node.op_type == "CumSum":
            return running_sum(node, low)
        x, total = node.inputs[0], node.op_type == "ReduceSum"
        if node.op_type in ("ReduceMean", "ReduceSum") and low.elements(x).view is not None:
            return lower_reduction(node, low, lambda t, window: cls(t, window, total), _most_bits)
        if low.elements(x).blocked is not None and len(x.shape or ()) == 3:
            low.bind(node.outputs[0], low.elements(x))  # tokens, perhaps, behind a refusal
            return True
        source = low.wide(low.image(x, low.stream(x)), node)
        if node.op_type == "AveragePool":
            window = Window.of_node(node, tuple(node.attributes["kernel_shape"].value), source.shape)
            counted = attribute(node, "count_include_pad", 0) and not attribute(node, "ceil_mode", 0)
            if any(window.pads) and not counted:
                raise Refused("it leaves padding out of the count, of images whose size is not known; run mx.clean")
            if window.dilations != (1, 1):
                raise Refused("it has dilations; pool with adjacent taps")
        else:
            if node.op_type in ("ReduceMean", "ReduceSum"):
                check_whole_image(node)
            window = None if source.shape is None else Window(source.shape[:2])
        shape = None if source.shape is None else (*window.output(source.shape), source.shape[2])
        if window is not None:
            source = low.narrowed(source, _most_bits(math.prod(window.kernel)), node)
        low.bind(node.outputs[0], low.add(lambda t: cls(t, window, total), [source], node, "pool", ("pool",), shape))
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> AveragePool:
        a = graph.attributes(node)
        return cls(*sources, Window.of_attributes(a), a["divisor"] == 1)

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def count(self) -> int:
        """Values of a window."""
        return self.window.kernel[0] * self.window.kernel[1]

    @property
    def divisor(self) -> int:
        return 1 if self.total else self.count

    @property
    def shift(self) -> int:
        """Bits below those of the input: a power of two rounds nothing, others by less than float32 would."""
        return (self.divisor - 1).bit_length()

    @property
    def result(self) -> Wide:
        x, shape = self.source, (*self.window.output(self.source.shape), self.source.channels)
        grid = x.grid.at(x.lsb_exp - self.shift)
        if self.total:
            grid = Grid(grid.exponent, grid.low * self.count, grid.high * self.count)
        return replace(Wide.holding(grid, shape), nonnegative=x.nonnegative)

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
        return (
            f"Sum of windows of {self.window}." if self.total else f"Average of windows of {self.window}, rounded once."
        )

    def comment(self, layer: str, folding: Folding) -> str:
        what = "sum" if self.total else "average"
        return f"{layer}: {what} of windows of {self.window} over {list(self.source.shape)}"

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
        sums = latencies.sum_latency(self.count) if folding.taps > 1 else 0
        return self.window.pooled(self.source, folding, 1 + latencies.divide_latency(*self._divided) + sums)

    @property
    def _divided(self) -> tuple[int, int]:
        """Bits of a sum, and those added below."""
        return self.source.width + (self.count - 1).bit_length(), self.shift

    def through(self, folding: Folding) -> bool:
        return folding.taps > 1 or self.window.is_frame(self.source.shape)

    def parts(self, folding: Folding) -> Parts:
        x, result, lanes = self.source, self.result.width, folding.simd
        sums = x.width + (self.count - 1).bit_length()
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
        sums = taps.sum(-2) if self.total else taps.mean(-2)
        own = 2.0 ** (self.source.lsb_exp - 1) * (self.source.width == _most_bits(self.count))  # perhaps rounded
        return (self.count + 2) * 2.0**-23 * sums + 2.0**self.result.lsb_exp + own * (self.count if self.total else 1)


def _most_bits(count: int) -> int:
    """Of values so many of which a pool sums up and divides in int64."""
    return MAX_WIDTH - 2 * (count - 1).bit_length()
