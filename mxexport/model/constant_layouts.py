"""Standard operators that give a constant another shape or order and keep each of its values (numpy only)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from mxexport.errors import ShapeError


def laid_out(node: ir.Node, array: np.ndarray, given: np.ndarray | None) -> np.ndarray | None:
    """`array` as the first output of `node`; `given`: the constant second input (shape or axes), None where there is
    none.

    None for an operator that is not in `LAYOUTS`, or that says nothing of the shape.

    Raises:
        ShapeError: an order, shape or axes that do not fit the array, by node.
    """
    if node.op_type not in LAYOUTS:
        return None
    try:
        return LAYOUTS[node.op_type](node, array, given)
    except ValueError as error:  # numpy's AxisError is one, too
        raise ShapeError(f"node {node.name!r} ({node.op_type}): {error} of a tensor of shape {array.shape}") from None


def _reshape(node: ir.Node, array: np.ndarray, given: np.ndarray | None) -> np.ndarray | None:
    shape = _numbers(node, "shape", given)
    if shape is None:
        return None
    if not _attribute(node, "allowzero", 0):
        shape = [array.shape[i] if n == 0 and i < array.ndim else n for i, n in enumerate(shape)]
    return array.reshape(shape)


def _flatten(node: ir.Node, array: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    axis = _attribute(node, "axis", 1)
    if not -array.ndim <= axis <= array.ndim:
        raise ValueError(f"axis {axis}")
    axis = axis + array.ndim if axis < 0 else axis
    return array.reshape(int(np.prod(array.shape[:axis])), -1 if array.size else int(np.prod(array.shape[axis:])))


def _squeeze(node: ir.Node, array: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    axes = _numbers(node, "axes", given)
    return np.squeeze(array, None if axes is None else tuple(axes))


def _unsqueeze(node: ir.Node, array: np.ndarray, given: np.ndarray | None) -> np.ndarray | None:
    axes = _numbers(node, "axes", given)
    return None if axes is None else np.expand_dims(array, tuple(axes))


def _expand(node: ir.Node, array: np.ndarray, given: np.ndarray | None) -> np.ndarray | None:
    shape = _numbers(node, "shape", given)
    return None if shape is None else np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(shape))).copy()


def _transpose(node: ir.Node, array: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    order = _attribute(node, "perm", None)
    if order is not None and sorted(order) != list(range(array.ndim)):
        raise ValueError(f"perm {list(order)}")
    return np.ascontiguousarray(array.transpose(order))


def _numbers(node: ir.Node, name: str, given: np.ndarray | None) -> list[int] | None:
    """From the second input, as since opset 13 (Reshape: 5), or the attribute of earlier ones."""
    stated = _attribute(node, name, None)
    return [int(n) for n in given.reshape(-1)] if given is not None else None if stated is None else list(stated)


def _attribute(node: ir.Node, name: str, default):
    return node.attributes[name].value if name in node.attributes else default


LAYOUTS: dict[str, Callable[[ir.Node, np.ndarray, np.ndarray | None], np.ndarray | None]] = {
    "Identity": lambda node, array, given: array,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Transpose": _transpose,
}
