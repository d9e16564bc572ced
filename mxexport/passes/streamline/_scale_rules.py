"""When a constant factor may come out of an operator's input and stand behind it: one rule per operator.

A rule takes the node and its fronts (operand index -> factor, of the rank of the operand) and gives a `Move`, or the
reason why not. It changes nothing. Factors are float32. "Exact" is short of over- and underflow of float32; a factor
that is not a power of two comes out only where no value is rounded after it (maximum, layout).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from mxexport.model.editing import aligned, is_exact_factor, runs_along
from mxexport.model.rewriting import attribute, constant, dims


@dataclass(frozen=True)
class Move:
    """`factor` stands behind the node (None: it went into a constant); `constants`: operand index -> new array."""

    factor: np.ndarray | None
    constants: dict[int, np.ndarray] = field(default_factory=dict)


Fronts = dict[int, np.ndarray]
Rule = Callable[[ir.Node, Fronts], "Move | str"]


def counted(c: np.ndarray, axis: int) -> str:
    """How many pieces of equal values `c` has along `axis`, in words."""
    runs = runs_along(c, axis)
    return f"{runs} channels" if runs == c.shape[axis] else f"{runs} groups"


def _single(fronts: Fronts) -> tuple[int, np.ndarray]:
    return next(iter(fronts.items()))


def _inexact(c: np.ndarray, what: str) -> str | None:
    return None if is_exact_factor(c) else f"it is not a power of two, so {what} would round differently"


def _inexact_sum(c: np.ndarray, what: str = "sums") -> str | None:
    """Terms that cancel give +0 whatever their scale; a negative factor behind them would make it -0."""
    negative = None if (c > 0).all() else f"it is negative, so {what} that cancel would be -0 and not +0"
    return _inexact(c, what) or negative


def _not_positive(c: np.ndarray) -> str | None:
    fits = ((c > 0) & np.isfinite(c)).all()
    return None if fits else "it has values that are not positive, which turns the order around"


def _rank(value: ir.Value) -> int:
    return len(value.shape)


def _divided(known: np.ndarray, c: np.ndarray) -> np.ndarray | None:
    """known / c where that is exact, else None (c holds powers of two)."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        quotient = (known / c).astype(np.float32)
        back = quotient * c
    return quotient if np.array_equal(back, np.broadcast_to(known, back.shape), equal_nan=True) else None


# --- sums of products -----------------------------------------------------------------------------------------


def _matmul(node: ir.Node, fronts: Fronts) -> Move | str:
    index, c = _single(fronts)
    ranks = [_rank(v) if v.shape is not None else 0 for v in node.inputs]
    if min(ranks) < 2:
        return "an operand is not known to be a matrix"
    axis = -1 if index == 0 else -2
    if runs_along(c, axis) > 1:
        return f"it varies along K ({counted(c, axis)})"
    factor = aligned(np.take(c, [0], axis=axis), max(ranks))
    return _inexact_sum(c) or Move(factor)


def _gemm(node: ir.Node, fronts: Fronts) -> Move | str:
    index, c = _single(fronts)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return "it holds its bias; run split_gemm first"
    if c.size > 1:
        return "it may transpose its operands; run split_gemm first"
    return _inexact_sum(c) or Move(c.reshape(1, 1))


