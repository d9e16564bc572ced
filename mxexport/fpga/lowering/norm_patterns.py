"""LayerNorm and RMSNorm over channels in a QONNX graph: as one node, as one between two Transposes, and taken apart;
and vectors that are made as long as one (F.normalize)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport.fpga.unit import Refused
from mxexport.model.editing import sole_user
from mxexport.model.rewriting import attribute, constant, is_op, reduced_axes

FIRST = (
    "LayerNormalization",
    "RMSNormalization",
    "Pow",
    "ReduceMean",
    "ReduceL2",
    "Transpose",
    "InstanceNormalization",
)
"""Operators of the first node of one."""


@dataclass(frozen=True)
class Normalization:
    """`result` = (x - mean) / sqrt(variance + epsilon) * gain + offset over `axis`; not `center`: the mean counts as
    0. `gain` and `offset` have one value, or one for each channel, with `behind` axes of length 1 after it. `inner`:
    the nodes behind the first that compute it."""

    x: ir.Value
    center: bool
    epsilon: float
    gain: np.ndarray
    offset: np.ndarray
    result: ir.Value
    inner: tuple[ir.Node, ...] = ()
    behind: int = 0
    axis: int = 1


def read(node: ir.Node) -> Normalization | None:
    """The one that begins with `node`; None where none does. Raises Refused for one that no unit computes."""
    if node.op_type in ("LayerNormalization", "RMSNormalization"):
        return _whole(node)
    if node.op_type == "InstanceNormalization":
        return _of_frames(node)
    if node.op_type == "ReduceL2":
        return _of_length_one(node)
    if node.op_type == "Pow":
        return _apart(node.inputs[0], node.inputs[0], center=False)
    if node.op_type == "Transpose":
        return _between_transposes(node)
    if node.op_type == "ReduceMean" and _mean_axis(node) is not None:
        x, mean = node.inputs[0], node.outputs[0]
        centered = sole_user(mean)
        if is_op(centered, "Sub") and centered.inputs[0] is x and centered.inputs[1] is mean:
            return _apart(x, centered.outputs[0], center=True, before=(node, centered))
    return None


_SHORTEST = 1e-6
"""No vector that a network computes with is shorter."""


def _of_length_one(node: ir.Node) -> Normalization | None:
    """x / max(|x|, epsilon), or x / (|x| + epsilon): an RMSNorm whose gain is 1 / sqrt(channels)."""
    x, axes, length = node.inputs[0], reduced_axes(node) or [], node.outputs[0]
    if x.shape is None or len(axes) != 1 or not attribute(node, "keepdims", 1):
        return None
    axis, inner = axes[0] % len(x.shape), []
    while is_op(user := sole_user(length), "Expand", "Clip", "Add", "Max") and _is_small(user, length):
        inner.append(user)
        length = user.outputs[0]
    divides = is_op(user, "Div") and user.inputs[0] is x and user.inputs[1] is length
    if not divides or not isinstance(x.shape[axis], int):
        return None
    gain, behind = np.array(x.shape[axis] ** -0.5), len(x.shape) - 1 - axis
    return Normalization(x, False, 0.0, gain, np.array(0.0), user.outputs[0], (*inner, user), behind, axis)


def _is_small(node: ir.Node, value: ir.Value) -> bool:
    """Whether what a node adds, or keeps a value above, is too small to matter; an Expand repeats."""
    others = [constant(v) for v in node.inputs if v is not None and v is not value]
    return is_op(node, "Expand") or all(o is not None and 0 <= float(np.max(o)) <= _SHORTEST for o in others)


def _whole(node: ir.Node) -> Normalization:
    x, axis = node.inputs[0], attribute(node, "axis", -1)
    rank = None if x.shape is None else len(x.shape)
    if rank is None or rank < 2 or axis % rank != rank - 1:
        expected = "expected the last of (batch, features), of tokens, or of images between two Transposes"
        raise Refused(f"it normalizes from axis {axis} on, of {rank}; {expected}")
    return replace(_numbers(node), axis=rank - 1)


def _of_frames(node: ir.Node) -> Normalization:
    """All values of a frame together, as [batch, 1, values]: GroupNorm of one group."""
    gain, offset = (constant(v) for v in node.inputs[1:3])
    if gain is None or offset is None or not (np.isfinite(gain).all() and np.isfinite(offset).all()):
        raise Refused("its scale or bias is no finite constant")
    shape = node.inputs[0].shape
    if gain.size != 1 or shape is None or len(shape) != 3:
        found = f"it normalizes {gain.size} groups, each over its channels and places"
        raise Refused(f"{found}; expected one (GroupNorm of one group), batch norms, or norms over channels")
    return Normalization(node.inputs[0], True, attribute(node, "epsilon", 1e-5), gain, offset, node.outputs[0], axis=2)


def _numbers(node: ir.Node) -> Normalization:
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise Refused("its mean or inverse deviation is read; expected the normalized values alone")
    given = [constant(v) for v in node.inputs[1:] if v is not None]
    if any(v is None or not np.isfinite(v).all() for v in given):
        raise Refused("its scale or bias is no finite constant")
    gain, offset = (*given, np.array(0.0))[:2]
    center = node.op_type == "LayerNormalization"
    return Normalization(node.inputs[0], center, attribute(node, "epsilon", 1e-5), gain, offset, node.outputs[0])


def _between_transposes(node: ir.Node) -> Normalization | None:
    """Channels of images moved behind, normalized, and moved back."""
    perm = list(attribute(node, "perm", []))
    rank, inner = len(perm), sole_user(node.outputs[0])
    if perm != [0, *range(2, rank), 1] or not is_op(inner, "LayerNormalization", "RMSNormalization"):
        return None
    back = sole_user(inner.outputs[0])
    wanted = [0, rank - 1, *range(1, rank - 1)]
    if attribute(inner, "axis", -1) % rank != rank - 1 or not is_op(back, "Transpose"):
        return None
    if list(attribute(back, "perm", [])) != wanted:
        return None
    return replace(_numbers(inner), x=node.inputs[0], result=back.outputs[0], inner=(inner, back))


def _apart(x: ir.Value, d: ir.Value, center: bool, before: tuple[ir.Node, ...] = ()) -> Normalization | None:
    """d / sqrt(mean(d**2) + epsilon), a gain and an offset: `d` is x, or what is left of it without its mean."""
    square = next((user for user, _ in d.uses() if is_op(user, "Pow") and _is(user.inputs[1], 2)), None)
    mean = None if square is None else sole_user(square.outputs[0])
    axis = _mean_axis(mean) if is_op(mean, "ReduceMean") else None
    if axis is None or any(_mean_axis(n) != axis for n in before[:-1]):
        return None
    added = sole_user(mean.outputs[0])
    epsilon = _other(added, mean.outputs[0]) if is_op(added, "Add") else None
    root = sole_user(added.outputs[0]) if epsilon is not None and epsilon.size == 1 else None
    last = sole_user(root.outputs[0]) if is_op(root, "Sqrt") else None
    inner = [*before[1:], square, mean, added, root]
    if is_op(last, "Reciprocal"):
        inner.append(last)
        last = sole_user(last.outputs[0])
        divides = is_op(last, "Mul") and any(v is d for v in last.inputs)
    else:
        divides = is_op(last, "Div") and last.inputs[0] is d
    if not divides or (center and {user for user, _ in d.uses()} != {square, last}):
        return None
    inner.append(last)
    gain, out = _constant_behind(last.outputs[0], "Mul", inner, 1.0)
    offset, out = _constant_behind(out, "Add", inner, 0.0)
    behind = 0 if x.shape is None else len(x.shape) - 1 - axis
    return Normalization(x, center, float(epsilon.reshape(())), gain, offset, out, tuple(inner), behind, axis)


def _constant_behind(value: ir.Value, op: str, inner: list[ir.Node], neutral: float) -> tuple[np.ndarray, ir.Value]:
    """The constant that a sole reader multiplies or adds, and what comes out; where there is none, as it is."""
    user = sole_user(value)
    found = _other(user, value) if is_op(user, op) else None
    if found is None or not np.isfinite(found).all():
        return np.array(neutral), value
    inner.append(user)
    return found, user.outputs[0]


def _other(node: ir.Node, value: ir.Value) -> np.ndarray | None:
    """The constant beside `value`."""
    (other,) = [v for v in node.inputs if v is not value] or [None]
    return None if other is None else constant(other)


def _is(value: ir.Value, number: float) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and float(array.reshape(())) == number


def _mean_axis(node: ir.Node) -> int | None:
    """The one axis that a ReduceMean keeps with one value: the channels of images, or the last; None of others."""
    axes, x = reduced_axes(node) or [], node.inputs[0]
    if attribute(node, "keepdims", 1) != 1 or len(axes) != 1:
        return None
    if x.shape is None:
        return 1 if axes[0] == 1 else None
    axis = axes[0] % len(x.shape)
    return axis if axis in (1, len(x.shape) - 1) else None
