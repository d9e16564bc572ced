"""dataflow.onnx read as hardware: instances of units and the streams between them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from mxexport.errors import InputFileError
from mxexport.fpga.lowering.turns import TURN, TURN_OF
from mxexport.fpga.streams.types import Blocks, Stream, Wide
from mxexport.fpga.unit import Unit
from mxexport.fpga.units import OF_OPERATOR
from mxexport.model import graph
from mxexport.model.rewriting import dims
from mxexport.ops import DOMAIN


@dataclass(frozen=True)
class Instance:
    """A node of the graph as a unit: `sources` and `result` name streams, each by its first value; `values` are all of
    the result's. `turn_of`: the instance in whose hardware it is computed, in which `turn`, where layers take turns;
    of that one in the network of the hardware (`loops`), `turns` are the instances of all turns."""

    name: str
    unit: Unit
    sources: tuple[str, ...]
    result: str
    values: tuple[str, ...]
    turn_of: str = ""
    turn: int = 0
    turns: tuple[Instance, ...] = ()

    @property
    def layer(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def unrolled(self) -> tuple[Instance, ...]:
        """The instances of dataflow.onnx that it stands for: those of all turns, or itself."""
        return self.turns or (self,)


@dataclass(frozen=True)
class Loop:
    """Hardware that a frame passes `count` times: the units `body`, from the stream `entry` to the stream `exit`. Every
    turn reads the `sides`, too, which come once."""

    count: int
    body: frozenset[str]
    entry: str
    exit: str
    sides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """`streams`: name -> type, from the inputs on in order; of inputs and outputs, `frames`: the shape that a frame has
    in the QONNX graph, channels first, and `tensors`: their names there. `ultra`: the part has UltraRAM for what
    is large and written while it runs. `loop`: what a frame passes several times, in a network of hardware."""

    instances: tuple[Instance, ...]
    streams: dict[str, Stream]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    frames: dict[str, tuple[int, ...]]
    tensors: dict[str, str]
    ultra: bool = False
    loop: Loop | None = None

    @property
    def source(self) -> Wide:
        """The first input."""
        return self.streams[self.inputs[0]]

    @property
    def result(self) -> Wide:
        """The first output."""
        return self.streams[self.outputs[0]]

    def products(self) -> list[Instance]:
        """The instances whose folding decides how fast the network is: those that multiply blocks with weights, or with
        other blocks."""
        from_blocks = [i for i in self.instances if isinstance(i.unit.sources[0], Blocks)]
        return [i for i in from_blocks if i.unit.constants() or len(i.sources) > 1]

    def maker(self, stream: str) -> Instance | None:
        return next((i for i in self.instances if i.result == stream), None)

    def readers(self, stream: str) -> list[Instance]:
        return [i for i in self.instances if stream in i.sources]

    def uses(self, stream: str) -> list[tuple[Instance, int]]:
        """Every input that takes a stream: the instance, and which of its inputs."""
        return [(i, place) for i in self.readers(stream) for place, source in enumerate(i.sources) if source == stream]

    def is_inner(self, instance: Instance) -> bool:
        """Whether it is part of what a frame passes several times."""
        return self.loop is not None and instance.name in self.loop.body


def read(model: ir.Model) -> Network:
    """The network that a dataflow graph describes.

    Raises:
        InputFileError: a node that is no unit of hardware, or a value that does not say its fixed-point type.
    """
    g = model.graph
    streams: dict[str, Stream] = {value.name: _not_empty(value.name, _wide(value)) for value in g.inputs}
    instances = []
    for node in g:
        if node.domain != DOMAIN or node.op_type not in OF_OPERATOR:
            raise InputFileError(f"dataflow graph: node {node.name!r} ({node.op_type}) is no hardware unit")
        sources = tuple(v.name for v in node.inputs if v is not None and v.name in streams)
        unit = _unit(node, tuple(streams[name] for name in sources))
        result = node.outputs[0].name
        streams[result] = _not_empty(node.name, unit.result)
        instances.append(Instance(node.name, unit, sources, result, tuple(v.name for v in node.outputs), *_turn(node)))
    ends = [tuple(v.name for v in values) for values in (g.inputs, g.outputs)]
    frames = {v.name: _frame(v, streams[v.name]) for v in (*g.inputs, *g.outputs)}
    tensors = {v.name: v.metadata_props.get("tensor", v.name) for v in (*g.inputs, *g.outputs)}
    return Network(tuple(instances), streams, *ends, frames, tensors)


def _turn(node: ir.Node) -> tuple[str, int]:
    """The node in whose hardware it is computed, and in which turn; ("", 0) of one that takes no turns."""
    first, turn = (node.metadata_props.get(key, "") for key in (TURN_OF, TURN))
    if not first:
        return "", 0
    if not turn.isdecimal():
        raise InputFileError(f"dataflow graph: node {node.name!r} takes turn {turn!r}; expected a number")
    return first, int(turn)


def _unit(node: ir.Node, sources: tuple[Stream, ...]) -> Unit:
    try:
        _check_inputs(node)
        return OF_OPERATOR[node.op_type].from_node(node, sources)
    except Exception as error:  # a file that nobody vouches for: whatever is missing or does not fit
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputFileError(
            f"dataflow graph: node {node.name!r} ({node.op_type}) does not describe a unit: {why}; compile it again"
        ) from error


def _check_inputs(node: ir.Node) -> None:
    """Raise ValueError where a constant is not of the type that the operator declares, FormatError or ShapeError where
    attributes and shapes make no sense to it."""
    operator = OF_OPERATOR[node.op_type].operator
    for value, (name, port) in zip(node.inputs, operator.inputs.items(), strict=False):
        found = value.const_value.dtype if value is not None and value.const_value is not None else None
        if found is not None and found.name.lower() != port.dtype:
            raise ValueError(f"{name} is {found.name.lower()}, expected {port.dtype}")
    operator.check([_shape(value) for value in node.inputs], graph.attributes(node))


def _shape(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Of a constant as it is, of others as declared."""
    if value is not None and value.const_value is not None:
        return value.const_value.shape.numpy()
    declared = None if value is None else dims(value)
    return None if declared is None else tuple(declared)


def _not_empty(name: str, stream: Stream) -> Stream:
    if min(stream.shape, default=1) < 1:
        raise InputFileError(
            f"dataflow graph: {name!r} carries frames of {list(stream.shape)}; expected no length below 1"
        )
    return stream


def _frame(value: ir.Value, stream: Wide) -> tuple[int, ...]:
    given = value.metadata_props.get("frame")
    return stream.shape if given is None else tuple(int(n) for n in given.split(",") if n)


def _wide(value: ir.Value) -> Wide:
    try:
        width, lsb_exp = (int(value.metadata_props[key]) for key in ("width", "lsb_exp"))
    except (KeyError, ValueError):
        raise InputFileError(f"dataflow graph: input {value.name!r} does not say its width and lsb_exp") from None
    if value.shape is None or not all(isinstance(d, int) for d in value.shape[1:]):
        raise InputFileError(f"dataflow graph: input {value.name!r} does not say its shape")
    return Wide(tuple(value.shape[1:]), width, lsb_exp, value.metadata_props.get("nonnegative") == "1")
