"""What units call while they are asked for their nodes: streams of tensors, and more units behind them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.lowering.borders import end_problems, shape_nodes
from mxexport.fpga.lowering.composed import composed
from mxexport.fpga.lowering.layer_names import PRODUCTS, layer_names
from mxexport.fpga.lowering.masks import Keys, Probe, count_of, emptied, masked, nodes_beside, spared
from mxexport.fpga.lowering.turns import Alike
from mxexport.fpga.streams.layouts import is_sequence
from mxexport.fpga.streams.types import Blocks, Stream, Wide
from mxexport.fpga.streams.views import BATCH, View, size_of
from mxexport.fpga.unit import Refused, Unit
from mxexport.model.names import Names
from mxexport.model.rewriting import constant
from mxexport.model.uniform import is_quantizer

_BATCH = ir.SymbolicDim("batch")
_ELSEWHERE = "does not follow a layer that is lowered"


@dataclass(frozen=True)
class Pending:
    """A stream on its way: `shape` is one frame, channels last (None: not known); `group_size` of blocks.

    `type` and `values` (of the dataflow graph) are there unless something before it was refused, which `blocked` then
    names, or nothing is built. `origin`: the input of the network that it comes from, while its shape is not known.
    `view`: how the tensor lies in the stream, where it does not lie as vectors or as images with channels first.
    """

    shape: tuple[int, ...] | None
    group_size: int | None = None
    type: Stream | None = None
    values: tuple[ir.Value, ...] = ()
    blocked: ir.Node | None = None
    origin: str | None = None
    view: View | None = None


def frame_of(value: ir.Value) -> tuple[int, ...] | None:
    """What the graph calls a frame: the shape of a tensor behind the batch; None where it is not known."""
    shape = value.shape
    if shape is None or not all(isinstance(d, int) for d in shape[1:]):
        return None
    return tuple(shape[1:])


class Lowering:
    """What is known on a pass over the nodes of a QONNX graph, and made of the dataflow graph.

    Units call `stream`, `blocks`, `add` and `bind`. `activations`: last node -> function that several nodes compute;
    `masks`: Softmax -> the scores without their masks; `emptied`: Where -> the tokens that a mask empties.
    Without `sources`, nothing is built and only refusals are found.
    """

    def __init__(self, model: ir.Model, sources: Mapping[str, Wide] | None, alike: Alike | None = None):
        g, self._alike = model.graph, alike
        self._graph = g
        self._layers, self._names, self._node_names = layer_names(g), Names(), Names()
        self._problems: list[tuple[str, str]] = end_problems(g)
        self._nodes: list[ir.Node] = []
        self._initializers: list[ir.Value] = []
        self._pending: dict[ir.Value, Pending] = {}
        self._makers: dict[ir.Value, ir.Node] = {}
        self.activations = composed(g)
        self._done: set[ir.Node] = {node for found in self.activations.values() for node in found.inner}
        probe = Probe(model)
        self.masks = masked(g, probe)
        self._spared = spared(g, self.masks, probe)
        self.emptied = emptied(g, self.masks, self._spared, probe)
        apart = self._spared | {node: known.values for node, known in self.emptied.items()}
        self._done |= nodes_beside(self.masks.values(), apart, g) | shape_nodes(g)
        self._read: set[ir.Value] = set()
        self._wide: dict[ir.Value, Pending] = {}  # blocks (first value) -> the same as wide integers
        self._inputs: list[ir.Value] = []
        self._carried: dict[str, ir.Value] = {}
        self.views: dict[str, View] = {}
        self._shapes: dict[tuple[ir.Value, tuple[int, ...]], Pending] = {}  # the same values in other vectors
        self.frames: dict[str, tuple[int, ...]] = {}
        for value in g.inputs:
            if sources is None:
                self._pending[value] = self._outside(value)
            elif value.name in sources:
                self._enter(value, sources[value.name])

    def _enter(self, value: ir.Value, source: Wide) -> None:
        wanted = "input" if len(self._graph.inputs) == 1 else f"input.{value.name}"
        values = _values((self._names.unique(wanted),), source)
        view = View.of(source.shape) if is_sequence(value) else _of_numbers(value)
        self.bind(value, Pending(source.shape, None, source, values, view=view))
        self._inputs += values
        declare_end(values[0], value, source)

    def _outside(self, value: ir.Value) -> Pending:
        """An input whose types are not known yet: sequences say their shape at once, others when a unit reads them."""
        if (view := _of_numbers(value)) is not None:
            shape = self.frames[value.name] = (count_of(value),)
            return Pending(shape, view=view)
        if not is_sequence(value):
            return Pending(None, origin=value.name)
        shape = self.frames[value.name] = tuple(value.shape[1:])
        return Pending(shape, view=View.of(shape))

    # --- what units call ------------------------------------------------------------------------------------------

    def carries(self, value: ir.Value | None) -> bool:
        """Whether a stream carries a tensor, or would but for a refusal."""
        return value in self._pending

    def elements(self, value: ir.Value) -> Pending:
        """The stream that carries a tensor, in whatever order: for units to which all values are alike. Raises Refused
        where there is none."""
        if value not in self._pending:
            raise Refused(_ELSEWHERE)
        self._read.add(value)
        return self._pending[value]

    def stream(self, value: ir.Value) -> Pending:
        """The stream that carries a tensor as vectors, or as images with channels first. Raises Refused where there is
        none, or where its axes come in another order."""
        found = self.elements(value)
        return found if found.view is None else self.settled(found, found.view)

    def settled(self, source: Pending, view: View) -> Pending:
        """What a view shows, as vectors or images with channels first. Raises Refused where values would have to change
        places."""
        axes = view.axes
        if len(axes) not in (2, 3, 4) or axes[0] != (BATCH,):
            raise Refused(f"its input has the axes {view}; expected (batch, features) or (batch, channels, ...)")
        behind = tuple(a for axis in axes[2:] for a in axis)
        if (*behind, *axes[1]) != view.atoms:
            raise Refused(f"its input comes in another order than that of its axes, {view}; expected channels last")
        sizes = [math.prod(a.size for a in axis) for axis in axes[1:]]
        shape = tuple(sizes) if len(axes) == 2 else (*[*sizes[1:], 1][:2], sizes[0])
        return replace(self.shaped(source, shape), view=None)

    def sequences(self, value: ir.Value) -> Pending:
        """The stream that carries a tensor with the view of its axes, for units that look at these; no view where
        something before was refused."""
        found = self.elements(value)
        if found.view is not None or found.blocked is not None:
            return found
        rank = None if value.shape is None else len(value.shape)
        if rank not in (2, 3, 4):
            raise Refused(f"input shape is {value.shape}; expected 2 to 4 axes")
        found = self.features(value, found) if rank == 2 else self.image(value, found)
        return replace(found, view=View.of_image(found.shape, value.shape))

    def shaped(self, source: Pending, shape: tuple[int, ...]) -> Pending:
        """`source` in vectors of the last length of `shape`; not a value changes its place."""
        if source.shape is None or source.shape == shape:
            return source
        if source.group_size is not None:
            found = f"quantized in vectors of {source.shape[-1]}"
            raise Refused(f"its input is {found}, its axes want {shape[-1]}; quantize behind the last change of axes")
        if source.type is None:
            return replace(source, shape=shape)
        if (source.values[0], shape) not in self._shapes:
            from mxexport.fpga.units.reshape import Reshape  # the units import this module

            make = functools.partial(Reshape, shape=shape)
            made = self.add(make, [source], self._node, "reshape", ("reshaped",), shape)
            self._shapes[source.values[0], shape] = made
        return replace(self._shapes[source.values[0], shape], view=source.view)

    @property
    def tensors(self) -> dict[str, str]:
        """First value of a stream -> the tensor that it is compared with."""
        return {name: value.name for name, value in self._carried.items()}

    def in_vectors(self, source: Pending, axis: int) -> Pending:
        """`source` with an axis of its tensor, the last that it brings, as its vectors."""
        length = size_of(source.view.axes[axis])
        if source.shape[-1] == length:
            return source
        return self.shaped(source, source.view.sizes() if length > 1 else (math.prod(source.shape), 1))

    def turned(self, source: Pending, axis: int) -> Pending:
        """`source`, wide, in another order: an axis of its tensor comes last, as its vectors, and what came behind it
        comes first."""
        before, along, inside = source.view.around(axis)
        atoms = source.view.atoms
        turned = self.rotated(source, atoms.index(source.view.axes[axis][-1]) + 1)
        return self.shaped(turned, (inside * before, along))

    def rotated(self, source: Pending, first: int) -> Pending:
        """`source`, wide, in another order: its first atoms come last."""
        from mxexport.fpga.units.reorder import Reorder  # the units import this module

        atoms = source.view.atoms
        before, behind = size_of(atoms[:first]), size_of(atoms[first:])
        image, view = self.shaped(source, (before, 1, behind)), source.view.rotated(first)
        return self.add(Reorder, [image], self._node, "turn", ("turned",), (before * behind,), view=view)

    def last(self, source: Pending, axis: int) -> Pending:
        """`source`, wide, with an axis of its tensor as its vectors, which comes last. Raises Refused where it does not
        come in one piece."""
        if source.view.trailing(axis):
            return self.in_vectors(source, axis)
        return self.turned(source, axis)

    def blocks(self, value: ir.Value) -> Pending:
        """The stream of blocks that carries a quantized tensor, as `stream` gives it. Raises Refused where it is not
        quantized."""
        found = self.sequence_blocks(value)
        return found if found.view is None else self.settled(found, found.view)

    def sequence_blocks(self, value: ir.Value) -> Pending:
        """The same with the view of its axes, where it has one."""
        found = self.elements(value)
        for node in (self._makers.get(value), found.blocked):
            if node is not None and is_quantizer(node):
                return found
        raise Refused("its input is not quantized; give quantize_model an MX activation format")

    def keys(self, keys: Keys, node: ir.Node) -> Pending:
        """The stream of an input that says which keys take part, one vector a frame, in which what says so is above
        zero, or is not (`keep`). Raises Refused where there is none."""
        source = self.wide(self._shaped(self.elements(keys.value), (keys.count,)), node)
        if source.shape != (keys.count,):
            source = self.shaped(source, (keys.count,))
        if not keys.added:
            return source
        from mxexport.fpga.units.affine import Affine  # the units import this module

        return self.add(Affine.negated, [source], node, "hidden", ("hidden",), source.shape)

    def narrowed(self, source: Pending, bits: int, node: ir.Node) -> Pending:
        """`source`, rounded to `bits` bits where it is wider, for a unit whose products would not stay exact."""
        if source.type is None or source.type.width <= bits:
            return source
        from mxexport.fpga.units.affine import Affine  # the units import this module

        make = functools.partial(Affine.rounding, bits=bits)
        return self.add(make, [source], node, "round", ("rounded",), source.shape)

    def between_turns(self, node: ir.Node) -> int | None:
        """The lsb_exp of what a Clip leaves where that goes around, in turns.WIDTH bits; None of others."""
        return self._alike.turns.lsb_exp if self._alike is not None and node in self._alike.turns.ends else None

    def maker(self, value: ir.Value) -> ir.Node | None:
        """The node that `value` comes from, past those that only change its shape; None when that was refused."""
        return None if self._pending[value].blocked else self._makers.get(value)

    def features(self, value: ir.Value, source: Pending) -> Pending:
        """`source`, which carries `value`, as vectors of features. Raises Refused for another shape."""
        shape = value.shape
        if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
            raise Refused(f"input shape is {shape}; expected (batch, features) with a known number of features")
        return self._shaped(source, (shape[1],))

    def image(self, value: ir.Value, source: Pending) -> Pending:
        """`source`, which carries `value`, as images [H, W, C]; sequences are images of one column. Raises Refused for
        another shape."""
        shape = value.shape
        if shape is None or len(shape) not in (3, 4) or not all(isinstance(d, int) for d in shape[1:]):
            expected = "(batch, channels, height, width) or (batch, channels, length), all but batch known"
            raise Refused(f"input shape is {shape}; expected {expected}")
        _, channels, *spatial = shape
        return self._shaped(source, (*[*spatial, 1][:2], channels))

    def _shaped(self, source: Pending, frame: tuple[int, ...]) -> Pending:
        """`source` with its shape, where that was not known: behind a refusal, or the input of the network."""
        if source.shape is not None:
            return source
        if source.blocked is None and source.origin is not None:
            self.frames.setdefault(source.origin, frame)
        return replace(source, shape=frame)

    def wide(self, source: Pending, node: ir.Node) -> Pending:
        """`source` as wide integers, for a unit that takes no blocks."""
        if source.group_size is None:
            return source
        if source.values and source.values[0] in self._wide:
            return replace(self._wide[source.values[0]], view=source.view)
        from mxexport.fpga.units.dequantize import Dequantize  # the units import this module

        made = self.add(Dequantize, [source], node, "dequantize", ("dequantized",), source.shape)
        if source.values:
            self._wide[source.values[0]] = made
        return made

    def take_bias(self, node: ir.Node, by_place: bool = False) -> tuple[ir.Value, np.ndarray | None]:
        """(what comes out behind a product, the constant that a following Add puts on it; None where there is none).
        `by_place`: also one that differs from token to token."""
        out = node.outputs[0]
        users = [user for user, _ in out.uses()]
        if len(users) != 1 or out.is_graph_output() or users[0].op_type != "Add" or users[0].domain != "":
            return out, None
        (other,) = [v for v in users[0].inputs if v is not out] or [None]
        bias = None if other is None else constant(other)
        if bias is None or (not by_place and _differs_by_place(bias, out.shape)):
            return out, None
        self._done.add(users[0])
        return users[0].outputs[0], bias

    def absorb(self, nodes: Iterable[ir.Node]) -> None:
        """Nodes that a unit computes beside the one it was asked about: nobody is asked about them any more."""
        self._done.update(nodes)

    def add(
        self,
        make: Callable[..., Unit],
        sources: list[Pending],
        node: ir.Node,
        kind: str,
        outputs: tuple[str, ...],
        shape: tuple[int, ...] | None,
        group_size: int | None = None,
        view: View | None = None,
    ) -> Pending:
        """One more unit behind `sources`, for a node of the QONNX graph: made from their types where those are known.
        Its own node is called by its layer and `kind`, its values by `outputs`. `view`: of the tensor that it makes;
        without one, a result of the same shape lies as the first of `sources` does."""
        view = sources[0].view if view is None and shape == sources[0].shape else view
        blocked = next((s.blocked for s in sources if s.blocked is not None), None)
        if blocked is not None or any(s.type is None for s in sources):
            origin = next((s.origin for s in sources if s.shape is None), None)
            return Pending(shape, group_size, blocked=blocked, origin=origin, view=view)
        types = tuple(s.type for s in sources)
        unit, which = (make(*types), None) if self._alike is None else self._alike.unit(make, types, node, kind)
        layer = self._layers[node]
        name = self._node_names.unique(f"{layer}.{kind}")
        values = _values(tuple(self._names.unique(f"{layer}.{output}") for output in outputs), unit.result)
        constants = [
            _initializer(self._names.unique(f"{layer}.{suffix}"), array) for suffix, array in unit.constants().items()
        ]
        made = ir.node(
            unit.operator.op_type(),
            [*(value for s in sources for value in s.values), *constants],
            unit.attributes(),
            domain=ops.DOMAIN,
            outputs=values,
            name=name,
            doc_string=unit.describe(),
        )
        made.metadata_props.update(unit.metadata())
        if self._alike is not None:
            made.metadata_props.update(self._alike.marks(which, name))
        self._nodes.append(made)
        self._initializers += constants
        return Pending(shape, group_size, unit.result, values, view=view)

    def bind(self, value: ir.Value, stream: Pending, maker: ir.Node | None = None) -> None:
        """`stream` carries the tensor `value`, which stands for what `maker` (its own node) computes."""
        self._pending[value] = stream
        if (maker := maker or value.producer()) is not None:
            self._makers[value] = maker
        if stream.values:
            name = stream.values[0].name
            if name not in self._carried or len(self._carried[name].uses()) < 2:  # else others read that one as well
                self._carried[name] = value
            if stream.view is not None:
                self.views[value.name] = stream.view

    def moved(self, value: ir.Value, stream: Pending) -> None:
        """Those who read the tensor `value`, which is bound, get `stream`, that brings it in another order."""
        self._pending[value] = stream

    def constant_behind_a_refusal(self, node: ir.Node) -> bool:
        """Whether an Add of a constant is the bias of a product that was refused: then that is no second problem."""
        streams = [v for v in node.inputs if v in self._pending]
        blocked = self._pending[streams[0]].blocked if len(streams) == 1 else None
        if blocked is None or blocked.op_type not in PRODUCTS:
            if not streams:
                raise Refused(_ELSEWHERE)
            return False
        self.bind(node.outputs[0], self._pending[streams[0]])
        return True


def _of_numbers(value: ir.Value) -> View | None:
    """How an input lies that brings one whole number, or one entry of a mask, for every token; None of others."""
    whole = value.dtype is not None and value.dtype.numpy().kind in ("b", "i", "u")
    return View.of((count_of(value),)).reshaped(value.shape) if whole and count_of(value) else None


def _differs_by_place(array: np.ndarray, shape: ir.Shape | None) -> bool:
    """Whether a constant beside a tensor has several values for a channel: tokens have channels last, images first."""
    if shape is None or array.ndim > len(shape) or len(shape) < 3:
        return False
    longer = [i for i, n in enumerate(array.shape, len(shape) - array.ndim) if n > 1]
    return longer not in ([], [1], [len(shape) - 1])


def declare_end(value: ir.Value, given: ir.Value, stream: Wide) -> None:
    """Writes what the QONNX graph calls an input or output, and the shape its frames have there, where that is not the
    shape of the stream."""
    value.metadata_props["tensor"] = given.name
    frame = frame_of(given)
    if frame is not None and frame != stream.shape:
        value.metadata_props["frame"] = ",".join(map(str, frame))


def _values(names: tuple[str, ...], stream: Stream) -> tuple[ir.Value, ...]:
    """The values of the dataflow graph that make up a stream. A wide one says its fixed-point type to readers."""
    if isinstance(stream, Blocks):
        counts = (stream.channels, stream.blocks)
        return tuple(
            _value(name, ir.DataType.UINT8, (*stream.shape[:-1], n)) for name, n in zip(names, counts, strict=True)
        )
    value = _value(*names, ir.DataType.INT64, stream.shape)
    value.metadata_props.update(width=str(stream.width), lsb_exp=str(stream.lsb_exp))
    value.doc_string = f"int{stream.width} in units of 2**{stream.lsb_exp}"
    return (value,)


def _value(name: str, dtype: ir.DataType, frame: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape((_BATCH, *frame)))


def _initializer(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
