"""Where a stream begins and ends in a QONNX graph, and what stands beside it."""

from __future__ import annotations

import onnx_ir as ir

from mxexport.fpga.datapaths.weights import weight_quantizer
from mxexport.model import graph
from mxexport.model.rewriting import constant, is_op


def end_problems(g: ir.Graph) -> list[tuple[str, str]]:
    """What is wrong with inputs and outputs, before any node is looked at."""
    if not g.inputs:
        return [("graph", "it has no input; expected one at least")]
    found = [(f"input {v.name!r}", why) for v in g.inputs if (why := _why_not(g, v))]
    for value in g.outputs:
        if value.producer() is None:
            found.append((f"output {value.name!r}", "is an input or a constant; export the model without it"))
    return found


def _why_not(g: ir.Graph, value: ir.Value) -> str | None:
    if value.name in g.initializers:
        return "a parameter that whoever runs the file may replace; run mx.clean, which takes it out of the inputs"
    return None if value.uses() else "read by no node; export the model without it"


def label(node: ir.Node) -> str:
    """How problems name a node."""
    return f"node {node.name!r} ({node.op_type})"


def constant_nodes(g: ir.Graph) -> list[ir.Node]:
    """Nodes that no input of the graph reaches and that are no part of a quantized weight."""
    varying, constant = set(g.inputs), []
    for node in g:
        if _reads_elsewhere(node) or any(value in varying for value in node.inputs):
            varying.update(node.outputs)
        elif not is_side(node):
            constant.append(node)
    return constant


def _reads_elsewhere(node: ir.Node) -> bool:
    """Whether its inputs do not say all it depends on: random numbers, and graphs inside, which read what they like."""
    inner = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return node.op_type.startswith("Random") or any(a.type in inner for a in node.attributes.values())


def shape_nodes(g: ir.Graph) -> set[ir.Node]:
    """Nodes that compute nothing but shapes for Expand."""
    found: set[ir.Node] = set()
    for node in reversed(list(g)):
        uses = [use for value in node.outputs for use in value.uses()]
        if uses and all(user in found or (is_op(user, "Expand") and index == 1) for user, index in uses):
            found.add(node)
    return found


def is_side(node: ir.Node) -> bool:
    """Beside the stream: a weight quantizer, a scale, a constant."""
    if node.op_type == "Constant" or graph.is_quantized_constant(node):
        return True  # what reads it says whether it can
    if is_op(node, "Split") and weight_quantizer(node.inputs[0]) is not None:
        return True
    if is_op(node, "Gather") and all(_is_known(value) for value in node.inputs):
        return True
    if graph.is_ours(node, graph.SCALES | graph.STORED_SCALES | graph.ZERO_POINTS):
        return True
    weight = node.inputs[0] if node.op_type == "Transpose" else None
    return weight_quantizer(weight) is not None or constant(weight) is not None


def _is_known(value: ir.Value | None) -> bool:
    return constant(value) is not None or weight_quantizer(value) is not None
