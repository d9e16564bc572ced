"""Layers of a QONNX graph that repeat: runs of nodes alike, one behind the other, with one tensor between them and what
all of them read beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from mxexport.errors import OptionError
from mxexport.fpga.lowering.borders import label, shape_nodes
from mxexport.fpga.lowering.calibrate import is_range
from mxexport.fpga.lowering.layer_names import PRODUCTS
from mxexport.model import graph
from mxexport.model.rewriting import constant, nodes_of_scales

_CALIBRATED = {"code_min", "code_max"}
"""Attributes that calibration sets: they may differ between turns."""
_Score = tuple[int, int]  # products saved, nodes saved


@dataclass(frozen=True)
class Repeats:
    """`turns`: the nodes of every turn, those at one place alike; `ends`: the tensors before the first turn and behind
    each, one more than turns. What else a turn reads from outside, such as a mask, all of them read."""

    turns: tuple[tuple[ir.Node, ...], ...]
    ends: tuple[ir.Value, ...]


def find(model: ir.Model) -> Repeats:
    """The layers whose repetition saves the most products.

    Raises:
        OptionError: none repeat; says what comes nearest, and where it ends.
    """
    walk = _Walk(model.graph)
    best, most = None, (0, 0)
    for score, begin, period, count in sorted(walk.candidates(), reverse=True):
        if score <= most:
            break
        found = walk.repeats(begin, period, count)
        if found is not None and (own := walk.score(begin, period, len(found.turns))) > most:
            best, most = found, own
    if best is None:
        raise OptionError(f"in_turn: no layers repeat with one tensor between them; {walk.nearest()}")
    return best


class _Walk:
    """The nodes that inputs of the graph reach, in order, and what each is but for its edges, so that equal runs of
    nodes are equal runs of words."""

    def __init__(self, g: ir.Graph):
        self._graph = g
        beside = shape_nodes(g) | nodes_of_scales(g)
        self._moving, moving = set(g.inputs), []
        for node in g:
            if node not in beside and any(v in self._moving for v in node.inputs):
                moving.append(node)
                self._moving.update(node.outputs)
        self.nodes = _masks_first(moving)
        self._at = {node: i for i, node in enumerate(self.nodes)}
        self._words = [self._word(node) for node in self.nodes]
        kinds: dict[tuple, int] = {}
        self._kinds = np.array([kinds.setdefault(word, len(kinds)) for word in self._words], np.int64)
        self._products = np.cumsum([0, *(node.op_type in PRODUCTS for node in self.nodes)])

    def _word(self, node: ir.Node) -> tuple:
        attributes = tuple((a.name, _text(a)) for a in _sorted(node) if a.name not in _CALIBRATED)
        inputs = tuple(self._input(node, v) for v in node.inputs)
        return node.domain, node.op_type, attributes, inputs, tuple(str(v.shape) for v in node.outputs)

    def _input(self, node: ir.Node, value: ir.Value | None) -> tuple:
        if value is None:
            return ("none",)
        return ("moving",) if value in self._moving else _constant(value, is_range(node))

    @cached_property
    def _alive(self) -> list[frozenset[ir.Value]]:
        """Before place i, and behind the last: the tensors that come from before and are read there or behind it."""
        last = {v: i for i, node in enumerate(self.nodes) for v in node.inputs if v in self._moving}
        last |= dict.fromkeys(self._graph.outputs, len(self.nodes))
        found = [frozenset(v for v in self._graph.inputs if v in last)]
        for i, node in enumerate(self.nodes):
            found.append(frozenset(v for v in (*found[-1], *node.outputs) if last.get(v, -1) > i))
        return found

    def _runs(self, period: int) -> list[tuple[int, int]]:
        """(first place, places) of every stretch that is alike the one `period` places behind it."""
        same = np.flatnonzero(np.diff(np.r_[0, self._kinds[period:] == self._kinds[:-period], 0]))
        return [(int(a), int(b - a)) for a, b in same.reshape(-1, 2)]

    def candidates(self) -> Iterator[tuple[_Score, int, int, int]]:
        """(score at most, first place, period, turns) of nodes alike that repeat, whatever their edges are; of equal
        ones the latest is the largest."""
        for period in range(1, len(self.nodes) // 2 + 1):
            for first, length in self._runs(period):
                for begin in range(first, first + length - period + 1):
                    count = self._one_between(begin, period, (first + length - begin) // period + 1)
                    score = self.score(begin, period, count)
                    if count > 1 and score[0]:
                        yield score, begin, period, count

    def _one_between(self, begin: int, period: int, most: int) -> int:
        """Turns, behind each of which one tensor leaves them."""
        before, count = self._alive[begin], 0
        while count < most and len(self._alive[begin + (count + 1) * period] - before) == 1:
            count += 1
        return count

    def score(self, begin: int, period: int, count: int) -> _Score:
        products = int(self._products[begin + period] - self._products[begin])
        return (count - 1) * products, (count - 1) * period

    def repeats(self, begin: int, period: int, most: int) -> Repeats | None:
        """As many turns from a place on, or fewer, as have equal edges: each reads what the one before gives, and
        besides what all read; None for less than two."""
        before = self._alive[begin]
        starts = [begin + t * period for t in range(most + 1)]
        ends = [next(iter(self._alive[start] - before)) for start in starts[1:]]
        inner, outer = zip(*(self._edges(start, period) for start in starts[:-1]), strict=True)
        second = outer[1]
        entries = {outer[0][k] for k, v in enumerate(second) if v is ends[0]} if len(outer[0]) == len(second) else ()
        if len(entries) != 1 or (entry := next(iter(entries))) in self._alive[starts[1]]:
            return None
        read = [v is ends[0] for v in second]  # what comes of the turn before; the rest is the same for all
        sides = [v for v, comes in zip(outer[0], read, strict=True) if not comes]
        count = 0
        for end, own, values in zip([entry, *ends], inner, outer, strict=False):
            wanted = iter(sides)
            if own != inner[0] or list(values) != [end if comes else next(wanted) for comes in read]:
                break
            count += 1
        if count < 2 or entry in sides:
            return None
        nodes = tuple(tuple(self.nodes[start : start + period]) for start in starts[:count])
        return Repeats(nodes, (entry, *ends[:count]))

    def _edges(self, start: int, period: int) -> tuple[list[tuple[int, ...]], list[ir.Value]]:
        """Of the nodes of a turn: (node, input, its maker in the turn, which output), the first two alone of what comes
        from outside; and that."""
        inner, outer = [], []
        for i, node in enumerate(self.nodes[start : start + period]):
            for k, value in enumerate(node.inputs):
                if value in self._moving:
                    maker = value.producer()
                    at = -1 if maker is None else self._at[maker] - start
                    if at < 0:
                        outer.append(value)
                        inner.append((i, k))
                    else:
                        inner.append((i, k, at, maker.outputs.index(value)))
        return inner, outer

    def nearest(self) -> str:
        """The longest stretch with products that is like one behind it, and where that ends."""
        runs = [(length, first, p) for p in range(1, len(self.nodes)) for first, length in self._runs(p)]
        runs = [(n, a, p) for n, a, p in runs if self._products[a + n] > self._products[a]]
        if not runs:
            return "no product is like another one behind it"
        length, first, period = max(runs)
        pair = [self.nodes[i] for i in (first, first + period)]
        text = f"the longest stretch, {min(length, period)} nodes from {label(pair[0])} on, is like that from "
        text += f"{label(pair[1])} on"
        if first + period + length == len(self.nodes) or length >= period:
            return f"{text}, but more than one tensor goes from one to the next, or they read different ones beside it"
        ends = [self.nodes[i + length] for i in (first, first + period)]
        ours, theirs = (self._words[i + length] for i in (first, first + period))
        return f"{text}, until {label(ends[0])} and {label(ends[1])} differ in {_difference(ours, theirs)}"


def _masks_first(nodes: list[ir.Node]) -> list[ir.Node]:
    """The same nodes, first those that lead to products only together with what other products gave: what is made of a
    mask stands in the first layer that reads it."""
    late = {n for n in nodes if n.op_type in PRODUCTS}  # products and all behind them
    first = []  # products behind no other
    for node in nodes:
        if any(maker in late for maker in node.predecessors()):
            late.add(node)
        elif node in late:
            first.append(node)
    needed = _leading_to(first)
    masks = [n for n in nodes if n not in late and n not in needed]
    early = {*masks, *_leading_to(masks)}
    return sorted(nodes, key=lambda node: node not in early)


def _leading_to(nodes: list[ir.Node]) -> set[ir.Node]:
    found, left = set(), list(nodes)
    while left:
        for maker in left.pop().predecessors():
            if maker not in found:
                found.add(maker)
                left.append(maker)
    return found


def _difference(ours: tuple, theirs: tuple) -> str:
    names = ("operator", "operator", "attributes", "inputs", "shapes")
    return next(name for name, a, b in zip(names, ours, theirs, strict=True) if a != b)


def _sorted(node: ir.Node) -> list[ir.Attr]:
    return sorted(node.attributes.values(), key=lambda a: a.name)


def _text(attribute: ir.Attr) -> str:
    value = attribute.value
    return f"{value.dtype} {value.tobytes()!r}" if isinstance(value, ir.TensorProtocol) else repr(value)


def _constant(value: ir.Value, is_free: bool) -> tuple:
    """What must be alike of a constant: its type and shape; of whole numbers such as axes, and of single numbers unless
    they are `is_free`, also what it holds; how it is made."""
    array, maker = constant(value), value.producer()
    if array is not None:
        kept = array.dtype in (np.int32, np.int64) or (array.size == 1 and array.dtype.kind == "f" and not is_free)
        return str(array.dtype), array.shape, array.tobytes() if kept else None
    if maker is None:
        return "unknown", value.name
    if maker.domain == "" and maker.op_type in ("Shape", "Expand", "ConstantOfShape"):
        return maker.op_type, str(value.shape)
    attributes = tuple((a.name, _text(a)) for a in _sorted(maker))
    inputs = tuple(("none",) if v is None else _constant(v, is_free) for v in maker.inputs)
    return maker.domain, maker.op_type, attributes, inputs, maker.metadata_props.get(graph.FORMAT_KEY)
