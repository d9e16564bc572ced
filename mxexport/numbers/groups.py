"""How a tensor axis is cut into groups: axis, group size, short last group, contracted shapes (numpy only).

K elements on an axis make n = ceil(K / group_size) groups; a short last group equals one padded with zeros.

    grouped      (..., K, ...) -> (..., n, G, ...)      value_, codes
    contracted   (..., K, ...) -> (..., n, ...)         scales of ONNX nodes (the ONNX blocked rule)
"""

from __future__ import annotations

import numpy as np

from mxexport.errors import ScaleShapeError, ShapeError


def normalize_axis(axis: int, rank: int, where: str = "tensor") -> int:
    """`axis` counted from the front. Raises ShapeError when it is outside the rank."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{where}: axis {axis} is outside a tensor of rank {rank} (expected {-rank}..{rank - 1})")
    return axis % rank


def group_count(length: int, group_size: int) -> int:
    """ceil(length / group_size). Raises ShapeError when the group size is not positive."""
    if group_size < 1:
        raise ShapeError(f"group_size is {group_size}; expected at least 1")
    return -(-length // group_size)


def contracted_shape(shape: tuple, axis: int, group_size: int) -> tuple:
    """Shape of the scale of a tensor of `shape`: the axis holds one entry per group.

    Open lengths (a name or None, as in ONNX) stay as they are; on the axis they give None.
    """
    axis = normalize_axis(axis, len(shape))
    length = shape[axis]
    count = group_count(1 if is_open(length) else length, group_size)
    return (*shape[:axis], None if is_open(length) else count, *shape[axis + 1 :])


def is_open(length) -> bool:
    """True for a length that is not known yet."""
    return length is None or isinstance(length, str)


def fits(found: tuple, expected: tuple) -> bool:
    """Whether two shapes may be the same; open lengths fit any other."""
    return len(found) == len(expected) and all(
        is_open(a) or is_open(b) or a == b for a, b in zip(found, expected, strict=True)
    )


def grouped_shape(shape: tuple[int, ...], axis: int, group_size: int) -> tuple[int, ...]:
    """(..., n, G, ...) for a tensor of `shape`."""
    axis = normalize_axis(axis, len(shape))
    return (*shape[:axis], group_count(shape[axis], group_size), group_size, *shape[axis + 1 :])


def to_groups(x: np.ndarray, axis: int, group_size: int) -> np.ndarray:
    """(..., K, ...) -> (..., n, G, ...), the last group padded with zeros."""
    axis = normalize_axis(axis, x.ndim)
    padding = group_count(x.shape[axis], group_size) * group_size - x.shape[axis]
    if padding:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, padding)
        x = np.pad(x, widths)
    return x.reshape(*x.shape[:axis], -1 if x.size else x.shape[axis] // group_size, group_size, *x.shape[axis + 1 :])


def from_groups(grouped: np.ndarray, axis: int, length: int) -> np.ndarray:
    """(..., n, G, ...) -> (..., K, ...) with K = `length`; `axis` counts in the ungrouped tensor."""
    axis = normalize_axis(axis, grouped.ndim - 1)
    shape = grouped.shape
    flat = grouped.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
    return np.take(flat, np.arange(length), axis=axis) if flat.shape[axis] != length else flat


def expand(contracted: np.ndarray, axis: int, group_size: int, length: int) -> np.ndarray:
    """One entry per group -> one per element, cut to `length`."""
    axis = normalize_axis(axis, contracted.ndim)
    return np.take(contracted, np.arange(length) // group_size, axis=axis)


def check_scale_shape(
    where: str, scale_shape: tuple, x_shape: tuple, axis: int, group_size: int, what: str = "scale"
) -> None:
    """Raise ScaleShapeError unless `scale_shape` is the contracted shape of `x_shape`; open lengths fit."""
    axis = normalize_axis(axis, len(x_shape), where)
    expected = contracted_shape(tuple(x_shape), axis, group_size)
    if fits(tuple(scale_shape), expected):
        return
    hint = ""
    if tuple(scale_shape) == tuple(x_shape):
        hint = " It looks expanded to one per element: keep one entry per group instead."
    raise ScaleShapeError(
        f"{where}: {what} has shape {tuple(scale_shape)}, expected {expected}: x is {tuple(x_shape)} and "
        f"group_size={group_size} makes {expected[axis]} groups on axis {axis}.{hint}"
    )
