"""Lowering the opset of graphs of plain operators."""

from __future__ import annotations

import onnx_ir as ir
from onnx import defs

from mxexport.errors import UnsupportedError

_AGAIN = "bring the file to opset {} with another tool first, or end the model before it"


def lower_opset(model: ir.Model, opset: int) -> None:
    """Declare `opset` for the standard operators, where each node means the same there.

    A node does where its operator has not changed between the two opsets, or where it has the inputs and attributes
    that the older operator knows (later versions then only added types).

    Raises:
        UnsupportedError: nodes that the older opset cannot say, all of them.
    """
    current = model.opset_imports[""]
    if current <= opset:
        return
    problems = [
        (node.name, why)
        for node in model.graph.all_nodes()
        if node.domain == "" and (why := _obstacle(node, current, opset))
    ]
    if problems:
        raise UnsupportedError(f"opset {current} cannot be lowered to {opset}", problems)
    model.opset_imports[""] = opset


def _obstacle(node: ir.Node, current: int, opset: int) -> str | None:
    if not defs.has(node.op_type, opset, ""):
        return f"{node.op_type} does not exist in opset {opset}; export it in older operators"
    new, old = (defs.get_schema(node.op_type, version, "") for version in (current, opset))
    if new.since_version == old.since_version:
        return None
    extra = sorted(set(node.attributes) - set(old.attributes))
    if extra:
        return f"{node.op_type} has no attribute {', '.join(extra)} in opset {opset}; {_AGAIN.format(opset)}"
    given = len([v for v in node.inputs if v is not None])
    if not old.min_input <= given <= old.max_input:
        expected = f"expected {old.min_input} to {old.max_input} in opset {opset}"
        return f"{node.op_type} has {given} inputs, {expected}; {_AGAIN.format(opset)}"
    return None
