"""Files of QuantizeLinear and DequantizeLinear on their way to an integer target: by our own quantizers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mxexport.model.constants import constant_array
from mxexport.model.editing import new_initializer
from mxexport.model.names import free_name
from mxexport.passes.clean.infer_shapes import infer_shapes
from mxexport.targets import from_qdq
from mxexport.targets._layers import prepare

_PAIR = {"QuantizeLinear", "DequantizeLinear"}


def with_our_quantizers(model: ir.Model, batch: int | None) -> tuple[ir.Model, dict[str, str]]:
    """A copy of `model` with the batch and names for all nodes, and as `convert --to mxexport` makes it where it holds
    QuantizeLinear and DequantizeLinear; and (node -> why it could not be read) for what is left of them. Stored biases
    become the values they stand for.

    Raises:
        OptionError: a batch that cannot be.
    """
    work = model.clone()
    prepare(work, batch)
    if not any(node.domain == "" and node.op_type in _PAIR for node in work.graph):
        return work, {}
    infer_shapes(work)  # how far one scale of a tensor reaches depends on its shape
    left = {}
    for name, note in from_qdq.read_quantizers(work):
        if note.startswith(from_qdq.LEFT):
            left[name] = note.removeprefix(from_qdq.LEFT)
    for node in list(work.graph):
        if node.domain == "" and node.op_type == "DequantizeLinear" and _store(node):
            left.pop(node.name or node.outputs[0].name, None)
    RemoveUnusedNodesPass()(work)
    return work, left


def explain(problems: list[tuple[str, str]], left: dict[str, str], model: ir.Model) -> list[tuple[str, str]]:
    """`problems` with the reason why a quantizer could not be read in the place of what follows from it."""
    if not left:
        return problems
    pairs = [node for node in model.graph if node.domain == "" and node.op_type in _PAIR]
    followers = {n.name for n in model.graph if n in pairs or _reads(n, left)}
    followers |= {value.name for node in pairs for value in node.inputs if value is not None}
    expected = "expected codes of 2 to 8 bits with constant scales; see what 'mxexport convert --to mxexport' says"
    reasons = [(name, f"its quantizer cannot be read: {why}, {expected}") for name, why in left.items()]
    return reasons + [(where, why) for where, why in problems if where not in followers | left.keys()]


def _reads(node: ir.Node, left: dict[str, str]) -> bool:
    """Whether the node reads what a node of `left` makes."""
    makers = [value.producer() for value in node.inputs if value is not None]
    return any(m is not None and (m.name in left or m.outputs[0].name in left) for m in makers)


def _store(node: ir.Node) -> bool:
    """DequantizeLinear(int32 constant, scale) -> its values; whether it was one. Biases have no quantizer to keep."""
    codes, scale, zero = (constant_array(v) for v in (*node.inputs, None)[:3])
    if codes is None or scale is None or codes.dtype != np.int32 or scale.dtype != np.float32:
        return False
    if (zero is not None and zero.any()) or (scale.size > 1 and scale.shape != codes.shape):
        return False
    out = node.outputs[0]
    values = codes.astype(np.float32) * scale.reshape(scale.shape if scale.size > 1 else ())
    name = free_name(out.name, node.graph.initializers)
    ir.convenience.replace_all_uses_with(out, new_initializer(node.graph, name, values))
    return True
