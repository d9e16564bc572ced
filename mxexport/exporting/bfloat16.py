"""bfloat16 models for runtimes without bfloat16 arithmetic: float32 that is rounded to bfloat16 where torch rounds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.errors import UnsupportedError

NOTE = "bfloat16 is carried in float32 and rounded after every operation; inputs and outputs of the file are float32"

_EXACT = {
    *("Abs", "Identity", "Max", "MaxPool", "Min", "Neg", "Relu", "Where"),
    *("Concat", "Gather", "GatherElements", "GatherND", "Pad", "Slice", "Split", "Tile"),
    *("Expand", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"),
}
"""Operators that return values they were given, so nothing is left to round."""


def carry_in_float32(model: ir.Model) -> bool:
    """y = Op(bfloat16)   ->   y = Cast(Cast(Op(float32), bfloat16), float32); True when the model held bfloat16.

    onnxruntime has no bfloat16 kernels on the CPU. Torch's add up in float32 and round the result once, as this does;
    values between rounding points are the same subset of float32 in both.

    Raises:
        UnsupportedError: bfloat16 inside a branch or loop.
    """
    g = model.graph
    nodes = list(g)
    _refuse_subgraphs(nodes)
    found = _widen_constants(g)
    for value in g.inputs:
        if value.dtype == ir.DataType.BFLOAT16:
            found = True
            value.type = ir.TensorType(ir.DataType.FLOAT)
            _round_behind(g, value, None)
    for node in nodes:
        _widen_tensors(node)
        for value in node.outputs:
            if value.dtype == ir.DataType.BFLOAT16:
                found = True
                _carry(g, node, value)
    for node in nodes:
        _drop_widening(g, node)
    return found


def _refuse_subgraphs(nodes: list[ir.Node]) -> None:
    inside = [
        (node.name or node.op_type, "bfloat16 inside a branch or loop; call model.float() before export")
        for node in nodes
        for attribute in node.attributes.values()
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for graph in (attribute.value if attribute.type == ir.AttributeType.GRAPHS else [attribute.value])
        if any(
            v.dtype == ir.DataType.BFLOAT16 for inner in graph.all_nodes() for v in (*inner.inputs, *inner.outputs) if v
        )
    ]
    if inside:
        raise UnsupportedError("export: bfloat16 that cannot be carried in float32", inside)


def _widen_constants(g: ir.Graph) -> bool:
    found = False
    for value in g.initializers.values():
        if value.dtype == ir.DataType.BFLOAT16:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
            found = True
    return found


def _widen_tensors(node: ir.Node) -> None:
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == ir.DataType.BFLOAT16:
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy().astype(np.float32)))


def _carry(g: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    if _is_cast(node):
        _behind(g, node, value, [ir.DataType.FLOAT])
        return
    value.type = ir.TensorType(ir.DataType.FLOAT)
    if node.domain or node.op_type not in _EXACT:
        _round_behind(g, value, node)


def _round_behind(g: ir.Graph, value: ir.Value, node: ir.Node | None) -> None:
    _behind(g, node, value, [ir.DataType.BFLOAT16, ir.DataType.FLOAT])


def _behind(g: ir.Graph, node: ir.Node | None, value: ir.Value, types: list[ir.DataType]) -> None:
    """Let readers of `value` read it through Casts to `types`."""
    casts: list[ir.Node] = []
    for dtype in types:
        cast = ir.node("Cast", [casts[-1].outputs[0] if casts else value], {"to": dtype})
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(dtype)
        if node is not None:
            cast.metadata_props.update(node.metadata_props)  # it is named after the module it belongs to
        casts.append(cast)
    last = casts[-1].outputs[0]
    value.replace_all_uses_with(last, replace_graph_outputs=True)
    casts[0].replace_input_with(0, value)
    if last.is_graph_output():
        last.name, value.name = value.name, None
    if node is None:
        g.insert_before(g[0], casts)
    else:
        g.insert_after(node, casts)


def _drop_widening(g: ir.Graph, node: ir.Node) -> None:
    """Cast to float32 of what is float32 by now."""
    if not _is_cast(node) or node.attributes["to"].value != ir.DataType.FLOAT:
        return
    (value,), (cast,) = node.inputs, node.outputs
    if value.dtype == ir.DataType.FLOAT and not cast.is_graph_output():
        cast.replace_all_uses_with(value)
        g.remove(node, safe=True)


def _is_cast(node: ir.Node) -> bool:
    return node.op_type == "Cast" and not node.domain
