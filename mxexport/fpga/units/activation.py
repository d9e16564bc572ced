"""Smooth activation functions: GELU, SiLU, ELU, sigmoid and their like (see fpga/datapaths/curves.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each, rom
from mxexport.fpga.datapaths import dots
from mxexport.fpga.datapaths.curves import Curve, curve_of, elu, function_of, hard_sigmoid, most_fraction
from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.fpga.units.affine import Affine
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import attribute
from mxexport.numbers.fixedpoint import MAX_WIDTH
from mxexport.numbers.grids import Grid

_LEAST = 16
"""Fraction bits: rounding stays far below the curve's own error."""
_LATENCY = 7
_NUMBERS = ("segment_bits", "position_bits", "octaves", "sides", "gate", "offset", "limit", "low_limit")
SELU = 1.6732632423543772, 1.0507009873554805
"""alpha and gamma that Selu has where a node states none."""
NODES: dict[str, Callable[[ir.Node], str]] = {
    "Gelu": lambda node: "gelu_tanh" if attribute(node, "approximate", "none") == "tanh" else "gelu",
    "Sigmoid": lambda node: "sigmoid",
    "Tanh": lambda node: "tanh",
    "Softplus": lambda node: "softplus",
    "Mish": lambda node: "mish",
    "Elu": lambda node: elu(attribute(node, "alpha", 1.0), 1.0),
    "Celu": lambda node: elu(*2 * [attribute(node, "alpha", 1.0)]),
    "HardSigmoid": lambda node: hard_sigmoid(attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)),
}
"""Operators that are one of `curves.function_of`'s functions -> which."""


@dataclass(frozen=True, eq=False)
class Activation:
    """`function`: as `curves.function_of` calls it; the result is 2**power times as much."""

    operator = ops.WideActivation
    module = "mx_activation"
    clocked = True
    status = {}
    memory_kinds = ("base", "slope")
    vectorwise = True
    lowers = tuple(("", name) for name in (*NODES, "Selu", "Mul", "Where"))

    source: Wide
    function: str
    curve: Curve
    power: int = 0

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if (found := low.activations.get(node)) is not None:
            cls._add(found.source, found.function, found.power, node, low)
        elif node.op_type in ("Mul", "Where"):
            return False
        elif node.op_type == "Selu":
            cls._add_selu(node, low)
        else:
            cls._add(node.inputs[0], NODES[node.op_type](node), 0, node, low)
        return True

    @classmethod
    def _add(cls, x: ir.Value, function: str, power: int, node: ir.Node, low: Lowering) -> None:
        cls._behind(low.wide(low.elements(x), node), function, power, node, low)

    @classmethod
    def _add_selu(cls, node: ir.Node, low: Lowering) -> None:
        """gamma * elu(x): of y = gamma * x, relu(y) and a curve."""
        alpha, gamma = attribute(node, "alpha", SELU[0]), attribute(node, "gamma", SELU[1])
        if not gamma > 0:
            raise Refused(f"its gamma is {gamma}; expected a positive number")
        source = low.wide(low.elements(node.inputs[0]), node)
        cls._behind(Affine.scaled(source, gamma, node, low), elu(gamma * alpha, gamma), 0, node, low)

    @classmethod
    def _behind(cls, source: Pending, function: str, power: int, node: ir.Node, low: Lowering) -> None:
        try:
            function_of(function)
        except ValueError as error:
            raise Refused(str(error)) from None
        name = function.partition("(")[0]
        low.bind(
            node.outputs[0],
            low.add(lambda t: cls.of(t, function, power), [source], node, name, (name,), source.shape),
        )

    @classmethod
    def of(cls, source: Wide, function: str, power: int = 0) -> Activation:
        """Raises Refused where the input has too many bits, or all of them below the lowest of the result."""
        fraction = min(max(-source.lsb_exp, _LEAST), most_fraction(function))
        made = cls(source, function, curve_of(function, fraction), power)
        if source.lsb_exp > 0 or source.width + made.shift < 2 or made.result.width > MAX_WIDTH:
            raise Refused(f"its input has {source.width} bits of 2**{source.lsb_exp}; quantize before it")
        return made

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Activation:
        a = graph.attributes(node)
        function, tables = node.metadata_props["function"], (constant_array(value) for value in node.inputs[1:])
        fraction, power = a["shift"] - sources[0].lsb_exp, a["lsb_exp"] + a["shift"] - sources[0].lsb_exp
        numbers = (a[key] for key in _NUMBERS)
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
            low, high = (low, high) if self.curve.gate == 2 else (-high, -low)
            grid = Grid(0, min(low, 0), top + max(high, 0))
        else:
            most = max(high, -low)
            grid = Grid(0, self.curve.offset - most, self.curve.offset + most)
        return Wide(self.source.shape, grid.width, self.power - self.curve.fraction, not grid.signed)

    def attributes(self) -> dict:
        numbers = {"shift": self.shift} | {name: getattr(self.curve, name) for name in _NUMBERS}
        return numbers | {"width": self.result.width, "lsb_exp": self.result.lsb_exp}

    def constants(self) -> dict[str, np.ndarray]:
        return {"base": self.curve.base, "slope": self.curve.slope}

    def metadata(self) -> dict[str, str]:
        return {"function": self.function}

    def describe(self) -> str:
        times = f"{2**self.power} times " if self.power else ""
        return f"{times}{function_of(self.function).words}, in steps of 2**{self.result.lsb_exp}."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: {function_of(self.function).words} by a table of {len(self.curve.base)} segments"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    @property
    def _widths(self) -> dict[str, int]:
        """Bits of a word of each table."""
        largest = max(int(self.curve.base.max()), self.curve.limit, self.curve.low_limit)
        slope = Grid(0, int(self.curve.slope.min()), int(self.curve.slope.max()))
        return {"base": max(largest.bit_length(), 2), "slope": slope.width}

    def parameters(self, folding: Folding) -> dict[str, int]:
        widths = {f"{kind.capitalize()}Width": width for kind, width in self._widths.items()}
        return {"Width": self.source.width, "Lanes": folding.simd} | widths

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """One word a segment, those of negative numbers last; all lanes have the same."""
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
            "gates": each(lanes * self.result.width * bool(curve.gate)),
        }

    def bound(self, x: np.ndarray) -> np.ndarray:
        """The curve's own error, a rounding of the input times the steepest slope, a few in float32."""
        function = function_of(self.function)
        step = 2.0 ** (self.source.lsb_exp - 1) + 2.0 ** (1 - self.curve.fraction)
        return 2.0**self.power * (function.error + function.steepest * (step + 2.0**-20 * np.abs(x)))
