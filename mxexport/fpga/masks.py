"""Which keys a Softmax looks at: constants that graphs add to scores, or put in their place, to hide the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.model.editing import sole_user
from mxexport.model.rewriting import constant, is_op

_HIDDEN = -1e4
"""What is added to hide a key is -Inf or the lowest number of some type; no score is as far from others."""
_MOST = 4
"""Masks one behind the other."""


@dataclass(frozen=True, eq=False)
class Masked:
    """What a Softmax takes without its masks, and which keys take part: bool, of a shape that broadcasts to the
    scores; None: all do. `inner`: the nodes that hide the others."""

    scores: ir.Value
    mask: np.ndarray | None
    inner: tuple[ir.Node, ...]


def masked(g: ir.Graph) -> dict[ir.Node, Masked]:
    """Every Softmax whose scores are masked by constants, and by which."""
    found = {}
    for node in g:
        if is_op(node, "Softmax"):
            known = _at(node)
            if known.inner:
                found[node] = known
    return found


def _at(node: ir.Node) -> Masked:
    scores, mask, inner = node.inputs[0], None, []
    while len(inner) < _MOST and sole_user(scores) is not None:
        step = _step(scores.producer())
        if step is None:
            break
        inner.append(scores.producer())
        scores, more = step
        mask = more if mask is None else mask & more
    return Masked(scores, mask, tuple(inner))


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