def _conv(node: ir.Node, fronts: Fronts) -> Move | str:
    index, c = _single(fronts)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return "it holds its bias; run extract_conv_bias first"
    weight = dims(node.inputs[1])
    if weight is None or None in weight:
        return "the shape of its weight is not known"
    channels = (1, -1, *[1] * (len(weight) - 2))
    if index == 1:
        if any(n > 1 for n in c.shape[1:]):
            return f"it varies along the input channels it sums over ({counted(c, 1)})"
        return _inexact_sum(c) or Move(c.reshape(channels))
    if any(n > 1 for i, n in enumerate(c.shape) if i > 1):
        return "it varies between pixels"
    factor = c
    if c.shape[1] > 1:
        group = attribute(node, "group", 1)
        parts = c.reshape(c.shape[0], group, -1)
        if (parts != parts[:, :, :1]).any():
            return f"it varies along the input channels it sums over ({counted(c, 1)})"
        factor = np.repeat(parts[:, :, 0], weight[0] // group, axis=1).reshape(c.shape[0], weight[0], *channels[2:])
    return _inexact_sum(c) or Move(factor)


# --- element by element ---------------------------------------------------------------------------------------


def _add(node: ir.Node, fronts: Fronts) -> Move | str:
    rank = max(c.ndim for c in fronts.values())
    if len(fronts) == 2:
        a, b = (aligned(c, max(rank, _rank(node.outputs[0]))) for c in fronts.values())
        if a.shape != b.shape or (a != b).any():
            return "its operands carry different scales"
        return _inexact_sum(a) or Move(a)
    index, c = _single(fronts)
    other = node.inputs[1 - index]
    known = constant(other)
    if known is None:
        return f"its other operand `{other.name}` carries no constant scale"
    reason = _inexact_sum(c)
    if reason:
        return reason
    quotient = _divided(known, c)
    if quotient is None:
        return "the constant it adds over- or underflows when divided by the scale"
    return Move(aligned(c, max(c.ndim, known.ndim)), {1 - index: quotient})


def _mul(node: ir.Node, fronts: Fronts) -> Move | str:
    index, c = _single(fronts)
    known = constant(node.inputs[1 - index])
    if known is None:
        return _inexact(c, "products") or Move(aligned(c, max(c.ndim, _rank(node.outputs[0]))))
    with np.errstate(over="ignore", under="ignore"):
        product = (known * c).astype(np.float32)
    exact, other = (c, known) if is_exact_factor(c) else (known, c)
    if not is_exact_factor(exact):
        return "neither factor is a power of two, so the product would round differently; see merge_affines"
    if not np.array_equal(product / exact, np.broadcast_to(other, product.shape)):
        return "the product of the two factors over- or underflows"
    return Move(None, {1 - index: product})


def _div(node: ir.Node, fronts: Fronts) -> Move | str:
    index, c = _single(fronts)
    if index == 1:
        return "it divides by the scaled value"
    return _inexact(c, "quotients") or Move(aligned(c, max(c.ndim, _rank(node.outputs[0]))))


def _relu(node: ir.Node, fronts: Fronts) -> Move | str:
    return _not_positive(fronts[0]) or Move(fronts[0])


def _leaky_relu(node: ir.Node, fronts: Fronts) -> Move | str:
    c = fronts[0]
    return _not_positive(c) or _inexact(c, "the slope's products") or Move(c)


def _clip(node: ir.Node, fronts: Fronts) -> Move | str:
    c = fronts.get(0)
    if c is None or c.size > 1:
        return "its bounds are single values and the scale is not"
    bounds = {i: constant(v) for i, v in enumerate(node.inputs) if i and v is not None}
    if any(b is None for b in bounds.values()):
        return "its bounds are not constant"
    reason = _not_positive(c) or _inexact(c, "its bounds")
    if reason:
        return reason
    divided = {i: _divided(b, c.reshape(())) for i, b in bounds.items()}
    if any(b is None for b in divided.values()):
        return "its bounds over- or underflow when divided by the scale"
    return Move(c, divided)


def _negate(node: ir.Node, fronts: Fronts) -> Move | str:
    return Move(fronts[0])


# --- pooling and reductions -----------------------------------------------------------------------------------


def _max_pool(node: ir.Node, fronts: Fronts) -> Move | str:
    return _not_positive(fronts[0]) or _pixels(fronts[0])


def _average_pool(node: ir.Node, fronts: Fronts) -> Move | str:
    return _inexact_sum(fronts[0], "averages") or _pixels(fronts[0])


def _pixels(c: np.ndarray) -> Move | str:
    return "it varies between pixels" if any(n > 1 for n in c.shape[2:]) else Move(c)


def _reduce(node: ir.Node, fronts: Fronts) -> Move | str:
    c = fronts.get(0)
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes")
    if c is None or (given is None and len(node.inputs) > 1 and node.inputs[1] is not None):
        return "its axes are not constant"
    axes = {int(a) % c.ndim for a in given} if given is not None and len(given) else set(range(c.ndim))
    if given is None and attribute(node, "noop_with_empty_axes", 0):
        axes = set()
    for axis in sorted(axes):
        if c.shape[axis] > 1:
            return f"it varies along axis {axis}, which is reduced ({counted(c, axis)})"
    reason = _not_positive(c) if node.op_type == "ReduceMax" else _inexact_sum(c)
    factor = c if attribute(node, "keepdims", 1) else np.squeeze(c, axis=tuple(axes))
    return reason or Move(factor)


# --- layout ---------------------------------------------------------------------------------------------------


def _concat(node: ir.Node, fronts: Fronts) -> Move | str:
    bare = [v.name for i, v in enumerate(node.inputs) if i not in fronts]
    if bare:
        return f"its operand `{bare[0]}` carries no constant scale"
    rank = _rank(node.inputs[0])
    axis = attribute(node, "axis") % rank
    parts = [fronts[i] for i in range(len(node.inputs))]
    if all(p.size == 1 for p in parts) and len({float(p.reshape(())) for p in parts}) == 1:
        return Move(parts[0])
    lengths = [dims(v)[axis] for v in node.inputs]
    if None in lengths:
        return f"the length of its operands on axis {axis} is not known"
    elsewhere = {p.shape[:axis] + p.shape[axis + 1 :] for p in parts}
    if len(elsewhere) > 1:
        return "its operands carry scales of different shapes"
    wide = [
        np.broadcast_to(p, p.shape[:axis] + (n,) + p.shape[axis + 1 :]) for p, n in zip(parts, lengths, strict=True)
    ]
    return Move(np.concatenate(wide, axis=axis))


def _transpose(node: ir.Node, fronts: Fronts) -> Move | str:
    c = fronts[0]
    return Move(c.transpose(attribute(node, "perm") or tuple(reversed(range(c.ndim)))))


def _reshape(node: ir.Node, fronts: Fronts) -> Move | str:
    """Reshape, Flatten, Squeeze, Unsqueeze: one value always; else one per element of all but the first dimension."""
    c = fronts.get(0)
    out = dims(node.outputs[0])
    if c is None or out is None:
        return "the shape it makes is not known"
    if c.size == 1:
        return Move(c.reshape((1,) * len(out)))
    source = dims(node.inputs[0])
    if c.shape[0] > 1 or None in source[1:] or None in out[1:] or np.prod(source[1:]) != np.prod(out[1:]):
        return "it varies along dimensions that are mixed with open ones"
    return Move(np.broadcast_to(c, (1, *source[1:])).reshape(1, *out[1:]))


def _pick(node: ir.Node, fronts: Fronts) -> Move | str:
    """Slice, Gather, DepthToSpace, Identity: whichever elements come out, they carry the one factor."""
    c, out = fronts.get(0), node.outputs[0].shape
    if c is None or c.size > 1 or out is None:
        return "the scale has more than one value"
    return Move(c.reshape((1,) * len(out)))


def _pad(node: ir.Node, fronts: Fronts) -> Move | str:
    filler = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.float32(0)
    if attribute(node, "mode", "constant") == "constant" and (filler is None or filler != 0):
        return "it pads with a value other than 0"
    if 0 in fronts and not (np.isfinite(fronts[0]) & (fronts[0] > 0)).all():
        return "it is not positive and would turn the zeros it pads with into -0 or NaN"
    return _pick(node, fronts)


RULES: dict[str, Rule] = {
    "MatMul": _matmul, "Gemm": _gemm, "Conv": _conv,
    "Add": _add, "Sub": _add, "Mul": _mul, "Div": _div,
    "Relu": _relu, "LeakyRelu": _leaky_relu, "Clip": _clip, "Neg": _negate,
    "MaxPool": _max_pool, "GlobalMaxPool": _max_pool, "AveragePool": _average_pool, "GlobalAveragePool": _average_pool,
    "ReduceMax": _reduce, "ReduceMean": _reduce, "ReduceSum": _reduce,
    "Concat": _concat, "Transpose": _transpose, "Pad": _pad,
    "Reshape": _reshape, "Flatten": _reshape, "Squeeze": _reshape, "Unsqueeze": _reshape,
    "Slice": _pick, "Gather": _pick, "DepthToSpace": _pick, "Identity": _pick,
}  # fmt: skip
JOINT = {"Add", "Sub", "Concat"}
"""Operators whose operands must carry the scale together; elsewhere one operand's scale moves at a time."""
