"""Softmax of vectors: attention weights, in exact integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each, ram, rom
from mxexport.fpga.datapaths import dots, latencies
from mxexport.fpga.lowering.lowering import Lowering, Pending, frame_of
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.streams.words import power_of_two
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_counts
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import attribute
from mxexport.numbers import softmax
from mxexport.numbers.groups import group_count

_FRACTION, _SEGMENT_BITS, _EXP_BITS = 10, 4, 16
"""16 chords of 2**-f are off by 2**-13; shares are 72 dB and more from exact ones, where MX int8 leaves 36 to 47."""
_MORE_SHARE, _MORE_RECIPROCAL = 12, 14
"""Bits of a share, and of a reciprocal, beyond log2(T): an even share keeps 12 of them."""
_LARGEST_FACTOR = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Softmax:
    """`mask` uint8, broadcasts to a frame of `source`: 1 where an entry takes part; `values` and `slopes` as
    `softmax.exp2_table` has them; the rest as the operator says."""

    operator = ops.WideSoftmax
    module = "mx_softmax"
    clocked = True
    status = {}
    memory_kinds = ("values", "slopes", "mask")
    vectorwise = False  # a mask differs from vector to vector
    lowers = (("", "Softmax"),)

    source: Wide
    values: np.ndarray
    slopes: np.ndarray
    mask: np.ndarray
    factor: int
    drop: int
    distance_bits: int
    fraction: int
    segment_bits: int
    exp_bits: int
    reciprocal_bits: int
    out_bits: int

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        known = low.masks.get(node)
        x, scale, mask = (node.inputs[0], 1.0, None) if known is None else (known.scores, known.scale, known.mask)
        source = low.wide(low.sequences(x), node)
        if source.view is None:
            low.bind(node.outputs[0], source)
            return True
        axis = attribute(node, "axis", -1) % len(source.view.axes)
        if known is not None and known.bias is not None:
            source = _biased(source, known.bias, x, node, low)
        given, source = source, low.last(source, axis)
        placed = _placed(mask, x, source)

        sources, make = [source], lambda kind: cls.of(kind, scale, placed)
        if known is not None and known.keys is not None:
            from mxexport.fpga.units.masked_softmax import MaskedSoftmax  # which is one of these

            sources.append(low.keys(known.keys, node))
            make = lambda kind, keys: MaskedSoftmax.masked(kind, keys, scale, placed, known.keys.keep)  # noqa: E731
        made = low.add(make, sources, node, "softmax", ("shares",), source.shape)
        low.bind(node.outputs[0], made)
        if not given.view.trailing(axis) and len(given.view.groups()) > 2:  # heads come token by token
            behind = len(given.view.atoms) - given.view.atoms.index(given.view.axes[axis][-1]) - 1
            low.moved(node.outputs[0], low.shaped(low.rotated(made, behind), given.view.sizes()))
        return True

    @classmethod
    def of(cls, source: Wide, scale: float = 1.0, mask: np.ndarray | None = None) -> Softmax:
        """Of `scale` times what comes. Raises Refused where its steps are coarser than any score's."""
        step = scale * math.log2(math.e) * 2.0**source.lsb_exp  # of t
        drop = max(0, math.floor(-math.log2(step) - _FRACTION - 1))
        factor = round(step * 2.0 ** (drop + _FRACTION + softmax.FACTOR_BITS))
        if factor > _LARGEST_FACTOR:
            raise Refused(f"its input comes in steps of 2**{source.lsb_exp}; expected scores, whose steps are below 1")
        distance = min((_EXP_BITS + 3).bit_length() + _FRACTION + 2, max(source.width - drop, 1))
        more = (source.channels - 1).bit_length()
        bits = (_EXP_BITS, _MORE_RECIPROCAL + more, _MORE_SHARE + more)
        given = np.ones((1,), np.uint8) if mask is None or mask.all() else mask.astype(np.uint8)
        table = softmax.exp2_table(_SEGMENT_BITS, _EXP_BITS)
        return cls(source, *table, given, factor, drop, distance, _FRACTION, _SEGMENT_BITS, *bits)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Softmax:
        return cls._read(node, *sources, node.inputs[1:])

    @staticmethod
    def _read(node: ir.Node, source: Wide, constants: Sequence[ir.Value]) -> Softmax:
        a = graph.attributes(node)
        return Softmax(source, *(constant_array(v) for v in constants), *(a[name] for name in _NUMBERS))

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        return Wide(self.source.shape, self.out_bits + 2, -self.out_bits, nonnegative=True)

    def attributes(self) -> dict:
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return numbers | {"width": self.result.width, "lsb_exp": -self.out_bits}

    def constants(self) -> dict[str, np.ndarray]:
        return {"values": self.values, "slopes": self.slopes, "mask": self.mask}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        masked = " of what the mask leaves" * (not self.mask.all())
        return f"Softmax{masked}, {self.out_bits} bits below the point."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: softmax over {self.source.channels} entries"

    def foldings(self) -> list[Folding]:
        return [Folding(n, n) for n in lane_counts(self.source.channels) if n & (n - 1) == 0]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        rows, repeat = self._mask_rows
        masks = {"MaskRows": len(rows), "MaskRepeat": repeat}
        sizes = {"Width": self.source.width, "K": self.source.channels, "Lanes": folding.simd}
        return sizes | {"SlopeWidth": self._slope_bits} | masks

    @property
    def _slope_bits(self) -> int:
        return max(int(np.abs(self.slopes).max()).bit_length() + 1, 2)

    @property
    def _mask_rows(self) -> tuple[np.ndarray, int]:
        """Rows [n, K] of the mask, taken in turn, and for how many vectors each serves."""
        shape = self.source.shape
        full = np.broadcast_to(self.mask, shape).reshape(-1, shape[-1])
        same = (full == full[:1]).all(1)
        if same.all():
            return full[:1], 1
        repeat = int(np.argmin(same))  # vectors like the first
        if len(full) % repeat or (full != np.repeat(full[::repeat], repeat, 0)).any():
            repeat = 1
        return full[::repeat], repeat

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """Values and slopes: word i = segment i. Mask: word (row, beat), field l = entry beat*lanes + l."""
        rows, _ = self._mask_rows
        lanes = folding.simd
        padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % lanes))).astype(np.int64)
        return {
            "values": Memory(self.values[:, None], self.exp_bits + 1),
            "slopes": Memory(self.slopes[:, None], self._slope_bits),
            "mask": Memory(padded.reshape(-1, lanes), 1),
        }

    def _beats(self, lanes: int) -> int:
        """Of a vector."""
        return group_count(self.source.channels, lanes)

    def _cadence(self, lanes: int) -> int:
        """Cycles from one vector to the next: its beats, or its division."""
        return max(self._beats(lanes), self.reciprocal_bits + 2)

    def cycles(self, folding: Folding) -> int:
        return self.source.vectors * self._cadence(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        beats = self._beats(folding.simd)
        latency = latencies.softmax_latency(beats, folding.simd, self._exp_latency, self.exp_bits, self.reciprocal_bits)
        return Timing(np.arange(self.source.vectors), self._cadence(folding.simd), latency)

    @property
    def _exp_latency(self) -> int:
        low = self.fraction - self.segment_bits
        return latencies.softmax_exp_latency(self.factor, self.distance_bits, low, self._slope_bits)

    def through(self, folding: Folding) -> bool:
        return False

    def parts(self, folding: Folding) -> Parts:
        """Counted as mx_softmax builds it: what finds a maximum, lanes of exponentials, a division, shares."""
        lanes, width, beats = folding.simd, self.source.width, self._beats(folding.simd)
        top = 2 + (lanes - 1).bit_length()
        depth = power_of_two(beats + top + 4)
        added = latencies.sum_latency(lanes)
        exp_depth = power_of_two(beats + 1 + self._exp_latency + added + self.reciprocal_bits + 10)
        sums = self.exp_bits + 1 + (self.source.channels - 1).bit_length()
        low, exp = self.fraction - self.segment_bits, self.exp_bits + 1
        rows, _ = self._mask_rows
        waiting = [power_of_two((n + 1) // beats + 3) for n in (depth, exp_depth)]
        return {
            "unit": each(40),
            "places": each(3 * beats.bit_length() + exp_depth.bit_length()),
            "vectors": ram(depth, lanes * (width + 1) + 1),
            "exps": ram(exp_depth, lanes * exp + 1),
            "tops": ram(waiting[0], width + 1),
            "sums": ram(waiting[1], sums + 1) + ram(waiting[1], self.reciprocal_bits + 2),
            "largest": each(2 * lanes * width),
            "distances": each(lanes * (width + self.distance_bits)),
            "scaled": dots.wide(self.distance_bits + 1, latencies.factor_bits(self.factor)) * lanes,
            "chords": dots.wide(self._slope_bits, low + 1) * lanes,
            "tables": (rom(len(self.values), exp) + rom(len(self.values), self._slope_bits)) * lanes,
            "exponentials": each(lanes * exp),
            "added": each(sums * lanes),
            "division": each(sums + self.reciprocal_bits),
            "shares": dots.wide(exp + 1, self.reciprocal_bits + 2) * lanes,
            "values": each(lanes * (self.out_bits + 2)),
            "mask": rom(len(rows) * beats, lanes),
        }

    @property
    def _scale(self) -> float:
        """Of the scores."""
        step = self.factor * 2.0 ** -(self.drop + self.fraction + softmax.FACTOR_BITS)
        return step / math.log2(math.e) * 2.0**-self.source.lsb_exp

    def bound(self, x: np.ndarray) -> np.ndarray:
        return self._bound(x, np.broadcast_to(self.mask != 0, self.source.shape))

    def _bound(self, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Chords and the cuts of distances are off by 2**-12 of an exponential at most, and as much of the sum; the
        factor by 2**-15 of a distance; float32 by some ulps of a score; then the lowest bits of an exponential and of a
        share."""
        x = x * self._scale
        low = np.where(kept, x, -np.inf)
        distance = np.where(kept, low.max(-1, keepdims=True, initial=-1e300) - np.where(kept, x, 0), 0)
        e = np.where(kept, np.exp(-np.minimum(distance, 700)), 0)
        total = np.maximum(e.sum(-1, keepdims=True), 1e-300)
        size = np.abs(np.where(kept, x, 0)).max(-1, keepdims=True)
        own = 2.0**-11 + 2.0**-15 * distance + 2.0**-21 * size + self._scale * 2.0**self.source.lsb_exp
        each_off = e * own + 2.0**-(self.exp_bits)
        off = each_off / total + e / total * each_off.sum(-1, keepdims=True) / total
        return off + 2.0**-self.out_bits + 2.0**-22


_NUMBERS = (
    "factor",
    "drop",
    "distance_bits",
    "fraction",
    "segment_bits",
    "exp_bits",
    "reciprocal_bits",
    "out_bits",
)


def _biased(source: Pending, bias: np.ndarray, x: ir.Value, node: ir.Node, low: Lowering) -> Pending:
    """Scores `x` with what their mask adds to those that it leaves."""
    from mxexport.fpga.units.offset import Offset, constant_of  # which says how a constant lies in a stream

    placed = constant_of(bias.astype(np.float64), x, source)
    return low.add(lambda t: Offset.of(t, placed), [source], node, "offset", ("sum",), source.shape)


def _placed(mask: np.ndarray | None, x: ir.Value, source: Pending) -> np.ndarray | None:
    """A mask that broadcasts to the tensor `x` as one that broadcasts to a frame. Raises Refused for another shape."""
    if mask is None:
        return None
    frame = frame_of(x)
    try:
        spread = np.broadcast_to(mask, (1, *(frame or ())))
    except ValueError:
        raise Refused(f"its mask has shape {mask.shape}; expected one that fits {x.shape} for every frame") from None
    placed = source.view.to_stream(spread, source.shape)[0]
    for axis in range(placed.ndim - 1):  # one row for all, where they are alike
        first = placed.take([0], axis)
        placed = first if (placed == first).all() else placed
    return placed
