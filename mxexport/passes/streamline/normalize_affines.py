from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model.editing import Editor, is_exact_factor
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import constant, is_op, label


def normalize_affines(model: ir.Model) -> Outcome:
    """x / c -> x * (1 / c)  when c holds powers of two;  x - c -> x + (-c)  when c is constant. Both exact."""
    editor = Editor(model)
    for node in editor.nodes():
        if not is_op(node, "Div", "Sub") or len(node.inputs) != 2:
            continue
        x, known = node.inputs[0], constant(node.inputs[1])
        if known is None or known.dtype != np.float32 or constant(x) is not None:
            continue
        if node.op_type == "Div" and not is_exact_factor(known):
            editor.declined(node, "it divides by a value that is not a power of two, whose reciprocal would round")
            continue
        op_type, array = ("Mul", np.float32(1) / known) if node.op_type == "Div" else ("Add", -known)
        c = editor.constant(f"{label(node)}_operand", np.asarray(array, np.float32))
        made = editor.node(op_type, [x, c], name=label(node), like=node.outputs[0], before=node)
        editor.take_over(node.outputs[0], made)
        editor.changed(f"{node.op_type} `{label(node)}` is {op_type} by a constant")
        editor.drop(node)
    return editor.finish()
