"""A part of every frame: rows, columns or channels from one place to another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each
from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.streams.views import BATCH, View, size_of
from mxexport.fpga.streams.words import power_of_two
from mxexport.fpga.unit import Folding, Memory, Refused, Timing
from mxexport.model import graph
from mxexport.model.rewriting import attribute, constant


@dataclass(frozen=True)
class Slice:
    """`start` and `size`: row, column, channel of a frame [H, W, C]; those of [T, C] and [C] count as its last."""

    operator = ops.WideSlice
    module = "mx_slice"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = (("", "Slice"), ("", "Split"), ("", "Gather"))

    source: Wide
    start: tuple[int, int, int]
    size: tuple[int, int, int]

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        x = node.inputs[0]
        shape = x.shape
        if node.op_type == "Slice" and _jumps(node):
            return cls._lower_jumps(node, low)
        if low.elements(x).view is not None or node.op_type == "Gather":
            return cls._lower_axis(node, low)
        if shape is None or not 2 <= len(shape) <= 4 or not all(isinstance(d, int) for d in shape[1:]):
            raise Refused(f"input shape is {shape}; expected 2 to 4 axes, all but the batch known")
        frame = tuple(shape[1:])
        source = low.stream(x)
        source = low.wide(low.features(x, source) if len(frame) == 1 else low.image(x, source), node)
        if source.shape is not None and math.prod(source.shape) != math.prod(frame):
            raise Refused(f"its input comes as frames of {list(source.shape)}; expected {list(frame)}")
        parts = [_slices(node, (None, *frame))[1:]] if node.op_type == "Slice" else _splits(node, frame)
        for i, (value, ends) in enumerate(zip(node.outputs, parts, strict=True)):
            if not value.uses() and not value.is_graph_output():
                continue
            channels, *spatial = ends
            places = [*[*spatial, (0, 1), (0, 1)][:2], channels]
            start, stop = (tuple(end[k] for end in places) for k in (0, 1))
            size = tuple(b - a for a, b in zip(start, stop, strict=True))
            result = size if len(frame) > 1 else size[2:]

            def make(source: Wide, start=start, size=size) -> Slice:
                return cls(source, start, size)

            low.bind(value, low.add(make, [source], node, f"slice{i or ''}", ("slice",), result))
        return True

    @classmethod
    def _lower_axis(cls, node: ir.Node, low: Lowering) -> bool:
        """Entries of one axis of tokens, heads, or what a reshape made of channels."""
        source = low.wide(low.sequences(node.inputs[0]), node)
        if source.blocked is not None and source.view is None:  # something before was refused, and said so
            for value in node.outputs:
                low.bind(value, source)
            return True
        if source.view is None:
            return False
        for i, (value, axis, (first, stop), gone) in enumerate(_entries(node, source.view)):
            if not value.uses() and not value.is_graph_output():
                continue
            made = source if stop - first == size_of(source.view.axes[axis]) else None
            made = made or cls._of_axis(source, axis, first, stop, node, f"slice{i or ''}", low)
            low.bind(value, replace(made, view=made.view.without(axis)) if gone else made)
        return True

    @classmethod
    def _lower_jumps(cls, node: ir.Node, low: Lowering) -> bool:
        """Every so-manieth entry of axes. Of channels: an axis of so many parts, one entry of each; of whole vectors:
        pools of one entry that go on by so many."""
        source = low.wide(low.sequences(node.inputs[0]), node)
        if source.view is None:
            low.bind(node.outputs[0], source)
            return True
        sizes = [None if BATCH in axis else size_of(axis) for axis in source.view.axes]
        for axis, (first, stop, step) in enumerate(_jumped(node, sizes)):
            if sizes[axis] is None or (step == 1 and stop - first == sizes[axis]):
                continue
            count = -(-(stop - first) // step)
            if source.view.trailing(axis) and step > 1:
                source = cls._of_parts(source, axis, first, count, step, node, low)
                continue
            end = min(first + count * step, sizes[axis])
            if end - first < sizes[axis]:
                source = cls._of_axis(source, axis, first, end, node, "slice", low)
            if step > 1:
                source = _every(source, axis, count, step, node, low)
        low.bind(node.outputs[0], source)
        return True

    @classmethod
    def _of_parts(
        cls, source: Pending, axis: int, first: int, count: int, step: int, node: ir.Node, low: Lowering
    ) -> Pending:
        """Entries of an axis that comes last, `step` apart: the same one of each of `count` parts. Raises Refused where
        the axis does not hold whole parts."""
        length = size_of(source.view.axes[axis])
        place = max(0, first + count * step - length)
        if place > min(first, step - 1):
            found = f"{count} entries from {first} on, {step} apart, of the {length} of axis {axis}"
            raise Refused(f"it takes {found}, which come last; expected a whole number of parts of {step}")
        begin, whole = first - place, [None if BATCH in own else size_of(own) for own in source.view.axes]
        if count * step < length:
            source = cls._of_axis(source, axis, begin, begin + count * step, node, "slice", low)
        parts = source.view.reshaped([*whole[:axis], count, step, *whole[axis + 1 :]])
        picked = cls._of_axis(replace(source, view=parts), axis + 1, place, place + 1, node, "every", low)
        return replace(picked, view=picked.view.without(axis + 1))

    @classmethod
    def _of_axis(
        cls, source: Pending, axis: int, first: int, stop: int, node: ir.Node, kind: str, low: Lowering
    ) -> Pending:
        before, length, inside = source.view.around(axis)
        count = stop - first
        if source.view.trailing(axis):  # channels
            shape, start, size = (before, length), (0, 0, first), (1, before, count)
        else:  # whole vectors
            shape, start, size = (before, length, inside), (0, first, 0), (before, count, inside)
        given, result = low.shaped(source, shape), size[-len(shape) :]
        view = source.view.cut(axis, count)
        return low.add(lambda t: cls(t, start, size), [given], node, kind, ("slice",), result, view=view)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Slice:
        a = graph.attributes(node)
        return cls(*sources, tuple(a["start"]), tuple(a["size"]))

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def _image(self) -> tuple[int, int, int]:
        return (1, 1, *self.source.shape)[-3:]

    @property
    def result(self) -> Wide:
        return replace(self.source, shape=self.size[-len(self.source.shape) :])

    def attributes(self) -> dict:
        numbers = {"start": list(self.start), "size": list(self.size)}
        return numbers | {"width": self.source.width, "lsb_exp": self.source.lsb_exp}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"{list(self.size)} from {list(self.start)} on."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: {list(self.size)} of {list(self.source.shape)}, from {list(self.start)} on"

    def foldings(self) -> list[Folding]:
        """Lanes that begin and end with the channels kept: a beat is kept whole or not at all. No more than these take,
        for further lanes would hold the next vector."""
        first, kept = self.start[2], self.size[2]
        whole, limit = first + kept == self.source.channels, power_of_two(kept)
        most = math.gcd(first, 0 if whole else kept) or limit  # where it is whole the last beat may be short
        return [Folding(n, n) for n in (1 << i for i in range(min(most, limit).bit_length())) if most % n == 0]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        height, width, channels = self._image
        return {"H": height, "W": width, "K": channels, "Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        (_, width, _), (top, left, _), (rows, columns, _) = self._image, self.start, self.size
        needs = ((top + np.arange(rows))[:, None] * width + left + np.arange(columns)).ravel()
        share = (self.start[2] + self.size[2]) / self._image[2]
        return Timing(needs, self.result.beats(folding.simd) // self.result.vectors, 0, share=share)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        counted = sum((n - 1).bit_length() for n in self.source.shape) + self.source.beats(folding.simd).bit_length()
        return {"unit": each(10), "counters": each(counted)}

    def bound(self, *inputs: np.ndarray) -> None:
        return None


def _jumps(node: ir.Node) -> bool:
    """Whether a Slice leaves out entries between those that it keeps."""
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else None
    return steps is not None and bool((steps > 1).any())


def _jumped(node: ir.Node, sizes: Sequence[int | None]) -> list[tuple[int, int, int]]:
    """(first, end, step) of every axis of a tensor; the batch, whose size is None, stays whole. Raises Refused."""
    found = [(0, n or 0, 1) for n in sizes]
    starts, stops, axes, steps = (_numbers(node, i) for i in range(1, 5))
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        size = sizes[axis % len(sizes)]
        if size is None or step < 1:
            raise Refused(f"it takes every {step}th entry of axis {axis}; expected steps forward behind the batch")
        first, end, _ = slice(start, stop).indices(size)
        if end <= first:
            raise Refused(f"nothing is left of axis {axis}")
        found[axis % len(sizes)] = (first, end, step)
    return found


def _numbers(node: ir.Node, place: int) -> list[int]:
    """An input of a Slice. Raises Refused where it is no constant."""
    found = constant(node.inputs[place])
    if found is None:
        raise Refused("its ends are no constants; expected initializers, fix the shapes and run mx.clean")
    return found.tolist()


def _every(source: Pending, axis: int, count: int, step: int, node: ir.Node, low: Lowering) -> Pending:
    """Whole vectors of an axis, the first and then each `step` further."""
    from mxexport.fpga.units.max_pool import MaxPool  # the largest of one is that

    before, length, inside = source.view.around(axis)
    column = before == 1  # as reductions see it
    image = low.shaped(source, (length, 1, inside) if column else (before, length, inside))
    window = Window((1, 1), (step, 1) if column else (1, step))
    shape, view = (*window.output(image.shape), inside), source.view.cut(axis, count)
    return low.add(lambda t: MaxPool(t, window), [image], node, "every", ("every",), shape, view=view)


def _slices(node: ir.Node, sizes: Sequence[int | None]) -> list[tuple[int, int] | None]:
    """(first, end) of every axis of a tensor; the batch, whose size is None, stays whole. Raises Refused."""
    given = [None if v is None else constant(v) for v in node.inputs[1:]]
    if any(a is None for a in given) or len(given) < 2:
        raise Refused("its ends are no constants; expected initializers, fix the shapes and run mx.clean")
    starts, stops = given[:2]
    axes = given[2] if len(given) > 2 else np.arange(len(starts))
    steps = given[3] if len(given) > 3 else np.ones(len(starts), np.int64)
    ends = [None if n is None else (0, n) for n in sizes]
    for axis, start, stop, step in zip(axes.tolist(), starts.tolist(), stops.tolist(), steps.tolist(), strict=True):
        place = axis % len(sizes)
        if sizes[place] is None or step != 1:
            raise Refused(f"it takes every {step}th entry of axis {axis}; expected step 1 of an axis behind the batch")
        first, end, _ = slice(start, stop).indices(sizes[place])
        if end <= first:
            raise Refused(f"nothing is left of axis {axis}")
        ends[place] = (first, end)
    return ends


def _entries(node: ir.Node, view: View) -> list[tuple[ir.Value, int, tuple, bool]]:
    """Of every output: the value, the axis, (first, end) of what it keeps of it, and whether the axis is gone. Raises
    Refused for more than one axis, or for entries that are no neighbours."""
    if node.op_type == "Gather":
        return [_gathered(node, view)]
    if node.op_type == "Split":
        axis = attribute(node, "axis", 0) % len(view.axes)
        ends = _split_ends(node, size_of(view.axes[axis]))
        return [(value, axis, end, False) for value, end in zip(node.outputs, ends, strict=True)]
    sizes = [None if BATCH in axis else size_of(axis) for axis in view.axes]
    ends = _slices(node, sizes)
    cut = [i for i, (end, n) in enumerate(zip(ends, sizes, strict=True)) if n is not None and end != (0, n)]
    if len(cut) > 1:
        raise Refused(f"it takes parts of axes {cut} at once; expected one axis")
    axis = cut[0] if cut else next(i for i, n in enumerate(sizes) if n is not None)
    return [(node.outputs[0], axis, ends[axis], False)]


def _gathered(node: ir.Node, view: View) -> tuple[ir.Value, int, tuple[int, int], bool]:
    index, axis = constant(node.inputs[1]), attribute(node, "axis", 0) % len(view.axes)
    if index is None or index.size != 1:
        raise Refused("it picks entries by an index that is no single constant; expected one number")
    length = size_of(view.axes[axis])
    first = int(index.reshape(())) % max(length, 1)
    return node.outputs[0], axis, (first, first + 1), index.ndim == 0


def _splits(node: ir.Node, frame: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    """The same for every output of a Split."""
    axis = attribute(node, "axis", 0) % (len(frame) + 1)
    if axis == 0:
        raise Refused("it splits the batch; expected another axis")
    ends = _split_ends(node, frame[axis - 1])
    return [[end if i == axis - 1 else (0, n) for i, n in enumerate(frame)] for end in ends]


def _split_ends(node: ir.Node, length: int) -> list[tuple[int, int]]:
    """(first, end) of every output of a Split along the axis that it splits. Raises Refused."""
    given, count = node.inputs[1] if len(node.inputs) > 1 else None, len(node.outputs)
    sizes = constant(given)
    if given is not None and sizes is None:
        raise Refused("it splits by sizes that are computed; expected constants")
    if sizes is None:
        part = -(-length // count)
        sizes = np.array([*[part] * (count - 1), length - part * (count - 1)])
    if min(sizes) < 1 or sum(sizes) != length or len(sizes) != count:
        raise Refused(f"it splits {length} into {sizes.tolist()}; expected {count} positive sizes of that sum")
    stops = np.cumsum(sizes).tolist()
    return [(stop - size, stop) for size, stop in zip(sizes.tolist(), stops, strict=True)]
