"""A constant of its own for every place of a frame: what tokens get by their position, and tokens that are constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.errors import UnsupportedError
from mxexport.fpga.areas.area import Parts, each, rom
from mxexport.fpga.datapaths.stacked import signed_bits, turns_of
from mxexport.fpga.lowering.lowering import Lowering, Pending, frame_of
from mxexport.fpga.lowering.turns import widest
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.streams.views import BATCH, View, size_of
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, in_width, lane_foldings
from mxexport.fpga.units.pad import Pad
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import repeated_constant
from mxexport.numbers.fixedpoint import MAX_WIDTH, round_to_lsb
from mxexport.numbers.grids import Grid
from mxexport.numbers.groups import group_count

_BITS = 27
"""Of the largest constant, below its leading one: float32 knows no more."""


@dataclass(frozen=True, eq=False)
class Offset:
    """`offset` int64, of the shape of a frame, in units of 2**lsb_exp, which is not above the input's; the result has
    `width` bits at least."""

    operator = ops.WideOffset
    module = "mx_offset"
    clocked = True
    status = {}
    memory_kinds = ("offset",)
    vectorwise = False
    lowers = (("", "Add"), ("", "Sub"), ("", "Concat"))

    source: Wide
    offset: np.ndarray
    lsb_exp: int
    width: int = 0
    others: tuple[Offset, ...] = ()
    """Those of later turns, whose constants it takes in turn."""

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if node.op_type == "Concat":
            return cls._lower_tokens(node, low)
        which = next((i for i, v in enumerate(node.inputs) if not low.carries(v)), None)
        given = None if which is None else constant_array(node.inputs[which])
        if given is None or not low.carries(node.inputs[1 - which]):
            return False
        if low.elements(node.inputs[1 - which]).shape is None:
            return False
        if node.op_type == "Sub" and which == 0:
            return False
        x, given = node.inputs[1 - which], given.astype(np.float64)
        source = low.wide(low.sequences(x), node)
        if source.view is None or (placed := constant_of(given, x, source)) is None or is_of_channels(placed):
            return False
        if not np.isfinite(placed).all():
            raise Refused("its constant holds NaN or Inf")
        values = -placed if node.op_type == "Sub" else placed

        kept = low.elements(x).view  # images stay images
        made = low.add(cls._making(values, node), [source], node, "offset", ("sum",), source.shape)
        low.bind(node.outputs[0], replace(made, view=kept), node)
        return True

    @classmethod
    def _lower_tokens(cls, node: ir.Node, low: Lowering) -> bool:
        """Constant tokens before or behind those that come: zeros take their places, and a constant is added, together
        with what is added behind."""
        beside = [repeated_constant(v) for v in node.inputs]
        streams = [i for i, c in enumerate(beside) if c is None]
        if len(streams) != 1 or len(beside) < 2 or not low.carries(node.inputs[streams[0]]):
            return False
        (at,) = streams
        source = low.wide(low.sequences(node.inputs[at]), node)
        if source.view is None:
            low.bind(node.outputs[0], source)
            return True
        axis = node.attributes["axis"].value % len(source.view.axes)
        if len(source.view.axes) != 3 or axis != 1 or not source.view.same(View.of(source.view.sizes())):
            raise Refused(f"it joins a constant to {source.view} along axis {axis}; expected tokens, along axis 1")
        tokens, channels = (size_of(a) for a in source.view.axes[1:])
        rows = [sum(c.shape[1] for c in constants) for constants in (beside[:at], beside[at + 1 :])]
        more = sum(rows)
        result, added = low.take_bias(node, by_place=True)
        between = np.zeros((1, tokens, channels))
        values = np.concatenate([between if c is None else c for c in beside], 1)[0].astype(np.float64)
        values = values + (0.0 if added is None else np.broadcast_to(added, (1, *values.shape))[0])
        if not np.isfinite(values).all():
            raise Refused("its constant holds NaN or Inf")
        image = low.shaped(source, (tokens, 1, channels))
        make = lambda t: Pad(t, (rows[0], 0, rows[1], 0))  # noqa: E731
        image = low.add(make, [image], node, "pad", ("padded",), (tokens + more, 1, channels))
        view = View.of((tokens + more, channels))
        padded = low.shaped(replace(image, view=view), (tokens + more, channels))
        low.bind(result, low.add(cls._making(values, node), [padded], node, "offset", ("sum",), padded.shape), node)
        return True

    @classmethod
    def _making(cls, values: np.ndarray, node: ir.Node) -> Callable[[Wide], Offset]:
        def make(source: Wide) -> Offset:
            made = cls.of(source, values)
            if made.result.width > MAX_WIDTH:
                needs = f"its exact sum needs {made.result.width} bits, at most {MAX_WIDTH} are exact"
                raise UnsupportedError(f"compile: node {node.name!r}: {needs}; quantize before it")
            return made

        return make

    @classmethod
    def of(cls, source: Wide, values: np.ndarray) -> Offset:
        """`values` float64, of the shape of a frame."""
        top = int(np.frexp(np.abs(values).max(initial=0))[1])
        lsb_exp = min(source.lsb_exp, top - _BITS)
        return cls(source, round_to_lsb(values, lsb_exp), lsb_exp)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Offset:
        a = graph.attributes(node)
        return in_width(cls(*sources, constant_array(node.inputs[1]), a["lsb_exp"]), a["width"])

    @classmethod
    def alike(cls, units: list[Offset]) -> list[Offset]:
        """Those of all turns, in the finest step that one has."""
        lsb_exp = min(u.lsb_exp for u in units)
        return widest([replace(u, offset=u.offset << (u.lsb_exp - lsb_exp), lsb_exp=lsb_exp) for u in units])

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def offset_width(self) -> int:
        return signed_bits(*(u.offset for u in turns_of(self)))

    @property
    def result(self) -> Wide:
        added = Grid.of_width(self.lsb_exp, self.offset_width)
        least = Wide.holding(self.source.grid.at(self.lsb_exp) + added, self.source.shape)
        return replace(least, width=max(least.width, self.width))

    def attributes(self) -> dict:
        shift = {"x_shift": self.source.lsb_exp - self.lsb_exp}
        return shift | {"width": self.result.width, "lsb_exp": self.lsb_exp}

    def constants(self) -> dict[str, np.ndarray]:
        return {"offset": self.offset}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"A constant for every place of {list(self.source.shape)}, exact in {self.result.width} bits."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: a constant for every place of {list(self.source.shape)}"

    def foldings(self) -> list[Folding]:
        return lane_foldings(self.source.channels)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        widths = {"Width": self.source.width, "OffsetWidth": self.offset_width}
        return widths | {"Beats": self._words(folding), "Lanes": folding.simd}

    def _words(self, folding: Folding) -> int:
        """Beats of a frame, for every layer: the module tells one frame from the next by nothing else."""
        return self.source.beats(folding.simd) * len(turns_of(self))

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """Word (layer, vector, beat), field l = channel beat*lanes + l."""
        words = [by_beats(u.offset, folding.simd) for u in turns_of(self)]
        return {"offset": Memory(np.concatenate(words), self.offset_width)}

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        return Timing(np.arange(self.source.vectors), self.source.beats(folding.simd) // self.source.vectors, 2)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        lanes, beats = folding.simd, self._words(folding)
        memory = rom(beats, lanes * self.offset_width)
        # Sums of constants from few words are simpler, of those from block RAM nothing but adders.
        sums = "few_sums" if beats <= 8 else "block_sums" if memory.bram36 else "sums"
        return {
            "unit": each(10),
            "places": each(beats.bit_length()),
            sums: each(lanes * self.result.width),
            "values": each(lanes * self.source.width),
            "memories": memory,
        }

    def bound(self, x: np.ndarray) -> np.ndarray:
        """The constant is rounded to the result's step; float32 rounds it and the sum once each."""
        added = np.abs(self.offset) * 2.0**self.lsb_exp
        return 2.0**-23 * (np.abs(x) + added) + 2.0 ** (self.lsb_exp - 1)


def by_beats(values: np.ndarray, lanes: int) -> np.ndarray:
    """Constants of a frame [..., channels] as words of a ROM, one for each beat [beats, lanes]."""
    rows = values.reshape(-1, values.shape[-1])
    surplus = group_count(rows.shape[1], lanes) * lanes - rows.shape[1]
    return np.pad(rows, ((0, 0), (0, surplus))).reshape(-1, lanes)


def constant_of(given: np.ndarray, x: ir.Value, source: Pending) -> np.ndarray | None:
    """A constant beside the tensor `x`, one value for each of a frame of `source`; None where it has no such shape."""
    frame = frame_of(x)
    if frame is None or source.view is None or (given.ndim > len(frame) and given.shape[0] != 1):
        return None
    rows = math.prod(atom.size for atom in source.view.axes[0] if atom != BATCH)  # tokens that stand in the batch
    try:
        spread = np.broadcast_to(given, (rows, *frame))
    except ValueError:
        return None
    return source.view.to_stream(spread, source.shape)[0]


def is_of_channels(placed: np.ndarray) -> bool:
    """Whether all vectors of a frame get the same."""
    rows = placed.reshape(-1, placed.shape[-1])
    return bool((rows == rows[:1]).all())
