"""QONNX graph -> dataflow graph: walks the nodes, asks the units, collects every refusal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from mxexport import ops
from mxexport.errors import MXExportError, UnsupportedError
from mxexport.fpga.lowering.borders import constant_nodes, is_side, label
from mxexport.fpga.lowering.layer_names import PRODUCTS
from mxexport.fpga.lowering.lowering import Lowering, Pending, declare_end, frame_of
from mxexport.fpga.lowering.readers import behind
from mxexport.fpga.lowering.turns import Alike, Turns
from mxexport.fpga.streams.layouts import same_image
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.streams.views import BATCH, View
from mxexport.fpga.unit import Refused
from mxexport.model import graph
from mxexport.model.rewriting import nodes_of_scales
from mxexport.model.uniform import is_quantizer

OPSET = 18
_LOWERINGS = 6
"""Until layers in turn are alike: two, unless widths that follow from others cross a limit."""
SUGGESTIONS = {
    "Where": "it chooses by a computed condition, which only masks of scores may; hide keys by finfo.min, not by -inf",
    "LogSoftmax": "apply it on the host; export the model up to the layer before it",
    "Reciprocal": "it divides by what is computed; divide by a constant, or by one count for a frame",
    "DFT": "no hardware unit; compute spectra on the host, or by a linear layer",
    "Transpose": "no hardware unit for this operator on inputs; let the network begin behind it",
}


@dataclass(frozen=True)
class Lowered:
    """The dataflow graph, and by each of its streams (first value) the tensor of the QONNX graph that it carries;
    `views`: how such tensors lie there, where they are neither vectors nor images with channels first."""

    model: ir.Model
    tensors: dict[str, str]
    views: dict[str, View]


def read_frames(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Input -> one frame of it as its first unit takes it. Nothing is built, so the graph need not be calibrated.

    Raises:
        UnsupportedError: every node that cannot be lowered, with its name, the reason and a suggestion. What only
            follows from another refusal is not refused again.
    """
    _refuse_half(model.graph)
    walk = Walk(model, None)
    try:
        walk.run()
    except UnsupportedError as error:
        if not (hints := _time_first(model.graph)):
            raise
        found = error.problems or [("graph", str(error).removeprefix("compile: "))]
        raise UnsupportedError("compile: some nodes cannot be lowered to hardware", [*hints, *found]) from error
    return {value.name: walk.frames[value.name] for value in model.graph.inputs if value.name in walk.frames}


def _time_first(g: ir.Graph) -> list[tuple[str, str]]:
    """Inputs [T, N, I] whose batch is not the first axis, as those of recurrent layers are by default."""
    found = []
    for value in g.inputs:
        sizes = list(value.shape or ())
        timed = len(sizes) == 3 and isinstance(sizes[0], int) and sizes[0] > 1
        if timed and (sizes[1] == 1 or not isinstance(sizes[1], int)):
            told = f"has shape [{', '.join(map(str, sizes))}], and frames are counted along the first axis; if that is "
            told += "time (batch_first=False), export a module around the model that takes the batch first: "
            found.append((f"input {value.name!r}", told + "self.model(x.transpose(0, 1))"))
    return found


def _refuse_half(g: ir.Graph) -> None:
    """One word on models that compute in half precision, in place of one on every Cast."""
    for value in (v for node in g for v in node.outputs):
        if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            found = f"it gives {value.dtype.name.lower()}, expected float32; call model.float() before export"
            raise UnsupportedError(
                "the model rounds to half precision between its layers, which hardware does not", [(value.name, found)]
            )


def lower(model: ir.Model, sources: Mapping[str, Wide], turns: Turns | None = None) -> Lowered:
    """The dataflow graph of a calibrated `model` whose inputs come as `sources`, accumulators sized exactly. Layers
    that `turns` names are made alike: that needs what every one of them would make, so it takes a lowering or more
    before.

    Raises:
        UnsupportedError: as `read_frames`; or an accumulator would need more than 63 bits: names the layer and why; or
            layers in turn that cannot be alike.
    """
    alike = None if turns is None else Alike(turns)
    for _ in range(_LOWERINGS):
        walk = Walk(model, sources, alike)
        walk.run()
        if alike is None or not alike.missing:
            return Lowered(walk.model(), walk.tensors, walk.views)
        alike, missing = alike.again(), alike.missing
    raise UnsupportedError(
        f"in_turn: the units of {missing[0]!r} are not those of other turns after {_LOWERINGS} tries"
    )


