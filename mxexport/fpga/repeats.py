"""Layers of a QONNX graph that repeat: runs of nodes alike, one behind the other, with one tensor between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from mxexport.errors import OptionError
from mxexport.fpga.borders import label, shape_nodes
from mxexport.fpga.calibrate import is_range
from mxexport.fpga.layer_names import PRODUCTS
from mxexport.model import graph
from mxexport.model.rewriting import constant, nodes_of_scales

_CALIBRATED = {"code_min", "code_max"}
"""Attributes that calibration sets: they may differ between turns."""


@dataclass(frozen=True)
class Repeats:
    """`turns`: the nodes of every turn, those at one place alike; `ends`: the tensors before the first turn and behind
    each, one more than turns."""

    turns: tuple[tuple[ir.Node, ...], ...]
    ends: tuple[ir.Value, ...]


def find(model: ir.Model) -> Repeats:
    """The layers whose repetition saves the most products.

    Raises:
        OptionError: none repeat; says what comes nearest, and where it ends.
    """
    walk = _Walk(model.graph)
    best = max(walk.candidates(), default=None)
    if best is None:
        raise OptionError(f"in_turn: no layers repeat with one tensor between them; {walk.nearest()}")
    _, begin, period, count = best
    runs = [tuple(walk.nodes[begin + t * period : begin + (t + 1) * period]) for t in range(count)]
    ends = [walk.narrow[begin + t * period - 1] for t in range(count + 1)]
    return Repeats(tuple(runs), tuple(ends))


class _Walk:
    """The nodes that inputs of the graph reach, in order; what each is, with edges as distances, so that equal runs of
    nodes are equal runs of words."""

    def __init__(self, g: ir.Graph):
        self._graph = g
        beside = shape_nodes(g) | nodes_of_scales(g)
        self._moving = set(g.inputs)
        self.nodes: list[ir.Node] = []
        self._at: dict[ir.Node, int] = {}
        for node in g:
            if node not in beside and any(v in self._moving for v in node.inputs):
                self._at[node] = len(self.nodes)
                self.nodes.append(node)
                self._moving.update(node.outputs)
        self._words = [self._word(i, node) for i, node in enumerate(self.nodes)]
        kinds: dict[tuple, int] = {}
        self._kinds = np.array([kinds.setdefault(word, len(kinds)) for word in self._words], np.int64)
        self._products = np.cumsum([0, *(node.op_type in PRODUCTS for node in self.nodes)])

    def _word(self, i: int, node: ir.Node) -> tuple:
        attributes = tuple((a.name, _text(a)) for a in _sorted(node) if a.name not in _CALIBRATED)
        inputs = tuple(self._input(i, node, v) for v in node.inputs)
        return node.domain, node.op_type, attributes, inputs, tuple(str(v.shape) for v in node.outputs)

    def _input(self, i: int, node: ir.Node, value: ir.Value | None) -> tuple:
        if value is None:
            return ("none",)
        if value in self._moving:
            maker = value.producer()
            return (i + 1, 0) if maker is None else (i - self._at[maker], maker.outputs.index(value))
        return _constant(value, is_range(node))

    @cached_property
    def narrow(self) -> dict[int, ir.Value]:
        """Place -> the one tensor that nodes behind it read, where there is one; -1: before the first."""
        last = {v: i for i, node in enumerate(self.nodes) for v in node.inputs if v in self._moving}
        last |= dict.fromkeys(self._graph.outputs, len(self.nodes))
        alive, found = {v for v in self._graph.inputs if v in last}, {}
        for i in range(-1, len(self.nodes)):
            alive = {v for v in (*alive, *(self.nodes[i].outputs if i >= 0 else ())) if last.get(v, -1) > i}
            if len(alive) == 1:
                (found[i],) = alive
        return found

    def _runs(self, period: int) -> list[tuple[int, int]]:
        """(first place, places) of every stretch that is alike the one `period` places behind it."""
        same = np.flatnonzero(np.diff(np.r_[0, self._kinds[period:] == self._kinds[:-period], 0]))
        return [(int(a), int(b - a)) for a, b in same.reshape(-1, 2)]

    def candidates(self) -> list[tuple[tuple[int, int], int, int, int]]:
        """((products saved, nodes saved), first place, period, turns); of equal ones the latest is the largest."""
        found = []
        for period in range(1, len(self.nodes) // 2 + 1):
            for first, length in self._runs(period):
                starts = [s for s in self.narrow if first <= s + 1 <= first + length - period]
                found += [c for s in starts if (c := self._candidate(s + 1, period, first + length)) is not None]
        return found

    def _candidate(self, begin: int, period: int, end: int) -> tuple | None:
        """The most turns from a place on, all of whose ends are narrow."""
        count = 1
        while begin + count * period <= end and begin + (count + 1) * period - 1 in self.narrow:
            count += 1
        products = int(self._products[begin + period] - self._products[begin])
        if count < 2 or not products or begin + period - 1 not in self.narrow:
            return None
        return ((count - 1) * products, (count - 1) * period), begin, period, count

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
        if first + period + length == len(self.nodes):
            return f"{text}, but other tensors pass beside"
        if length >= period:
            return f"{text}, but other tensors pass beside, such as inputs that every layer reads"
        ends = [self.nodes[i + length] for i in (first, first + period)]
        ours, theirs = (self._words[i + length] for i in (first, first + period))
        return f"{text}, until {label(ends[0])} and {label(ends[1])} differ in {_difference(ours, theirs)}"


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
