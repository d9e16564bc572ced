"""What several passes need to look at and rewrite a graph; each costs as much as the nodes it touches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from mxexport.ops import DOMAIN, of_role, qonnx_general

_QUANTIZERS = of_role("quantizer", "dequantizer", "stored_scale") | {"MXQuantize", "MXDequantize"}
QONNX_DOMAINS = {qonnx_general.DOMAIN, *qonnx_general.FORMER_DOMAINS}
QONNX_QUANTIZERS = {*qonnx_general.OPERATORS, "Trunc", "IntQuant"}
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
"""Operators that give other values each time; so does Dropout where it is in training mode, see `is_random`."""
STANDARD_DOMAINS = {"", "ai.onnx"}
SHAPE_OPERATORS = {"Shape", "Concat", "Expand", "Gather", "Unsqueeze", "Cast"}  # what computes the shape of a scale
_OF_SCALES = SHAPE_OPERATORS | {"Mul"}


def nodes(model: ir.Model) -> Iterator[tuple[ir.Graph, ir.Node]]:
    """Every node of the main graph and of the graphs inside If, Loop and Scan, with its graph; functions stay as they
    are. Safe against removing the node just given."""
    for graph in list(model.graphs()):
        for node in list(graph):
            if node.graph is graph:
                yield graph, node


def name_standard_opset(model: ir.Model) -> None:
    """Under "", which "ai.onnx" is another name of."""
    if "" not in model.opset_imports and "ai.onnx" in model.opset_imports:
        model.opset_imports[""] = model.opset_imports.pop("ai.onnx")


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """A standard ONNX operator of one of the given types."""
    return node is not None and node.domain in STANDARD_DOMAINS and node.op_type in op_types


def is_random(node: ir.Node) -> bool:
    """Gives other values each time. Dropout does in training mode (its third input), unless that is known to be off."""
    if is_op(node, "Dropout"):
        mode = node.inputs[2] if len(node.inputs) > 2 else None
        known = constant(mode)
        return mode is not None and (known is None or bool(known))
    return is_op(node, *RANDOM)


def is_qonnx(node: ir.Node | None) -> bool:
    return node is not None and node.domain in QONNX_DOMAINS


def is_qonnx_quantizer(node: ir.Node | None) -> bool:
    """One of QONNX's quantizers that has a function body here."""
    return node is not None and node.domain == qonnx_general.DOMAIN and node.op_type in qonnx_general.OPERATORS


def is_quantizer(node: ir.Node | None) -> bool:
    """Ours (packed weights included), QONNX's, QuantizeLinear and DequantizeLinear: what folding must never swallow."""
    return (
        (node is not None and node.domain == DOMAIN and node.op_type in _QUANTIZERS)
        or (is_qonnx(node) and node.op_type in QONNX_QUANTIZERS)
        or is_op(node, "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
    )


def nodes_of_scales(graph: ir.Graph) -> set[ir.Node]:
    """Shape -> ... -> Expand in front of a quantizer's scale that is constant but for its shape, or of a constant that
    a Concat puts beside every frame (class tokens)."""
    beside: set[ir.Node] = set()
    for node in reversed(list(graph)):
        if not node.outputs:
            continue
        uses = [use for value in node.outputs for use in value.uses()]
        used = uses and not node.outputs[0].is_graph_output()
        repeated = repeated_constant(node.outputs[0]) is not None
        found = all(
            user in beside or (is_quantizer(user) and at > 0) or (repeated and is_op(user, "Concat"))
            for user, at in uses
        )
        if used and found and is_op(node, *_OF_SCALES):
            beside.add(node)
    return beside


def repeated_constant(value: ir.Value | None) -> np.ndarray | None:
    """What every frame gets of a constant that an Expand repeats along the batch, [1, ...]; None of others."""
    node = None if value is None else value.producer()
    if not is_op(node, "Expand") or not node.inputs or value.shape is None:
        return None
    if (array := constant(node.inputs[0])) is None:
        return None
    frame = [d if isinstance(d, int) else None for d in value.shape[1:]]
    whole = array.ndim <= len(frame) or array.shape[0] == 1
    return np.broadcast_to(array, (1, *frame)) if whole and None not in frame else None


def is_constant(value: ir.Value | None) -> bool:
    """An initializer nobody can override: one that is also a graph input is only a default."""
    return value is not None and value.const_value is not None and value.is_initializer() and not value.is_graph_input()


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The one meaning of constant: the array of an initializer nobody can override, or of a Constant node; else None.

    An initializer that is also a graph input is only a default; `remove_constant_inputs` settles it for good.
    """
    if value is None or value.is_graph_input():
        return None
    node = value.producer()
    if node is None:
        return None if value.const_value is None else value.const_value.numpy()
    return _of_constant_node(node) if is_op(node, "Constant") else None


def _of_constant_node(node: ir.Node) -> np.ndarray | None:
    """What onnx-ir's `get_const_tensor` gives, without its writing names into the file's tensors."""
    name, found = next(iter(node.attributes.items()), ("", None))
    if found is None or found.is_ref() or "string" in name:
        return None
    if name == "value":
        return found.value.numpy()
    kind = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    return np.array(found.value, kind[name]) if name in kind else None


def dims(value: ir.Value) -> list[int | None] | None:
    """Dimensions, None where one is open; None where not even the rank is known."""
    return None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape where every dimension is known, else None."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def attribute(node: ir.Node, name: str, default=None):
    found = node.attributes.get(name)
    return default if found is None else found.value


def reduced_axes(node: ir.Node) -> list[int] | None:
    """The axes of a reduction, which are an input from opset 18 (ReduceSum: 13) on, as the file counts them; None where
    it names none, or none that are constant."""
    given = attribute(node, "axes")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        given = constant(node.inputs[1])
    return None if given is None else [int(axis) for axis in np.ravel(given)]


def value_names(model: ir.Model) -> Iterator[str]:
    """The name of every value outside functions."""
    for graph in model.graphs():
        yield from values_of(graph)


def values_of(graph: ir.Graph) -> Iterator[str]:
    """The names of the values of one graph."""
    for values in (graph.inputs, graph.initializers.values(), *(node.outputs for node in graph)):
        yield from (value.name for value in values)


def label(node: ir.Node) -> str:
    """How a report names a node: its name, or its type and what it makes."""
    if node.name:
        return node.name
    return f"{node.op_type} -> {', '.join(v.name or '?' for v in node.outputs)}"