class Walk(Lowering):
    """One pass over the nodes. It goes on behind what it refuses, so that one run names everything."""

    def run(self) -> None:
        constants = constant_nodes(self._graph)
        if constants:
            shown = ", ".join(label(node).removeprefix("node ") for node in constants[:3])
            more = f" and {len(constants) - 3} more" if len(constants) > 3 else ""
            where = f"node{'s' * (len(constants) > 1)} {shown}{more}"
            self._problems.append((where, "compute constants; run mx.clean"))
        self._done.update(constants, nodes_of_scales(self._graph))
        for node in self._graph:
            if node not in self._done and not is_side(node):
                self._take(node)
        self._end()

    def _take(self, node: ir.Node) -> None:
        self._node = node
        try:
            self._lower(node)
        except Refused as refusal:
            self._refuse(node, refusal.node or node, str(refusal))
        except MXExportError:
            raise
        except Exception as error:  # attributes and shapes that do not fit each other fail in as many ways
            why = (str(error).splitlines() or [""])[0][:200]
            self._refuse(node, node, f"its attributes and shapes make no sense ({type(error).__name__}: {why})")

    def _refuse(self, node: ir.Node, named: ir.Node, why: str) -> None:
        self._problems.append((label(named), why))
        for value in node.outputs:
            self.bind(value, Pending(None, blocked=node))

    def _lower(self, node: ir.Node) -> None:
        from mxexport.fpga.units import LOWERS  # units stand above this room

        if any(unit.lower(node, self) for unit in LOWERS.get((node.domain, node.op_type), ())):
            return
        if node in self._spared:
            self.bind(node.outputs[0], self.elements(self._spared[node]), self._makers.get(self._spared[node]))
        elif node.op_type in ("Flatten", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Transpose"):
            self._move(node)
        elif node.op_type == "Expand":
            self._repeat(node)
        elif node.op_type == "Cast" and _keeps_numbers(node):
            self.bind(node.outputs[0], self.elements(node.inputs[0]), self._makers.get(node.inputs[0]))
        else:
            raise Refused(SUGGESTIONS.get(node.op_type, "no hardware unit for this operator"))

    def _move(self, node: ir.Node) -> None:
        """A node that leaves the order of values as it is, or that a view follows."""
        value, out = node.inputs[0], node.outputs[0]
        source, shape = self.elements(value), out.shape
        if node.op_type != "Identity" and (source.view is not None or self._needs_view(node, source)):
            source = self._viewed(node)
        elif node.op_type != "Identity" and source.shape is not None and len(source.shape) == 3:
            source = source if same_image(shape, source.shape) else self._flat(node, source)
        elif node.op_type == "Transpose":
            raise Refused(SUGGESTIONS["Transpose"])
        elif node.op_type != "Identity" and (shape is None or len(shape) != 2 or not isinstance(shape[1], int)):
            raise Refused(f"output shape is {shape}; expected (batch, features) with a known number of features")
        self.bind(out, source, self._makers.get(value))

    def _repeat(self, node: ir.Node) -> None:
        """Heads that several others share: the view says so, and the stream brings them once."""
        x, out = node.inputs[0], node.outputs[0]
        source, before, behind = self.sequences(x), frame_of(x), frame_of(out)
        if source.view is not None:
            if before is None or behind is None or len(before) != len(behind):
                raise Refused(f"it repeats {x.shape} to {out.shape}; expected known shapes of one rank; run mx.clean")
            longer = [i for i, (n, m) in enumerate(zip(before, behind, strict=True), 1) if n != m]
            if len(longer) > 1:
                raise Refused(f"it repeats axes {longer} of {x.shape}; expected one")
            for axis in longer:
                source = replace(source, view=source.view.repeated(axis, behind[axis - 1]))
        self.bind(out, source, self._makers.get(x))

    def _needs_view(self, node: ir.Node, source: Pending) -> bool:
        """Whether a tensor that lies as vectors, or as images with channels first, does so no more behind `node`."""
        if source.shape is None or source.blocked is not None:
            return False
        shape = node.outputs[0].shape
        as_it_is = shape is not None and (len(shape) == 2 or len(source.shape) == 3 and same_image(shape, source.shape))
        return node.op_type == "Transpose" or not as_it_is

    def _viewed(self, node: ir.Node) -> Pending:
        source = self.sequences(node.inputs[0])
        if source.view is None:
            return source
        return replace(source, view=behind(node, source.view))

    def _flat(self, node: ir.Node, source: Pending) -> Pending:
        """Images as the vectors that a node makes of them."""
        from mxexport.fpga.units.reorder import Reorder  # units stand above this room

        shape, length = node.outputs[0].shape, math.prod(source.shape)
        if shape is None or math.prod(d for d in shape[1:] if isinstance(d, int)) != length:
            raise Refused(f"output shape is {shape}; expected all values of a frame, {length}")
        if max(shape[1:]) != length and source.shape[:2] != (1, 1):
            raise Refused(f"output shape is {shape}; expected (batch, {length})")
        if source.shape[:2] == (1, 1):
            return source
        return self.add(Reorder, [self.wide(source, node)], node, "reorder", ("flat",), (length,))

    def _end(self) -> None:
        """Raises UnsupportedError for everything that was refused, or where no design is left."""
        outputs = list(self._graph.outputs)
        if not self._problems:
            self._problems += [problem for value in outputs if (problem := self._end_problem(value))]
        if self._problems:
            raise UnsupportedError("compile: some nodes cannot be lowered to hardware", self._problems)
        if not any(node.op_type in PRODUCTS for node in self._makers.values()):
            raise UnsupportedError("compile: the graph holds no quantized matrix product")
        unread = [v for v in self._pending if v not in self._read and v not in outputs]
        if unread:
            raise UnsupportedError(
                "compile: some results reach no output",
                [(f"tensor {v.name!r}", "is read by no layer and is no output; run mx.clean") for v in unread],
            )

    def _end_problem(self, output: ir.Value) -> tuple[str, str] | None:
        maker, where = self._makers.get(output), f"output {output.name!r}"
        if maker is not None and is_quantizer(maker):
            return f"node {maker.name!r}", "quantizes, and no matrix product follows; leave this quantizer to the host"
        if output not in self._pending:
            made = label(output.producer()) if output.producer() else "the graph itself"
            return where, f"of {made}, does not end a chain of layers"
        if self._pending[output].group_size is not None:
            return where, "carries quantized blocks; let it end before its quantizer"
        if (view := self._pending[output].view) is not None and not _as_they_come(view):
            return where, f"has the axes {view}; expected (batch, tokens, channels) as they come, or channels first"
        ends = [v for v in self._graph.outputs if self._pending.get(v) is not None and self._pending[v].values]
        same = [v for v in ends if self._pending[v].values == self._pending[output].values]
        if len(same) > 1 and same[0] is not output:
            return where, f"carries what output {same[0].name!r} carries; export the model with one of them"
        if self._pending[output].values and self._pending[output].values[0] in self._inputs:
            return where, "carries an input unchanged; export the model without it"
        return None

    def model(self) -> ir.Model:
        """The dataflow graph, with function bodies."""
        outputs = []
        for output in self._graph.outputs:
            found = self._pending[output]
            if found.view is not None:
                self._node = output.producer()
                found = self.shaped(found, frame_of(output) or found.shape)
                self.bind(output, found)
            values = found.values
            declare_end(values[0], output, found.type)
            outputs += values
        made = ir.Graph(
            self._inputs,
            outputs,
            nodes=self._nodes,
            initializers=self._initializers,
            opset_imports={"": OPSET, ops.DOMAIN: ops.VERSION},
            name="dataflow",
        )
        model = ir.Model(made, ir_version=10, producer_name="mxexport", doc_string=_DESCRIPTION)
        graph.attach_functions(model)
        return model


def _keeps_numbers(node: ir.Node) -> bool:
    """Whether a Cast makes floats or integers of whole numbers."""
    kinds = [None if v.dtype is None else v.dtype.numpy().kind for v in (node.inputs[0], node.outputs[0])]
    return kinds[0] in ("b", "i", "u") and kinds[1] in ("f", "i")


def _as_they_come(view: View) -> bool:
    """Whether a tensor's axes, three at most, are those of the stream, one by one."""
    return len(view.axes) <= 3 and tuple(a for axis in view.axes for a in axis) == (BATCH, *view.atoms)


_DESCRIPTION = (
    "A network in hardware: every node is one unit, in integers only. Values between units are whole numbers of "
    "2**lsb_exp (see their description), or element codes and shared scales. onnxruntime computes what the RTL does."
)
