"""Product of two streams of MX blocks: attention's scores, and its sums of values."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Area, Parts, each, ram
from mxexport.fpga.datapaths import accumulator
from mxexport.fpga.datapaths.datapath import Datapath
from mxexport.fpga.lowering import constant_operands
from mxexport.fpga.lowering.constant_operands import ConstantOperand
from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.lowering.readers import reader, wanted_last
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.streams.views import BATCH, View, size_of
from mxexport.fpga.unit import Folding, Held, Memory, Refused, Timing, block_foldings, lane_counts
from mxexport.model import graph
from mxexport.numbers import fixedpoint

_BANKS = 2  # frames of b that mx_product holds


@dataclass(frozen=True)
class Product:
    """`a`: (T, H, K) or (T, K), the vectors; `b`: (R, G, K) or (R, K), the rows that each of them meets, head h of a
    those of head h // (H / G), of the only one where b has no axis G."""

    operator = ops.MXProduct
    module = "mx_product"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = (("", "MatMul"),)

    a: Blocks
    b: Blocks
    scale_offset: int
    width: int
    lsb_exp: int

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        operands = _operands(node, low)
        if operands is None:
            return False
        a, b = operands
        if a.view is None or b.view is None:
            blocked = low.elements(next(v for v in node.inputs if low.carries(v) and low.elements(v).view is None))
            low.bind(node.outputs[0], replace(blocked, group_size=None))
            return True
        swapped = _reads_swapped(node, a.view, b.view)
        rows, columns = (-1, -2) if swapped else (-2, -1)
        a, b = (b, a) if swapped else (a, b)
        (tokens, heads, depth), (count, shared, other) = _sides(a.view, rows, columns), _sides(b.view, columns, rows)
        if any(a.repeated for axis in a.view.axes for a in axis):
            raise Refused(f"its first operand, {a.view}, repeats heads; expected those of the second to be repeated")
        if depth != other:
            raise Refused(f"it sums over {depth} of {a.view} and {other} of {b.view}; expected as many")
        a = low.shaped(a, (tokens, heads, depth) if heads > 1 else (tokens, depth))
        b = low.shaped(b, (count, shared, depth) if shared > 1 else (count, depth))
        make, view = functools.partial(cls.of, node.name), a.view.with_last(columns, count)
        made = low.add(make, [a, b], node, "product", ("wide",), (*a.shape[:-1], count), view=view)
        low.bind(node.outputs[0], made, node)
        return True

    @classmethod
    def of(cls, name: str, a: Blocks, b: Blocks) -> Product:
        """For a node of that name, with the smallest accumulator that no values of both streams overflow.

        Raises:
            Refused: streams that do not meet.
            UnsupportedError: more than 63 bits; says what makes it so wide.
        """
        _check(a, b)
        found = accumulator.sized_dynamic(name, a, b)
        return cls(a, b, found.scale_offset, found.width, found.lsb_exp)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Product:
        attributes = graph.attributes(node)
        return cls(*sources, *(attributes[name] for name in ("scale_offset", "width", "lsb_exp")))

    @property
    def sources(self) -> tuple:
        return (self.a, self.b)

    @property
    def rows(self) -> int:
        """Vectors of a head of b."""
        return self.b.shape[0]

    @property
    def heads(self) -> tuple[int, int]:
        """Of a and of b."""
        return self.a.vectors // self.a.shape[0], self.b.vectors // self.b.shape[0]

    @property
    def result(self) -> Wide:
        return Wide((*self.a.shape[:-1], self.rows), self.width, self.lsb_exp)

    def attributes(self) -> dict:
        sides = [(name, fixedpoint.element_parameters(s.element)) for name, s in (("a", self.a), ("b", self.b))]
        bits = {f"{name}_{kind}": e[kind] for name, e in sides for kind in ("exponent_bits", "mantissa_bits")}
        sizes = {"scale_offset": self.scale_offset, "width": self.width, "lsb_exp": self.lsb_exp}
        return {"group_size": self.a.group_size} | bits | sizes

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        formats = f"{self.a.format} x {self.b.format}"
        return f"{formats}, both computed; exact accumulator of {self.width} bits, one unit is 2**{self.lsb_exp}."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: {list(self.a.shape)} by {list(self.b.shape)}, {self.cycles(folding)} cycles per frame"

    def foldings(self) -> list[Folding]:
        lanes = [f.simd for f in block_foldings(self.a)]
        return self.datapath(Folding(1, 1)).foldings(lane_counts(self.rows), lanes)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.pe

    def datapath(self, folding: Folding) -> Datapath:
        element = self.b.element
        symmetric = self.b.largest < 2 ** (element.linear_bits - 1)
        shift_max = self.a.code_max + self.b.code_max - self.scale_offset
        return Datapath(self.a, element, self.rows, symmetric, self.width, shift_max, folding)

    def parameters(self, folding: Folding) -> dict[str, int]:
        heads, shared = self.heads
        sizes = {"K": self.a.channels, "Tokens": self.a.shape[0], "Heads": heads, "BHeads": shared}
        return sizes | self.datapath(folding).parameters()

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        """A frame of a is used while the next one of b comes into the other bank, whose frame must be done."""
        path = self.datapath(folding)
        used, come = self.a.vectors * path.folds * path.beats, self.b.beats(folding.simd)
        turned = used + come + self._handed_over(path) + path.latency(self._late(path)) - (path.folds - 1) * path.beats
        return max(used, come, -(-turned // _BANKS))

    def timing(self, folding: Folding) -> Timing:
        path = self.datapath(folding)
        latency = path.latency(self._late(path))
        behind = latency + path.beats + self._handed_over(path)
        return Timing(np.arange(self.a.vectors), path.folds * path.beats, latency, held=(Held(behind, _BANKS),))

    def _handed_over(self, path: Datapath) -> int:
        """Cycles from the last beat of a frame of b until its bank is read."""
        return 2 + path.pairs

    def _late(self, path: Datapath) -> bool:
        """Whether codes from block RAM pass a register, before products in LUTs."""
        return not path.takes_dsp and ram(self._code_words(path), path.folding.simd * path.stored_bits).bram36 > 0

    def _code_words(self, path: Datapath) -> int:
        """Of the memory that each row has which works at once."""
        return _BANKS * self.heads[1] * path.folds * path.beats

    def through(self, folding: Folding) -> bool:
        return self.datapath(folding).folds == 1  # else a replay buffer stands before it

    def parts(self, folding: Folding) -> Parts:
        """Counted as mx_product builds it."""
        path, shift = self.datapath(folding), self.datapath(folding).shift_max.bit_length()
        word, words = folding.simd * path.stored_bits, self._code_words(path)
        scale_words = _BANKS * self.heads[1] * path.folds * path.places * path.turns
        beat = path.across * shift + folding.simd * self.a.bits
        found = path.parts()
        if path.folds > 1:
            found |= {"replayed": ram(2 * path.beats, beat), "replay": each(45)}
        signs = ram(self.heads[1] * path.beats, folding.simd) if path.pairs else Area()
        counted = words.bit_length() + scale_words.bit_length() + self.a.vectors.bit_length()
        late = folding.pe * word + folding.simd * self.a.bits
        return found | {
            "rows": ram(words, word) * folding.pe + ram(scale_words, path.across * shift) * path.groups + signs,
            "late": Area(ff=late * self._late(path)),
            "written": each((word + path.across * shift + folding.pe) * (1 + path.pairs)),
            "beats": each(beat),
            "places": each(counted + 2 * self.b.vectors.bit_length() + 20),
        }

    def bound(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """How far a product in float32 may be off, for inputs as the graph dequantizes them (float64 [N, *shape]):
        (K + 2) * 2**-23 * (|a| . |b|) + half an LSB of the accumulator."""
        heads, shared = self.heads
        a, b = np.abs(a).reshape(-1, *self._four(self.a)), np.abs(b).reshape(-1, *self._four(self.b))
        sums = np.einsum("nthk,nrhk->nthr", a, b.repeat(heads // shared, 2))
        whole = (self.a.channels + 2) * 2.0**-23 * sums + 2.0 ** (self.lsb_exp - 1)
        return whole.reshape(-1, *self.result.shape)

    @staticmethod
    def _four(stream: Blocks) -> tuple[int, int, int]:
        return stream.shape[0], stream.vectors // stream.shape[0], stream.channels


def _operands(node: ir.Node, low: Lowering) -> tuple[Pending, Pending] | None:
    """Both operands of a product of two streams, of which one may be a constant that is no weight; None of others."""
    carried = [low.carries(value) for value in node.inputs]
    if all(carried):
        return tuple(low.sequence_blocks(value) for value in node.inputs)
    at = carried.index(False)
    beside, operand = node.inputs[1 - at], ConstantOperand.of(node.inputs[at])
    if not any(carried) or operand is None or (at == 1 and operand.values.ndim < 3):
        return None
    other = low.sequence_blocks(beside)
    fixed = other if other.view is None else constant_operands.lower(operand, at, beside, node, low)
    return (fixed, other) if at == 0 else (other, fixed)


def _reads_swapped(node: ir.Node, a: View, b: View) -> bool:
    """Whether who reads A B wants it column by column, as B^T A^T comes, and not row by row."""
    try:
        sides = _sides(a, -2, -1), _sides(b, -1, -2)
    except Refused:  # who lowers it says so
        return False
    if sides[0][1] != sides[1][1]:
        return False  # heads that others share come second
    wanted = []
    for view in (a.with_last(-1, sides[1][0]), b.with_last(-2, sides[0][0])):
        user, _, there = reader(node.outputs[0], view)
        axis = None if user is None else wanted_last(user, there)
        wanted.append(axis is not None and there.trailing(axis))
    return wanted == [False, True]


def _sides(view: View, vectors: int, summed: int) -> tuple[int, int, int]:
    """Vectors, heads, and the length that is summed over, of an operand [batch, heads..., ., .] that comes in that
    order. Raises Refused where it does not."""
    count = len(view.axes)
    if count > 2 and BATCH in view.axes[0] and view.axes[0] != (BATCH,):
        raise Refused(
            f"its input has the axes {view}: parts of a frame (windows) stand in the batch; expected sequences"
        )
    if count < 3 or view.axes[0] != (BATCH,):
        raise Refused(f"its input has the axes {view}; expected (batch, heads, tokens, channels)")
    heads = tuple(a for axis in view.axes[1:-2] for a in axis)
    if heads and heads[-1].repeated:  # several heads of the other operand meet one of this
        heads = heads[:-1]
    if (*view.axes[vectors], *heads, *view.axes[summed]) != view.atoms:
        expected = f"expected axis {vectors} first, then heads, and axis {summed} last"
        raise Refused(f"its input {view} does not come token by token, head by head; {expected}")
    return size_of(view.axes[vectors]), size_of(heads), size_of(view.axes[summed])


def _check(a: Blocks, b: Blocks) -> None:
    """Raise Refused unless the two streams can be multiplied."""
    if not 2 <= len(b.shape) <= len(a.shape) <= 3:
        raise Refused(
            f"multiplies frames of {list(a.shape)} and {list(b.shape)}; expected [tokens, channels] or "
            "[tokens, heads, channels], with heads on the first side where the second has some"
        )
    if a.channels != b.channels:
        raise Refused(f"multiplies vectors of {a.channels} and {b.channels} elements; expected the same number")
    if a.group_size != b.group_size:
        raise Refused(f"multiplies groups of {a.group_size} and {b.group_size}; expected the same group size")
    if len(b.shape) == 3 and a.shape[1] % b.shape[1]:
        raise Refused(f"multiplies {a.shape[1]} heads with {b.shape[1]}; expected a multiple of them")
    if b.bits > 8:
        raise Refused(
            f"its second operand has elements of {b.bits} bits ({b.format} as signed integers); expected at most 8: "
            "give it a signed or an MX format"
        )
