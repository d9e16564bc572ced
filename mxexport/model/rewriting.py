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


def nodes(model: ir.Model) -> Iterator[tuple[ir.Graph, ir.Node]]:
    """Every node of the main graph and of the graphs inside If, Loop and Scan, with its graph; functions stay as they
    are. Safe against removing the node just given."""
    for graph in list(model.graphs()):
        for node in list(graph):
            if node.graph is graph:
                yield graph, node


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


def is_constant(value: ir.Value | None) -> bool:
    """An initializer nobody can override: one that is also a graph input is only a default."""
    return value is not None and value.const_value is not None and value.is_initializer() and not value.is_graph_input()


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The one meaning of constant: the array of an initializer nobody can override, or of a Constant node; else None.

    An initializer that is also a graph input is only a default; `remove_constant_inputs` settles it for good.
    """
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


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


def value_names(model: ir.Model) -> Iterator[str]:
    """The name of every value outside functions."""
    for graph in model.graphs():
        for values in (graph.inputs, graph.initializers.values(), *(node.outputs for node in graph)):
            yield from (value.name for value in values)


def make_node(
    op_type: str, inputs: list, name: str, output: str, like: ir.Value | None = None, **attributes
) -> ir.Node:
    """A standard node with one output called `output`, of the type and shape of `like`."""
    node = ir.node(op_type, inputs, attributes, name=name)
    node.outputs[0].name = output
    if like is not None:
        node.outputs[0].shape, node.outputs[0].type = like.shape, like.type
    return node


def why_not_bypass(old: ir.Value, new: ir.Value) -> str | None:
    """Why uses of `old` cannot simply become uses of `new`; None when they can.

    A graph output keeps its name, so the value that takes its place must be free to be renamed: made by a node of
    the same graph and not an output itself.
    """
    if not old.is_graph_output():
        return None
    if new.producer() is None or new.producer().graph is not old.graph:
        return f"it makes the graph output {old.name!r} from an input, an initializer or an outer graph's tensor"
    if new.is_graph_output():
        return f"it makes a second graph output, {old.name!r}, of the graph output {new.name!r}"
    return None


def bypass(old: ir.Value, new: ir.Value) -> None:
    """Let every user of `old` take `new`; a graph output keeps its name. Ask `why_not_bypass` first."""
    name, output = old.name, old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if output:
        old.name = f"{name}_bypassed"
        new.name = name


def replace_output(old: ir.Value, new: ir.Value) -> None:
    """`new`, fresh from a node made by a pass, takes the name, type, shape and users of `old`."""
    new.shape, new.type = old.shape or new.shape, old.type or new.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}_replaced"


def label(node: ir.Node) -> str:
    """How a report names a node: its name, or its type and what it makes."""
    if node.name:
        return node.name
    return f"{node.op_type} -> {', '.join(v.name or '?' for v in node.outputs)}"
