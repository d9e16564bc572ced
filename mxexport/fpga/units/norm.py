"""LayerNorm and RMSNorm over the channels, without a division."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.errors import UnsupportedError
from mxexport.fpga.areas.area import Area, Parts, each, ram, rom, total
from mxexport.fpga.datapaths import dots, latencies
from mxexport.fpga.datapaths.accumulator import per_channel
from mxexport.fpga.datapaths.stacked import layers, signed_bits, turns_of
from mxexport.fpga.lowering import norm_patterns
from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.lowering.turns import in_coarsest_step
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.streams.words import power_of_two
from mxexport.fpga.unit import Folding, Memory, Timing, in_width, lane_foldings
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.numbers import normalization
from mxexport.numbers.fixedpoint import round_to_lsb
from mxexport.numbers.groups import group_count

_SEGMENT_BITS, _ROOT_BITS, _FRACTION = 5, 16, 14
"""96 chords are off by 2**-14 of the root, and n has 14 bits below the point: 84 dB, where MX int8 leaves 40."""
_GAIN_WIDTH = 18  # sign included: with the normalized value it fits one DSP slice
_OFFSET_WIDTH = 50
_SHIFT = 16
_LARGEST_VARIANCE = 62  # bits: int64 holds every sum that leads to it
_LEAST_WIDTH = 12  # bits of the input that are worth computing with


@dataclass(frozen=True, eq=False)
class Norm:
    """`gain` and `offset` int64 [K]; `roots` and `slopes` as `normalization.root_table` has them; `epsilon` in squares
    of the input's step over K; the result has `lsb_exp`, and `width` bits at least."""

    operator = ops.WideNorm
    module = "mx_norm"
    clocked = True
    status = {}
    memory_kinds = ("gain", "offset", "roots", "slopes")
    vectorwise = True
    lowers = tuple(("", name) for name in norm_patterns.FIRST)

    source: Wide
    center: bool
    epsilon: int
    gain: np.ndarray
    offset: np.ndarray
    roots: np.ndarray
    slopes: np.ndarray
    segment_bits: int
    root_bits: int
    fraction: int
    shift: int
    lsb_exp: int
    width: int = 0
    others: tuple[Norm, ...] = ()
    """Those of later turns, whose gains and offsets it takes in turn."""

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        found = norm_patterns.read(node)
        if found is None:
            return False
        source = low.wide(_along_channels(found, node, low), node)
        if source.type is not None:
            source = _narrowed(source, found.epsilon, node, low)

        def make(source: Wide) -> Norm:
            gain, offset = (per_channel(v, source.channels, found.behind, node) for v in (found.gain, found.offset))
            return cls.of(source, found.center, found.epsilon, gain, offset)

        low.absorb(found.inner)
        maker = found.inner[-1] if found.inner else node
        made = low.add(make, [source], node, "norm", ("normalized",), source.shape)
        low.bind(found.result, made, maker)
        came = low.elements(found.x).shape
        if made.view is not None and made.shape is not None and came is not None and len(made.shape) < len(came):
            low.moved(found.result, low.shaped(made, came))  # a whole frame, in vectors as before
        return True

    @classmethod
    def of(cls, source: Wide, center: bool, epsilon: float, gain: np.ndarray, offset: np.ndarray) -> Norm:
        """`epsilon` as ONNX has it, `gain` and `offset` float64 [K]."""
        exponent = int(np.frexp(np.abs(gain).max(initial=0))[1]) - (_GAIN_WIDTH - 1)  # of the gain's lowest bit
        largest = int(np.frexp(np.abs(offset).max(initial=0))[1])
        # An offset far above the products takes bits from them that its own float32 never had.
        exponent = max(exponent, largest - (_OFFSET_WIDTH - 1) + _FRACTION)
        ends = 2 ** (_GAIN_WIDTH - 1) - 1
        gain = np.clip(round_to_lsb(gain, exponent), -ends, ends)
        offset = round_to_lsb(offset, exponent - _FRACTION)
        table = normalization.root_table(_SEGMENT_BITS, _ROOT_BITS)
        numbers = (_SEGMENT_BITS, _ROOT_BITS, _FRACTION, _SHIFT, exponent - _FRACTION + _SHIFT)
        return cls(source, center, scaled_epsilon(source, epsilon), gain, offset, *table, *numbers)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Norm:
        a = graph.attributes(node)
        numbers = [a[name] for name in ("segment_bits", "root_bits", "fraction", "shift", "lsb_exp")]
        arrays = [constant_array(value) for value in node.inputs[1:]]
        return in_width(cls(*sources, bool(a["center"]), a["epsilon"], *arrays, *numbers), a["width"])

    @classmethod
    def alike(cls, units: list[Norm]) -> list[Norm]:
        """Those of all turns, in the coarsest step of a gain that one has."""
        return in_coarsest_step(units, "gain", "offset")

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def gain_width(self) -> int:
        return signed_bits(*(u.gain for u in turns_of(self)))

    @property
    def offset_width(self) -> int:
        return signed_bits(*(u.offset for u in turns_of(self)))

    @property
    def slope_width(self) -> int:
        return signed_bits(self.slopes)

    @property
    def largest(self) -> int:
        """Of the normalized value, with its fraction bits: |K * x - S1| is below sqrt(K * V), and a segment of the
        table says how far V lies above a power of four, and what its root is at most."""
        ends = 1 + (1 + np.arange(len(self.roots))) / 2**self.segment_bits
        moved = np.sqrt(self.source.channels * ends) * 2.0**self.fraction + 1
        root = (np.maximum(self.roots, self.roots + self.slopes) + 1) * 2.0**-self.root_bits
        return int(np.ceil((moved * root).max())) + 1

    @property
    def result(self) -> Wide:
        pairs = zip(self.gain.tolist(), self.offset.tolist(), strict=True)
        largest = max(self.largest * abs(g) + abs(o) for g, o in pairs)
        least = ((largest >> self.shift) + 1).bit_length() + 1
        return Wide(self.source.shape, max(least, self.width), self.lsb_exp)

    def attributes(self) -> dict:
        table = {"segment_bits": self.segment_bits, "root_bits": self.root_bits, "fraction": self.fraction}
        numbers = {"center": int(self.center), "epsilon": self.epsilon} | table
        return numbers | {"shift": self.shift, "width": self.result.width, "lsb_exp": self.lsb_exp}

    def constants(self) -> dict[str, np.ndarray]:
        return {"gain": self.gain, "offset": self.offset, "roots": self.roots, "slopes": self.slopes}

    def metadata(self) -> dict[str, str]:
        return {}

    @property
    def _name(self) -> str:
        return "LayerNorm" if self.center else "RMSNorm"

    def describe(self) -> str:
        return (
            f"{self._name} of every vector, with a gain and an offset for each channel, in steps of 2**{self.lsb_exp}."
        )

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: {self._name} over {self.source.channels} channels"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        upper, lower = np.array([self.epsilon]).view(np.int32)[::-1].tolist()
        widths = {"Width": self.source.width, "GainWidth": self.gain_width, "OffsetWidth": self.offset_width}
        widths |= {"SlopeWidth": self.slope_width, "VarianceWidth": self._variance_width}
        epsilon = {"EpsilonUpper": upper, "EpsilonLower": lower}
        return widths | epsilon | {"K": self.source.channels, "Lanes": folding.simd} | layers(self, counted=True)

    @property
    def _variance_width(self) -> int:
        return max(variance_bits(self.source, self.epsilon), 2)

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """Gain and offset: word (layer, beat), field l = channel beat*lanes + l. Roots, slopes: word i = segment i."""
        lanes, beats = folding.simd, group_count(self.source.channels, folding.simd)

        def words(array: np.ndarray) -> np.ndarray:
            return np.pad(array, (0, beats * lanes - len(array))).reshape(beats, lanes)

        return {
            "gain": Memory(np.concatenate([words(u.gain) for u in turns_of(self)]), self.gain_width),
            "offset": Memory(np.concatenate([words(u.offset) for u in turns_of(self)]), self.offset_width),
            "roots": Memory(self.roots[:, None], self.root_bits + 1),
            "slopes": Memory(self.slopes[:, None], self.slope_width),
        }

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        beats = self.source.beats(folding.simd) // self.source.vectors
        found = self._statistics_latency(folding.simd) + 2
        return Timing(np.arange(self.source.vectors), beats, found + self._lane_latency + beats - 1)

    def _statistics_latency(self, lanes: int) -> int:
        numbers = (self.source.width, self.source.channels, lanes, self.center)
        return latencies.norm_statistics_latency(*numbers, self.slope_width, self.root_bits - self.segment_bits)

    @property
    def _norm_bits(self) -> int:
        """Of the normalized value in mx_norm_lane."""
        return self.fraction + (self._more + 1) // 2 + 3

    @property
    def _more(self) -> int:
        """Bits that a sum over channels has more than a channel."""
        return (self.source.channels - 1).bit_length()

    @property
    def _lane_latency(self) -> int:
        scaled = latencies.times_latency(self.source.width, self.source.channels)
        root = latencies.wide_mul_latency(self._norm_bits, self.root_bits + 2)
        return 8 + scaled + root + latencies.wide_mul_latency(self._norm_bits, self.gain_width)

    def through(self, folding: Folding) -> bool:
        return False

    def parts(self, folding: Folding) -> Parts:
        return self._statistics_parts(folding.simd) | self._buffers(folding.simd) | self._lane_parts(folding.simd)

    def _buffers(self, lanes: int) -> Parts:
        beats = group_count(self.source.channels, lanes)
        depth = power_of_two(beats + self._statistics_latency(lanes) + 3)
        results = power_of_two((depth + 1) // beats + 3)
        word = self._sums[0] * self.center + self._half_bits + self.root_bits + 1
        return {
            "unit": each(20),
            "places": each(depth.bit_length() + results.bit_length() + 3 * beats.bit_length()),
            "vectors": ram(depth, lanes * self.source.width + 1),
            "results": ram(results, word),
        }

    @property
    def _sums(self) -> tuple[int, int]:
        return latencies.norm_sums(self.source.width, self.source.channels)

    @property
    def _half_bits(self) -> int:
        return max(((self._variance_width + 1) // 2 - 1).bit_length(), 1)

    def _statistics_parts(self, lanes: int) -> Parts:
        width, (total_bits, squares), variance = self.source.width, self._sums, self._variance_width
        chords = len(self.roots)
        found = {
            "squares": dots.wide(width, width) * lanes,
            "square_sums": each(lanes * squares),
            "variance": each(variance),
            "chord": dots.wide(self.slope_width, self.root_bits - self.segment_bits + 1),
            "table": total(rom(chords, bits) for bits in (self.root_bits + 1, self.slope_width)),
        }
        found |= _times("scaled", squares, self.source.channels)
        if self.center:
            found |= {"squared": dots.wide(total_bits, total_bits), "sums": each(lanes * total_bits)}
        return found

    def _lane_parts(self, lanes: int) -> Parts:
        width, beats = self.source.width, group_count(self.source.channels, lanes) * len(turns_of(self))
        moved = self._sums[0] + self.fraction
        root = dots.wide(self._norm_bits, self.root_bits + 2)
        return _times("deviations", width, self.source.channels, lanes) | {
            "moved": each(lanes * moved),
            "normed": (root + dots.wide(self._norm_bits, self.gain_width)) * lanes,
            "values": each(lanes * self.result.width),
            "offsets": each(lanes * self.offset_width),
            "delays": each(self._sums[0] * self.center + self.root_bits + self._half_bits),
            "memories": total(rom(beats, lanes * bits) for bits in (self.gain_width, self.offset_width)),
        }

    def bound(self, x: np.ndarray) -> np.ndarray:
        """What lies between this unit and a norm in float32 of an input that was not rounded, to first order; rows
        whose deviations vanish in a step of the input say nothing."""
        channels, step = self.source.channels, 2.0**self.source.lsb_exp
        mean = x.mean(-1, keepdims=True) * self.center
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        whole = variance + self.epsilon * step**2 / channels**2
        deviation = np.sqrt(whole)
        n = (x - mean) / deviation
        sums = 2.0**-23 * (channels + 8) * (mean**2 + variance) / whole  # float32 takes squares apart again
        rounded = step / deviation + (step / channels / deviation) ** 2  # the input's lowest bit, and epsilon's
        own = np.abs(n) * (2.0**-13 + sums + rounded) + 2.0 ** (1 - self.fraction) + 2 * rounded
        own += 2.0**-21 * (np.abs(x) + np.abs(mean)) / deviation
        unit = 2.0 ** (self.lsb_exp - self.shift)  # of a product and of the offset
        gain, offset = np.abs(self.gain) * unit * 2.0**self.fraction, np.abs(self.offset) * unit
        small = unit * 2.0**self.fraction * np.abs(n) + 2.0**self.lsb_exp + unit
        found = gain * own + small + 2.0**-21 * (gain * np.abs(n) + offset)
        return np.where(deviation < 4 * step, np.inf, found)


def _along_channels(found: norm_patterns.Normalization, node: ir.Node, low: Lowering) -> Pending:
    """The input of a norm, its axis as vectors. Raises Refused for an axis that comes neither first nor last."""
    stream = low.elements(found.x)
    if stream.view is None and found.axis == 1:
        flat = found.x.shape is None or len(found.x.shape) == 2
        return (low.features if flat else low.image)(found.x, stream)
    source = low.sequences(found.x)
    if source.view is None:
        return source
    if set(source.view.axes[found.axis]) == set(source.view.atoms):  # a whole frame: in any order
        return low.shaped(low.wide(source, node), (math.prod(source.shape),))
    return low.last(low.wide(source, node), found.axis)


def scaled_epsilon(source: Wide, epsilon: float) -> int:
    """In squares of K times the step of `source`; 1 at least, so that no vector has V = 0."""
    return max(round(math.ldexp(epsilon * source.channels**2, -2 * source.lsb_exp)), 1)


def variance_bits(source: Wide, epsilon: int) -> int:
    """Of K**2 times the largest variance, or mean of squares, plus epsilon."""
    return ((source.channels**2 << (2 * source.width - 2)) + epsilon).bit_length()


def kept_bits(source: Wide, epsilon: float) -> tuple[int, Wide]:
    """Bits of `source` whose variance is exact, 12 at least, and what it is with so many."""

    def with_bits(bits: int) -> Wide:  # as Affine.rounding makes it
        drop = source.width + 1 - bits
        return source if bits == source.width else replace(source, width=bits, lsb_exp=source.lsb_exp + drop)

    def fits(bits: int) -> bool:
        kind = with_bits(bits)
        return variance_bits(kind, scaled_epsilon(kind, epsilon)) <= _LARGEST_VARIANCE

    bits = next((n for n in range(source.width, _LEAST_WIDTH, -1) if fits(n)), min(source.width, _LEAST_WIDTH))
    return bits, with_bits(bits)


def _narrowed(source: Pending, epsilon: float, node: ir.Node, low: Lowering) -> Pending:
    """`source`, with as many bits as its variance may have. Raises UnsupportedError where these are too few."""
    given = source.type
    bits, kind = kept_bits(given, epsilon)
    if variance_bits(kind, scaled_epsilon(kind, epsilon)) > _LARGEST_VARIANCE:
        norm = f"a norm over {given.channels} channels of {given.width} bits, with epsilon = {epsilon:g}"
        why = f"is exact for fewer than {_LEAST_WIDTH} bits of its input; quantize before it"
        raise UnsupportedError(f"compile: node {node.name!r}: {norm}, {why}")
    return low.narrowed(source, bits, node)


def _times(kind: str, width: int, factor: int, count: int = 1) -> Parts:
    """So many mx_times: a register, an adder, or a product."""
    if latencies.times_adds(factor):
        added = width * (factor.bit_count() - 1)
        return {f"{kind}_added": Area(lut=count * added, ff=count * width)}
    return {kind: dots.wide(width, latencies.factor_bits(factor)) * count}
