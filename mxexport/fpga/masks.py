"""What stands between scores and their Softmax: constants that are added, or put in the place of scores, to hide some
keys; and a factor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.model.editing import sole_user
from mxexport.model.rewriting import constant, is_op

_HIDDEN = -1e4
"""What is added to hide a key is -Inf or the lowest number of some type; no score is as far from others."""
_MOST = 8
"""Masks and factors one behind the other."""


@dataclass(frozen=True, eq=False)
class Masked:
    """What a Softmax takes without its masks and its factor `scale`, and which keys take part: bool, of a shape that
    broadcasts to the scores; None: all do. `inner`: the nodes that hide the others and multiply."""

    scores: ir.Value
    scale: float
    mask: np.ndarray | None
    inner: tuple[ir.Node, ...]


def masked(g: ir.Graph) -> dict[ir.Node, Masked]:
    """Every Softmax whose scores are scaled, or masked by constants, and by which."""
    found = {}
    for node in g:
        if is_op(node, "Softmax"):
            known = _at(node)
            if known.inner:
                found[node] = known
    return found


def _at(node: ir.Node) -> Masked:
    scores, scale, mask, inner = node.inputs[0], 1.0, None, []
    while len(inner) < _MOST and sole_user(scores) is not None:
        maker = scores.producer()
        step, factor = _step(maker), _factor(maker)
        if step is None and factor is None:
            break
        inner.append(maker)
        if factor is not None:
            scores, scale = factor[0], scale * factor[1]
        else:
            scores, more = step
            mask = more if mask is None else mask & more
    return Masked(scores, scale, mask, tuple(inner))


def _factor(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """What a node multiplies by one positive number, and that; None of others."""
    if not is_op(node, "Mul", "Div"):
        return None
    found = [constant(v) for v in node.inputs]
    which = 1 if node.op_type == "Div" or found[1] is not None else 0
    if found[which] is None or found[which].size != 1:
        return None
    number = float(found[which].reshape(-1)[0])
    number = 1 / number if node.op_type == "Div" and number else number
    return (node.inputs[1 - which], number) if 0 < number < np.inf else None


def _step(node: ir.Node | None) -> tuple[ir.Value, np.ndarray] | None:
    """What a node masks, and which entries it leaves; None where it is no mask."""
    if is_op(node, "Add"):
        found = [constant(v) for v in node.inputs]
        which = next((i for i, c in enumerate(found) if c is not None), None)
        if which is None:
            return None
        added = found[which]
        hidden = added <= _HIDDEN
        return (node.inputs[1 - which], ~hidden) if hidden.any() and not added[~hidden].any() else None
    if is_op(node, "Where"):
        chosen, *sides = (constant(v) for v in node.inputs)
        for side, other in ((0, 2), (1, 1)):
            value = sides[side]
            if chosen is not None and value is not None and value.size == 1 and value.reshape(-1)[0] <= _HIDDEN:
                return node.inputs[other], ~chosen.astype(bool) if side == 0 else chosen.astype(bool)
    return None
