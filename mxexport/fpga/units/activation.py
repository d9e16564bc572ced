"""Smooth activation functions: GELU in both forms, SiLU, sigmoid, tanh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga import dots
from mxexport.fpga.area import Parts, each, rom
from mxexport.fpga.curves import FUNCTIONS, Curve, curve_of
from mxexport.fpga.lowering import Lowering
from mxexport.fpga.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import attribute
from mxexport.numbers.fixedpoint import MAX_WIDTH
from mxexport.numbers.grids import Grid

_LEAST, _MOST = 16, 18
"""Fraction bits: rounding stays far below the curve's own error, and a place inside a segment fits a DSP48E2."""
_LATENCY = 7


@dataclass(frozen=True, eq=False)
class Activation:
    """`function`: of FUNCTIONS; the result is 2**power times as much."""

    operator = ops.WideActivation
    module = "mx_activation"
    clocked = True
    status = {}
    memory_kinds = ("base", "slope")
    vectorwise = True
    lowers = tuple(("", name) for name in ("Gelu", "Sigmoid", "Tanh", "Mul"))

    source: Wide
    function: str
    curve: Curve
    power: int = 0

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if (found := low.activations.get(node)) is not None:
            cls._add(found.source, found.function, found.power, node, low)
        elif node.op_type == "Mul":
            return False
        else:
            cls._add(node.inputs[0], _function(node), 0, node, low)
        return True

    @classmethod
    def _add(cls, x: ir.Value, function: str, power: int, node: ir.Node, low: Lowering) -> None:
        source = low.wide(low.elements(x), node)

        def make(source: Wide) -> Activation:
            return cls.of(source, function, power)

        low.bind(node.outputs[0], low.add(make, [source], node, function, (function,), source.shape))

    @classmethod
    def of(cls, source: Wide, function: str, power: int = 0) -> Activation:
        """Raises Refused where the input has too many bits, or all of them below the lowest of the result."""
        made = cls(source, function, curve_of(function, min(max(-source.lsb_exp, _LEAST), _MOST)), power)
        if source.lsb_exp > 0 or source.width + made.shift < 2 or made.result.width > MAX_WIDTH:
            raise Refused(f"its input has {source.width} bits of 2**{source.lsb_exp}; quantize before it")
        return made

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Activation:
        a = graph.attributes(node)
        function, tables = node.metadata_props["function"], (constant_array(value) for value in node.inputs[1:])
        fraction, power = a["shift"] - sources[0].lsb_exp, a["lsb_exp"] + a["shift"] - sources[0].lsb_exp
        numbers = (a[key] for key in ("segment_bits", "position_bits", "octaves", "gate", "offset", "limit"))
        return cls(*sources, function, Curve(*tables, fraction, *numbers), power)

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def shift(self) -> int:
        return self.curve.fraction + self.source.lsb_exp

    @property
    def result(self) -> Wide:
        low, high = self.curve.ends
        if self.curve.gate:
            top = 1 << (self.source.width - 1 + self.shift)
            grid = Grid(0, -max(high, 0), top - min(low, 0))
        else:
            most = max(high, -low)
            grid = Grid(0, self.curve.offset - most, self.curve.offset + most)
        return Wide(self.source.shape, grid.width, self.power - self.curve.fraction, not grid.signed)

    def attributes(self) -> dict:
        names = ("segment_bits", "position_bits", "octaves", "gate", "offset", "limit")
        numbers = {"shift": self.shift} | {name: getattr(self.curve, name) for name in names}
        return numbers | {"width": self.result.width, "lsb_exp": self.result.lsb_exp}

    def constants(self) -> dict[str, np.ndarray]:
        return {"base": self.curve.base, "slope": self.curve.slope}

    def metadata(self) -> dict[str, str]:
        return {"function": self.function}

    def describe(self) -> str:
        times = f"{2**self.power} times " if self.power else ""
        return f"{times}{FUNCTIONS[self.function].words}, in steps of 2**{self.result.lsb_exp}."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: {FUNCTIONS[self.function].words} by a table of {len(self.curve.base)} segments"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    @property
    def _widths(self) -> dict[str, int]:
        """Bits of a word of each table."""
        largest = max(int(self.curve.base.max()), self.curve.limit)
        slope = Grid(0, int(self.curve.slope.min()), int(self.curve.slope.max()))
        return {"base": max(largest.bit_length(), 2), "slope": slope.width}

    def parameters(self, folding: Folding) -> dict[str, int]:
        widths = {f"{kind.capitalize()}Width": width for kind, width in self._widths.items()}
        return {"Width": self.source.width, "Lanes": folding.simd} | widths

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """One word a segment; all lanes have the same."""
        return {kind: Memory(self.constants()[kind][:, None], width) for kind, width in self._widths.items()}

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        return Timing(np.arange(self.source.vectors), self.source.beats(folding.simd) // self.source.vectors, _LATENCY)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        lanes, curve, widths = folding.simd, self.curve, self._widths
        whole = min(self.source.width, self.source.width + self.shift)  # bits of v that are not 0
        near, words = min(whole, curve.range), len(curve.base)
        return {
            "unit": each(10),
            "sizes": each(lanes * whole),
            "octaves": each(lanes * near),
            "places": each(lanes * min(near, curve.segment_bits + curve.places)),
            "tables": (rom(words, widths["base"], 512) + rom(words, widths["slope"], 512)) * lanes,
            "products": dots.wide(curve.places + 1, widths["slope"]) * lanes,
            "results": each(lanes * self.result.width),
            "gates": each(lanes * self.result.width * curve.gate),
        }

    def bound(self, x: np.ndarray) -> np.ndarray:
        """The curve's own error, a rounding of the input (the slope is at most 1.13), a few in float32."""
        step = 2.0 ** (self.source.lsb_exp - 1) + 2.0 ** (1 - self.curve.fraction)
        return 2.0**self.power * (FUNCTIONS[self.function].error + 1.13 * step + 2.0**-20 * np.abs(x))


def _function(node: ir.Node) -> str:
    if node.op_type != "Gelu":
        return node.op_type.lower()
    return "gelu_tanh" if attribute(node, "approximate", "none") == "tanh" else "gelu"
