"""Where a stream begins and ends in a QONNX graph, and what stands beside it."""

from __future__ import annotations

import onnx_ir as ir

from mxexport.errors import UnsupportedError
from mxexport.fpga.weights import weight_quantizer
from mxexport.model import graph
from mxexport.model.rewriting import constant


def check_ends(g: ir.Graph) -> None:
    """Raise UnsupportedError, which names them all, unless the graph has one input and one output."""
    if len(g.inputs) == 1 and len(g.outputs) == 1:
        return
    problems = [(f"input {v.name!r}", _why_input(g, v)) for v in g.inputs] if len(g.inputs) != 1 else []
    if len(g.outputs) != 1:
        made = [(v, f"of {label(v.producer())}" if v.producer() else "an input") for v in g.outputs]
        problems += [(f"output {v.name!r}", f"{by}; export the model with one output") for v, by in made]
    raise UnsupportedError(
        f"compile: the graph has {len(g.inputs)} inputs and {len(g.outputs)} outputs; expected one of each", problems
    )


def _why_input(g: ir.Graph, value: ir.Value) -> str:
    if value.name in g.initializers:
        return "a parameter that whoever runs the file may replace; run mx.clean, which takes it out of the inputs"
    readers = [label(node) for node in dict.fromkeys(value.consumers())]
    more = f" and {len(readers) - 3} more nodes" if len(readers) > 3 else ""
    return f"read by {', '.join(readers[:3]) or 'no node'}{more}; export the model with one input"


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


def is_side(node: ir.Node) -> bool:
    """Beside the stream: a weight quantizer, a scale, a constant."""
    if node.op_type == "Constant" or graph.is_quantized_constant(node):
        return True  # what reads it says whether it can
    if graph.is_ours(node, graph.SCALES | graph.STORED_SCALES | graph.ZERO_POINTS):
        return True
    weight = node.inputs[0] if node.op_type == "Transpose" else None
    return weight_quantizer(weight) is not None or constant(weight) is not None
