"""A factor of its own for every place of a frame: the sines and cosines of rotary positions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each, rom
from mxexport.fpga.datapaths import dots, latencies
from mxexport.fpga.datapaths.accumulator import dropped_bits
from mxexport.fpga.datapaths.stacked import signed_bits, turns_of
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.lowering.turns import in_coarsest_step
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, in_width, lane_foldings
from mxexport.fpga.units.offset import by_beats, constant_of, is_of_channels
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.numbers.fixedpoint import MAX_WIDTH, round_to_lsb

_WIDTH = 26
"""Bits of a factor, sign included: it fits a port of a DSP48E2, and float32 knows no more of the largest."""


@dataclass(frozen=True, eq=False)
class Gain:
    """`gain` int64, of the shape of a frame; the result has `lsb_exp`, and `width` bits at least."""

    operator = ops.WideGain
    module = "mx_gain"
    clocked = True
    status = {}
    memory_kinds = ("gain",)
    vectorwise = False
    lowers = (("", "Mul"), ("", "Div"))

    source: Wide
    gain: np.ndarray
    shift: int
    lsb_exp: int
    width: int = 0
    others: tuple[Gain, ...] = ()
    """Those of later turns, whose factors it takes in turn."""

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        which = next((i for i, v in enumerate(node.inputs) if not low.carries(v)), None)
        given = None if which is None else constant_array(node.inputs[which])
        if given is None or not low.carries(node.inputs[1 - which]) or (node.op_type == "Div" and which == 0):
            return False
        x = node.inputs[1 - which]
        if low.elements(x).shape is None or given.size == 1:
            return False
        source = low.wide(low.sequences(x), node)
        if source.view is None or (placed := constant_of(given.astype(np.float64), x, source)) is None:
            return False
        if is_of_channels(placed):
            return False  # a WideAffine
        if not np.isfinite(placed).all() or (node.op_type == "Div" and not placed.all()):
            raise Refused("its constant holds NaN or Inf, or divides by 0")
        values = placed if node.op_type == "Mul" else 1 / placed
        kept = low.elements(x).view  # images stay images
        source = low.narrowed(source, MAX_WIDTH - 1 - _WIDTH, node)
        made = low.add(lambda t: cls.of(t, values), [source], node, "gain", ("scaled",), source.shape)
        low.bind(node.outputs[0], replace(made, view=kept), node)
        return True

    @classmethod
    def of(cls, source: Wide, values: np.ndarray) -> Gain:
        exponent = int(np.frexp(np.abs(values).max(initial=0))[1]) - (_WIDTH - 1)  # of a factor's lowest bit
        top = 2 ** (_WIDTH - 1) - 1
        gain = np.clip(round_to_lsb(values, exponent), -top, top)
        shift = max(dropped_bits(source.width + _WIDTH, source.width), 1)
        return cls(source, gain, shift, source.lsb_exp + exponent + shift)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Gain:
        a = graph.attributes(node)
        return in_width(cls(*sources, constant_array(node.inputs[1]), a["shift"], a["lsb_exp"]), a["width"])

    @classmethod
    def alike(cls, units: list[Gain]) -> list[Gain]:
        """Those of all turns, in the coarsest step of a factor that one has."""
        return in_coarsest_step(units, "gain")

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def gain_width(self) -> int:
        return signed_bits(*(u.gain for u in turns_of(self)))

    @property
    def _largest(self) -> int:
        return int(np.abs(self.gain).max(initial=0))

    @property
    def result(self) -> Wide:
        largest = (self._largest << (self.source.width - 1) >> self.shift) + 1
        return Wide(self.source.shape, max(largest.bit_length() + 1, self.width), self.lsb_exp)

    def attributes(self) -> dict:
        return {"shift": self.shift, "width": self.result.width, "lsb_exp": self.lsb_exp}

    def constants(self) -> dict[str, np.ndarray]:
        return {"gain": self.gain}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"A factor for every place of {list(self.source.shape)}, rounded once to 2**{self.lsb_exp}."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: a factor for every place of {list(self.source.shape)}"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        widths = {"Width": self.source.width, "GainWidth": self.gain_width}
        return widths | {"Beats": self._words(folding), "Lanes": folding.simd}

    def _words(self, folding: Folding) -> int:
        """Beats of a frame, for every layer: the module tells one frame from the next by nothing else."""
        return self.source.beats(folding.simd) * len(turns_of(self))

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """Word (layer, vector, beat), field l = channel beat*lanes + l."""
        words = [by_beats(u.gain, folding.simd) for u in turns_of(self)]
        return {"gain": Memory(np.concatenate(words), self.gain_width)}

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        latency = 3 + latencies.wide_mul_latency(self.source.width, self.gain_width)
        return Timing(np.arange(self.source.vectors), self.source.beats(folding.simd) // self.source.vectors, latency)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        lanes, beats = folding.simd, self._words(folding)
        return {
            "unit": each(10),
            "places": each(beats.bit_length()),
            "products": dots.wide(self.source.width, self.gain_width) * lanes,
            "values": each(lanes * self.result.width),
            "memories": rom(beats, lanes * self.gain_width),
        }

    def bound(self, x: np.ndarray) -> np.ndarray:
        """Factors are rounded to 26 bits with one exponent, the result once, the input perhaps; float32 rounds, too."""
        step = 2.0 ** (self.lsb_exp - self.shift - self.source.lsb_exp)  # of a factor
        gain = np.abs(self.gain) * step
        return np.abs(x) * (step + 2.0**-21 * gain) + gain * 2.0 ** (self.source.lsb_exp - 1) + 2.0**self.lsb_exp
