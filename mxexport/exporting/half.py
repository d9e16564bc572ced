"""Half-precision models: float32 that is rounded to half precision where torch rounds.

Runtimes differ in half precision: onnxruntime has no bfloat16 kernels on the CPU, and in float16 it leaves roundings
out between operators it runs in float32. Written out as Casts they mean the same everywhere.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.errors import UnsupportedError

HALF = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
NOTE = "half precision is carried in float32 and rounded after every operation"

_EXACT = {
    *("Abs", "Identity", "Max", "MaxPool", "Min", "Neg", "Relu", "Where"),
    *("Concat", "Gather", "GatherElements", "GatherND", "Pad", "Slice", "Split", "Tile"),
    *("Expand", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"),
}
"""Operators that return values they were given, so nothing is left to round."""


def carry_in_float32(model: ir.Model) -> bool:
    """y = Op(half)   ->   y = Cast(Cast(Op(float32), half), float32); True when the model held half precision.

    Torch's kernels add up in float32 and round the result once, as this does. float16 inputs and outputs of the graph
    stay; bfloat16 ones, which numpy does not know, become float32, and inputs are rounded. Our operators get the
    float32 they take: both half precisions are subsets of it.

    Raises:
        UnsupportedError: half precision inside a branch or loop.
    """
    g = model.graph
    nodes = list(g)
    _refuse_subgraphs(nodes)
    narrow_outputs = [value.dtype for value in g.outputs]
    found = _widen_constants(g)
    for value in g.inputs:
        found = _widen_input(g, value) or found
    for node in nodes:
        _widen_tensors(node)
        for value in node.outputs:
            if value.dtype in HALF:
                found = True
                _carry(g, node, value)
    for node in nodes:
        _drop_widening(g, node)
    for i, dtype in enumerate(narrow_outputs):
        if dtype == ir.DataType.FLOAT16:
            _narrow_output(g, i)
    return found


def _widen_input(g: ir.Graph, value: ir.Value) -> bool:
    if value.dtype == ir.DataType.FLOAT16:
        _behind(g, None, value, [ir.DataType.FLOAT])
        return True
    if value.dtype == ir.DataType.BFLOAT16:
        value.type = ir.TensorType(ir.DataType.FLOAT)
        _behind(g, None, value, [ir.DataType.BFLOAT16, ir.DataType.FLOAT])
        return True
    return False


def _narrow_output(g: ir.Graph, index: int) -> None:
    value = g.outputs[index]
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16})
    narrow = cast.outputs[0]
    narrow.shape, narrow.type = value.shape, ir.TensorType(ir.DataType.FLOAT16)
    narrow.name, value.name = value.name, None
    g.append(cast)
    g.outputs[index] = narrow


def _refuse_subgraphs(nodes: list[ir.Node]) -> None:
    inside = [
        (node.name or node.op_type, "half precision inside a branch or loop; call model.float() before export")
        for node in nodes
        for attribute in node.attributes.values()
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for graph in (attribute.value if attribute.type == ir.AttributeType.GRAPHS else [attribute.value])
        if any(v.dtype in HALF for inner in graph.all_nodes() for v in (*inner.inputs, *inner.outputs) if v)
    ]
    if inside:
        raise UnsupportedError("export: half precision that cannot be carried in float32", inside)


def _widen_constants(g: ir.Graph) -> bool:
    found = False
    for value in g.initializers.values():
        if value.dtype in HALF:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
            found = True
    return found


def _widen_tensors(node: ir.Node) -> None:
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in HALF:
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy().astype(np.float32)))


def _carry(g: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    half = value.dtype
    if _is_cast(node):
        _behind(g, node, value, [ir.DataType.FLOAT])
        return
    value.type = ir.TensorType(ir.DataType.FLOAT)
    if node.domain or node.op_type not in _EXACT:
        _behind(g, node, value, [half, ir.DataType.FLOAT])


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
