from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from mxexport.model import rewriting as rw
from mxexport.model.editing import bypass, why_not_bypass
from mxexport.model.outcome import Outcome


def remove_identities(model: ir.Model) -> Outcome:
    """op(x) -> x  when op is known to leave x as it is: see `_RULES`; Where(c, x, y) -> x or y  when the constant c
    chooses it everywhere.

    Additions of 0 stay: they turn -0 into +0.
    """
    outcome = Outcome()
    for graph, node in rw.nodes(model):
        if node.domain not in rw.STANDARD_DOMAINS or node.op_type not in _RULES or not node.inputs:
            continue
        source = _kept(node)
        keeps, reason = _RULES[node.op_type](node)
        if source is None or not keeps:
            if reason:
                outcome.declined.append((rw.label(node), reason))
            continue
        reason = _extra_outputs_used(node) or why_not_bypass(node.outputs[0], source)
        if reason:
            outcome.declined.append((rw.label(node), reason))
            continue
        _keep_better_shape(source, node.outputs[0])
        bypass(node.outputs[0], source)
        graph.remove(node, safe=True)
        outcome.changed.append(f"{rw.label(node)}: {node.op_type} that changes nothing")
    return outcome


def _kept(node: ir.Node) -> ir.Value | None:
    """The input that the node leaves as it is, if it is an identity."""
    if node.op_type != "Where":
        return node.inputs[0]
    chosen = rw.constant(node.inputs[0])
    return node.inputs[1 if chosen is not None and chosen.size and chosen.all() else 2]


Verdict = tuple[bool, str | None]
"""Whether the node is an identity, and why it is not where that may surprise."""
_NO: Verdict = (False, None)


def _always(node: ir.Node) -> Verdict:
    return True, None


def _dropout(node: ir.Node) -> Verdict:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None:
        return True, None
    known = rw.constant(training)
    if known is None or bool(known):
        return False, "its training_mode is not known to be false"
    return True, None


def _cast(node: ir.Node) -> Verdict:
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
    return dtype is not None and dtype == rw.attribute(node, "to"), None


def _transpose(node: ir.Node) -> Verdict:
    perm = rw.attribute(node, "perm")
    return perm is not None and list(perm) == list(range(len(perm))), None


def _same_shape(node: ir.Node) -> Verdict:
    """Reshape, Expand, Flatten, Tile, Where: an equal shape with at most one dimension open by the same name."""
    x, y = _kept(node), node.outputs[0]
    if x is None or x.shape is None or y.shape is None or len(x.shape) != len(y.shape):
        return _NO
    open_dims = 0
    for a, b in zip(x.shape, y.shape, strict=True):
        if isinstance(a, int) and isinstance(b, int):
            if a != b:
                return _NO
        elif str(a) == str(b) and str(a) != "None":
            open_dims += 1
        else:
            return _NO
    return open_dims <= 1 or node.op_type in ("Flatten", "Where"), None


def _pad(node: ir.Node) -> Verdict:
    pads = rw.attribute(node, "pads")
    if pads is None and len(node.inputs) > 1:
        pads = rw.constant(node.inputs[1])
    return pads is not None and not np.any(pads), None


def _one_input(node: ir.Node) -> Verdict:
    return len(node.inputs) == 1, None


def _slice(node: ir.Node) -> Verdict:
    """Slice from 0 to the end in steps of 1."""
    parts = [rw.constant(v) if v is not None else None for v in node.inputs[1:]]
    if len(parts) < 2 or parts[0] is None or parts[1] is None:
        return _NO
    if len(node.inputs) > 4 and (parts[3] is None or np.any(parts[3] != 1)):
        return _NO
    known, ends = rw.static_shape(node.inputs[0]), parts[1]
    axes = parts[2] if len(parts) > 2 and parts[2] is not None else np.arange(ends.size)
    if np.any(parts[0] != 0) or (len(node.inputs) > 3 and node.inputs[3] is not None and parts[2] is None):
        return _NO
    lengths = np.array([known[a] for a in axes]) if known is not None else np.full(ends.shape, 2**31 - 1)
    return bool(np.all(ends >= lengths)), None


def _times_one(node: ir.Node) -> Verdict:
    """x * 1 and x / 1 are exact, sign of zero and NaN included, where the 1 does not widen x."""
    one = rw.constant(node.inputs[1])
    if one is None or one.size == 0 or not np.issubdtype(one.dtype, np.floating) or not np.all(one == 1):
        return _NO
    width = rw.rank(node.inputs[0])
    fits = one.size == 1 and (one.ndim == 0 or (width is not None and one.ndim <= width))
    if not fits:
        x, y = rw.static_shape(node.inputs[0]), rw.static_shape(node.outputs[0])
        fits = x is not None and x == y
    return fits, None if fits else "it multiplies by 1 but may widen its input"


def _where(node: ir.Node) -> Verdict:
    """A mask that hides nothing, or everything."""
    chosen = rw.constant(node.inputs[0])
    if chosen is None or not chosen.size or chosen.any() != chosen.all():
        return _NO
    return _same_shape(node)


_RULES: dict[str, Callable[[ir.Node], Verdict]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _same_shape,
    "Expand": _same_shape,
    "Flatten": _same_shape,
    "Tile": _same_shape,
    "Where": _where,
    "Pad": _pad,
    "Concat": _one_input,
    "Sum": _one_input,
    "Max": _one_input,
    "Min": _one_input,
    "Slice": _slice,
    "Mul": _times_one,
    "Div": _times_one,
}


def _extra_outputs_used(node: ir.Node) -> str | None:
    used = [value.name for value in node.outputs[1:] if value.uses() or value.is_graph_output()]
    return f"its output {used[0]!r} is used, too" if used else None


def _keep_better_shape(source: ir.Value, output: ir.Value) -> None:
    if source.shape is None:
        source.shape = output.shape
    if source.type is None:
        source.type = output.type
