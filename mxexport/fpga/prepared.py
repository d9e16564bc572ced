"""A QONNX graph in the words that hardware has: the rewriting that comes before the lowering."""

from __future__ import annotations

import onnx_ir as ir

from mxexport.fpga.borders import constant_nodes
from mxexport.fpga.settled import settle
from mxexport.fpga.static_scales import take_out_scales
from mxexport.model.editing import Editor, sole_user
from mxexport.model.rewriting import is_op
from mxexport.passes.clean.fold_constants import fold_constants
from mxexport.passes.clean.infer_shapes import infer_shapes


def complete(model: ir.Model) -> None:
    """What lowering reads beside the nodes, in place: results of constants as constants, then shapes."""
    if constant_nodes(model.graph):
        fold_constants(model)
    infer_shapes(model)


def prepare(model: ir.Model) -> bool:
    """Rewrite `model` in place; says whether anything changed: by a rounding of float32 at most, or codes that turn."""
    changed = [rewrite(model) for rewrite in (settle, spell, take_out_scales)]
    return any(changed)


def spell(model: ir.Model) -> bool:
    """Log(Sigmoid(x)) -> -Softplus(-x)  where nobody else reads the Sigmoid: a curve that is bounded beside a line."""
    editor, changed = Editor(model), False
    for node in list(model.graph):
        gate = node.inputs[0].producer() if is_op(node, "Log") else None
        if not is_op(gate, "Sigmoid") or sole_user(gate.outputs[0]) is not node:
            continue
        value, out = gate.inputs[0], node.outputs[0]
        for op, word in (("Neg", "mirrored"), ("Softplus", "softplus"), ("Neg", "logsigmoid")):
            value = editor.node(op, [value], name=f"{node.name}_{word}", like=out, before=node)
        editor.take_over(out, value)
        editor.drop(node)
        changed = True
    editor.finish()
    return changed
