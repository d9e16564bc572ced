"""Every channel times its own gain, plus its own offset: batch norms that were not folded, constants that multiply,
divide, or are added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.errors import UnsupportedError
from mxexport.fpga.areas.area import Parts, each, rom, total
from mxexport.fpga.datapaths import dots, latencies
from mxexport.fpga.datapaths.accumulator import dropped_bits, per_channel
from mxexport.fpga.datapaths.stacked import concatenated, layers, signed_bits, turns_of
from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.lowering.turns import in_coarsest_step
from mxexport.fpga.lowering.whole_numbers import are_whole, division, negation
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, in_width, lane_foldings
from mxexport.fpga.units.offset import constant_of, is_of_channels
from mxexport.fpga.units.reshape import Reshape
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import attribute, constant
from mxexport.numbers.fixedpoint import MAX_WIDTH, round_to_lsb
from mxexport.numbers.groups import group_count

_GAIN_WIDTH = 26  # sign included: fits a port of a DSP48E2, and float32 knows no more of the largest gain
_OFFSET_WIDTH = 58


@dataclass(frozen=True, eq=False)
class Affine:
    """`gain` and `offset` int64 [C]; the result has `lsb_exp`, and `width` bits at least."""

    operator = ops.WideAffine
    module = "mx_affine"
    clocked = True
    status = {}
    memory_kinds = ("gain", "offset")
    vectorwise = True
    lowers = tuple(("", name) for name in ("Mul", "Div", "Add", "Sub", "Neg", "Not", "BatchNormalization"))

    source: Wide
    gain: np.ndarray
    offset: np.ndarray
    shift: int
    lsb_exp: int
    width: int = 0
    others: tuple[Affine, ...] = ()
    """Those of later turns, whose gains and offsets it takes in turn."""

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if node.op_type == "Neg":
            source = low.wide(low.elements(node.inputs[0]), node)
            made = low.add(cls.negated, [source], node, "negate", ("negated",), source.shape)
            low.bind(node.outputs[0], made, node)
            return True
        if node.op_type == "Not":
            return negation(node, low)
        if node.op_type == "Div" and low.carries(node.inputs[1]) and low.carries(node.inputs[0]):
            return division(node, low)
        x, a, b = _parts(node)
        source = low.wide(low.elements(x), node)
        if are_whole(x) and b is not None and b.size == 1 and not (np.asarray(a) != 1).any():
            make = lambda t: cls.shifted(t, int(b.reshape(())))  # noqa: E731
            low.bind(node.outputs[0], low.add(make, [source], node, "add", ("sum",), source.shape), node)
            return True
        power = _power_of_two(a) if b is None else None
        if power is not None:
            make = lambda t: Reshape(t, t.shape, power)  # noqa: E731
            low.bind(node.outputs[0], low.add(make, [source], node, "scale", ("scaled",), source.shape), node)
            return True
        source = low.narrowed(source, MAX_WIDTH - 1 - _GAIN_WIDTH, node)
        result = node.outputs[0]
        if b is None and node.op_type in ("Mul", "Div") and source.view is None:
            result, b = low.take_bias(node)

        def make(kind: Wide) -> Affine:
            made = cls._of(kind, *(_by_channel(v, x, source, kind) for v in (a, np.array(0.0) if b is None else b)))
            widest = max(made.source.width + made.gain_width, made.offset_width) + 1
            if widest > MAX_WIDTH:
                needs = f"its products need {widest} bits, at most {MAX_WIDTH} are exact"
                raise UnsupportedError(f"compile: node {node.name!r}: {needs}; quantize before it, or fold it")
            return made

        low.bind(result, low.add(make, [source], node, "affine", ("scaled",), source.shape), node)
        return True

    @classmethod
    def _of(cls, source: Wide, a: np.ndarray, b: np.ndarray) -> Affine:
        exponent = int(np.frexp(np.abs(a).max(initial=0))[1]) - (_GAIN_WIDTH - 1)  # of the gain's lowest bit
        largest = int(np.frexp(np.abs(b).max(initial=0))[1])
        # An offset far above the products takes bits from them that its own float32 never had.
        exponent = max(exponent, largest - _OFFSET_WIDTH - source.lsb_exp)
        gain = np.clip(round_to_lsb(a, exponent), 1 - 2 ** (_GAIN_WIDTH - 1), 2 ** (_GAIN_WIDTH - 1) - 1)
        shift = max(dropped_bits(source.width + _GAIN_WIDTH, source.width), 1)
        return cls(source, gain, round_to_lsb(b, source.lsb_exp + exponent), shift, source.lsb_exp + exponent + shift)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Affine:
        a = graph.attributes(node)
        made = cls(*sources, *(constant_array(value) for value in node.inputs[1:]), a["shift"], a["lsb_exp"])
        return in_width(made, a["width"])

    @classmethod
    def alike(cls, units: list[Affine]) -> list[Affine]:
        """Those of all turns, in the coarsest step of a gain that one has."""
        return in_coarsest_step(units, "gain", "offset")

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @classmethod
    def rounding(cls, source: Wide, bits: int) -> Affine:
        """Wide integers of at most `bits` bits: the lowest ones are rounded off."""
        ones, drop = np.ones(source.channels, np.int64), source.width + 1 - bits
        return cls(source, ones, np.zeros_like(ones), drop, source.lsb_exp + drop)

    @classmethod
    def onto(cls, source: Wide, lsb_exp: int) -> Affine:
        """Wide integers in another step: rounded where it is coarser, exact where it is finer. Raises UnsupportedError
        where that takes more bits than a product has."""
        drop = lsb_exp - source.lsb_exp
        if max(-drop, 0) + source.width > MAX_WIDTH - 3 or 1 - drop > _GAIN_WIDTH - 2:
            needs = f"{source.width} bits in steps of 2**{source.lsb_exp} cannot be brought to steps of 2**{lsb_exp}"
            raise UnsupportedError(f"compile: {needs}; quantize before what goes around in turns")
        ones = np.ones(source.channels, np.int64)
        return cls(source, ones << max(1 - drop, 0), np.zeros_like(ones), max(drop, 1), lsb_exp)

    @classmethod
    def scaled(cls, source: Pending, factor: float, node: ir.Node, low: Lowering) -> Pending:
        """A stream times one positive number, for a node that computes more than that."""
        source = low.narrowed(source, MAX_WIDTH - 1 - _GAIN_WIDTH, node)

        def make(kind: Wide) -> Affine:
            return cls._of(kind, np.full(kind.channels, factor), np.zeros(kind.channels))

        return low.add(make, [source], node, "scale", ("scaled",), source.shape)

    @classmethod
    def negated(cls, source: Wide) -> Affine:
        """The other sign, exact: -2 * x / 2."""
        gain = np.full(source.channels, -2, np.int64)
        return cls(source, gain, np.zeros_like(gain), 1, source.lsb_exp)

    @classmethod
    def shifted(cls, source: Wide, number: int) -> Affine:
        """Whole numbers and one more, exact: (2 * x + 2 * number) / 2."""
        gain = np.full(source.channels, 2, np.int64)
        return cls(source, gain, gain * number << max(-source.lsb_exp, 0), 1, source.lsb_exp)

    @classmethod
    def complement(cls, source: Wide) -> Affine:
        """1 - x of zeros and ones, exact."""
        gain = np.full(source.channels, -2, np.int64)
        return cls(source, gain, -gain << max(-source.lsb_exp, 0), 1, source.lsb_exp)

    @property
    def gain_width(self) -> int:
        return signed_bits(*(u.gain for u in turns_of(self)))

    @property
    def offset_width(self) -> int:
        return signed_bits(*(u.offset for u in turns_of(self)))

    @property
    def result(self) -> Wide:
        top = 2 ** (self.source.width - 1)
        largest = max(int(abs(g)) * top + int(abs(o)) for g, o in zip(self.gain, self.offset, strict=True))
        least = max((largest >> self.shift) + 1, 1).bit_length() + 1
        return Wide(self.source.shape, max(least, self.width), self.lsb_exp)

    def attributes(self) -> dict:
        return {"shift": self.shift, "width": self.result.width, "lsb_exp": self.lsb_exp}

    def constants(self) -> dict[str, np.ndarray]:
        return {"gain": self.gain, "offset": self.offset}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"Every channel times its gain plus its offset, rounded once to 2**{self.lsb_exp}."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: gain and offset of {self.source.channels} channels"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        widths = {"Width": self.source.width, "GainWidth": self.gain_width, "OffsetWidth": self.offset_width}
        return widths | {"K": self.source.channels, "Lanes": folding.simd} | layers(self, counted=True)

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """Word (layer, beat), field l = channel beat*lanes + l."""
        lanes = folding.simd
        beats = group_count(self.source.channels, lanes)

        def words(array: np.ndarray) -> np.ndarray:
            return np.pad(array, (0, beats * lanes - len(array))).reshape(beats, lanes)

        widths = {"gain": self.gain_width, "offset": self.offset_width}
        return concatenated(
            [{k: Memory(words(array), widths[k]) for k, array in u.constants().items()} for u in turns_of(self)]
        )

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        latency = 3 + latencies.wide_mul_latency(self.source.width, self.gain_width)
        return Timing(np.arange(self.source.vectors), self.source.beats(folding.simd) // self.source.vectors, latency)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        lanes, count = folding.simd, group_count(self.source.channels, folding.simd) * len(turns_of(self))
        sums = max(self.source.width + self.gain_width, self.offset_width)
        product = dots.wide(self.source.width, self.gain_width)
        return {
            "unit": each(10),
            "products": product * lanes,
            ("sums" if product.dsp > 1 else "sums_in_slices"): each(lanes * sums),
            "values": each(lanes * self.result.width),
            "offsets": each(lanes * self.offset_width),
            "memories": total(rom(count, lanes * width) for width in (self.gain_width, self.offset_width)),
        }

    def bound(self, x: np.ndarray) -> np.ndarray:
        """Gains are rounded to 26 bits with one exponent, the offset and the result once each; float32 rounds, too."""
        step = 2.0 ** (self.lsb_exp - self.shift - self.source.lsb_exp)  # of a gain
        gain, offset = np.abs(self.gain) * step, np.abs(self.offset) * 2.0 ** (self.lsb_exp - self.shift)
        own = gain * 2.0 ** (self.source.lsb_exp - 1) + 2.0**self.lsb_exp  # of an input that was rounded, of the result
        return np.abs(x) * (step + 2.0**-21 * gain) + 2.0**-21 * offset + own


def _by_channel(constant: np.ndarray, x: ir.Value, source: Pending, kind: Wide) -> np.ndarray:
    """What each channel of `kind` gets of a constant beside the tensor `x`. Raises Refused."""
    if source.view is None:
        return per_channel(constant, kind.channels, 0 if x.shape is None else len(x.shape) - 2)
    placed = constant_of(constant, x, source)
    if placed is None or not is_of_channels(placed):
        raise Refused(
            f"its constant has the shape {constant.shape}; expected one value for each of {kind.channels} channels"
        )
    return placed.reshape(-1, kind.channels)[0]


def _power_of_two(factor: np.ndarray) -> int | None:
    """The exponent of a single factor that only moves the point; None of others."""
    mantissa, exponent = np.frexp(factor.reshape(-1)[0])
    return int(exponent) - 1 if factor.size == 1 and mantissa == 0.5 else None


def _parts(node: ir.Node) -> tuple[ir.Value, np.ndarray, np.ndarray | None]:
    """The tensor, its gains and its offsets, where it has some (float64). Raises Refused."""
    if node.op_type == "BatchNormalization":
        return _norm(node)
    found = [constant(v) for v in node.inputs]
    if all(c is None for c in found) or (node.op_type == "Div" and found[1] is None):
        words = {"Mul": "multiplies two tensors; only constant factors", "Div": "divides by a tensor; only constants"}
        raise Refused(f"{words[node.op_type]} are lowered")
    which = 0 if found[0] is not None else 1
    x, given = node.inputs[1 - which], found[which].astype(np.float64)
    if not np.isfinite(given).all() or (node.op_type == "Div" and not given.all()):
        raise Refused("its constant holds NaN or Inf, or divides by 0")
    if node.op_type in ("Mul", "Div"):
        return x, given if node.op_type == "Mul" else 1 / given, None
    if node.op_type == "Sub" and which == 1:  # x - constant
        return x, np.array(1.0), -given
    return x, np.array(-1.0 if node.op_type == "Sub" else 1.0), given


def _norm(node: ir.Node) -> tuple[ir.Value, np.ndarray, np.ndarray]:
    parts = [constant(v) for v in node.inputs[1:5]]
    if any(p is None or not np.isfinite(p).all() for p in parts) or len(parts) < 4:
        raise Refused("its parameters are no finite constants")
    epsilon = attribute(node, "epsilon", 1e-5)
    scale, shift, mean, variance = (p.astype(np.float64) for p in parts)
    gain = scale / np.sqrt(variance + epsilon)
    shape = (-1, *[1] * ((2 if node.inputs[0].shape is None else len(node.inputs[0].shape)) - 2))
    return node.inputs[0], gain.reshape(shape), (shift - mean * gain).reshape(shape)
