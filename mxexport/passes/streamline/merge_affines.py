from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model.editing import Editor, constant_operand, is_exact_factor, sole_user
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import is_op, label
from mxexport.passes.exactness import approximate


@approximate(
    ulp=256,
    reason="constants are combined before x is known: exact for factors that are powers of two, else each of the "
    "merged operations rounds once, within 2**-22 of the largest of |x*a*c|, |b*c| and |d|; the bound in ulp holds "
    "while the result's largest magnitude is no less than 1/64 of theirs",
)
def merge_affines(model: ir.Model) -> Outcome:
    """(x * a) * c -> x * (a * c);  (x + b) + d -> x + (b + d);  (x + b) * c -> x * c + (b * c).

    Constants a .. d; the result is one Mul, then one Add. A Mul by positive powers of two stays behind the Add:
    move_scales carries it on, exactly.
    """
    editor = Editor(model)
    for node in list(editor.nodes()):
        pending = [node]
        while pending:  # linear: a merge takes a node away, and an Add that passes a Mul meets the next affine
            pending.extend(_merge(editor, pending.pop()))
    return editor.finish()


def _merge(editor: Editor, first: ir.Node | None) -> list[ir.Node | None]:
    """Merge `first` into the affine behind it; what may be merged next."""
    if first is None or first.graph is None or not is_op(first, "Mul", "Add"):
        return []
    known = constant_operand(first)
    second = sole_user(first.outputs[0])
    if known is None or not is_op(second, "Mul", "Add") or constant_operand(second) is None:
        _explain_fork(editor, first, known)
        return []
    (x, a), (_, c) = known, constant_operand(second)
    pair = (first.op_type, second.op_type)
    if pair == ("Mul", "Add") or (pair == ("Add", "Mul") and is_exact_factor(c) and (c > 0).all()):
        return []
    if second.graph is not first.graph:
        editor.declined(first, f"`{label(second)}` is in a subgraph")
        return []
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        combined = (a + c if pair == ("Add", "Add") else a * c).astype(np.float32)
    if not np.isfinite(combined).all() or (pair == ("Mul", "Mul") and ((combined == 0) & (a * np.sign(c) != 0)).any()):
        editor.declined(first, f"its constant and that of `{label(second)}` over- or underflow together")
        return []
    if pair == ("Add", "Mul"):
        shape = None if x.shape is None else _broadcast(x, c)
        x = editor.node(
            "Mul", [x, _operand(second)], name=label(second), output=f"{label(second)}_product", like=x, shape=shape,
            before=second,
        )  # fmt: skip
    constant = editor.constant(f"{label(second)}_operand", combined)
    last = first if pair == ("Add", "Mul") else second  # the operator that stands last keeps its name
    merged = editor.node(last.op_type, [x, constant], name=label(last), like=second.outputs[0], after=second)
    editor.take_over(second.outputs[0], merged)
    exact = pair == ("Mul", "Mul") and (is_exact_factor(a) or is_exact_factor(c))
    editor.changed(f"{first.op_type} `{label(first)}` merged with {second.op_type} `{label(second)}`"
                   f" ({'exact' if exact else 'rounds once'})")  # fmt: skip
    editor.drop(second)
    before = x.producer()
    return [merged.producer(), before, before.inputs[0].producer() if before is not None and before.inputs else None]


def _explain_fork(editor: Editor, first: ir.Node, known) -> None:
    affine = [u for u in first.outputs[0].consumers() if is_op(u, "Mul", "Add") and constant_operand(u) is not None]
    pairs = [u for u in affine if first.op_type == u.op_type or (first.op_type == "Add" and u.op_type == "Mul")]
    if known is not None and pairs and sole_user(first.outputs[0]) is None:
        editor.declined(first, f"its result forks or leaves the graph; only `{label(pairs[0])}` would take it along")


def _operand(node: ir.Node) -> ir.Value:
    """The constant operand of an affine node."""
    x, _ = constant_operand(node)
    return node.inputs[1] if node.inputs[0] is x else node.inputs[0]


def _broadcast(x: ir.Value, c: np.ndarray) -> list:
    """Shape of x * c; a dimension of `c` other than 1 wins over one of 1."""
    rank = max(len(x.shape), c.ndim)
    left = [1] * (rank - len(x.shape)) + list(x.shape)
    right = [1] * (rank - c.ndim) + list(c.shape)
    return [b if b != 1 else a for a, b in zip(left, right, strict=True)]
