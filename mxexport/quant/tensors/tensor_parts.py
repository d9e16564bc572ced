"""Which ways to take quant tensors apart and put them together keep the groups; rules as in `tensor_ops`."""

from __future__ import annotations

import torch
from torch import Tensor

from mxexport.quant.tensors.tensor import INNER, GroupwiseQuantTensor
from mxexport.quant.tensors.tensor_ops import aten, has_dims, keeps_groups, plain, rebuild, unsqueeze


@keeps_groups(aten.slice.Tensor)
def _slice(q, dim=0, start=None, end=None, step=1):
    if not has_dims(q, dim):
        return NotImplemented
    dim %= q.ndim
    if dim != q.axis:
        stored = q.group_layout.stored_dim(dim)
        return rebuild(q, lambda x: torch.ops.aten.slice.Tensor(x, stored, start, end, step), q.axis, q.shape[q.axis])
    first, last, _ = slice(start, end).indices(q.shape[dim])
    size = q.group_size
    if step != 1 or last <= first or first % size or (last % size and last != q.shape[dim]):
        return NotImplemented
    return rebuild(q, lambda x: x.narrow(dim, first // size, -(-last // size) - first // size), dim, last - first)


@keeps_groups(aten.select.int)
def _select(q, dim, index):
    if not has_dims(q, dim):
        return NotImplemented
    dim %= q.ndim
    if dim == q.axis:
        return NotImplemented
    stored = q.group_layout.stored_dim(dim)
    return rebuild(q, lambda x: x.select(stored, index), q.axis - (dim < q.axis), q.shape[q.axis])


@keeps_groups(aten.index_select.default)
def _index_select(q, dim, index):
    if not isinstance(q, GroupwiseQuantTensor) or isinstance(index, GroupwiseQuantTensor):
        return NotImplemented
    if not has_dims(q, dim) or dim % q.ndim == q.axis:
        return NotImplemented
    stored = q.group_layout.stored_dim(dim % q.ndim)
    return rebuild(q, lambda x: x.index_select(stored, index), q.axis, q.shape[q.axis])


@keeps_groups(aten.index.Tensor)
def _index(q, indices):
    """Index tensors and masks on dimensions other than the axis. Where they stand side by side, theirs is the place of
    the new dimensions; else these come first."""
    if not isinstance(q, GroupwiseQuantTensor) or any(isinstance(i, GroupwiseQuantTensor) for i in indices):
        return NotImplemented
    numbers: list[Tensor | None] = []
    for index in indices:
        masks = index is not None and index.dtype in (torch.bool, torch.uint8)
        numbers += index.nonzero().unbind(1) if masks else [index]  # once, the same for values and scales
    numbers += [None] * (q.ndim - len(numbers))
    at = [d for d, index in enumerate(numbers) if index is not None]
    if len(numbers) > q.ndim or not at or q.axis in at or not _masks_fit(q, indices):
        return NotImplemented
    new = torch.broadcast_shapes(*(numbers[d].shape for d in at))
    first = at[0] if at == list(range(at[0], at[-1] + 1)) else 0
    before = q.axis - sum(d < q.axis for d in at)  # dimensions that stay, in front of the axis
    stored = [*numbers[: q.axis], None, *numbers[q.axis :]]
    axis = before if before < first else before + len(new)
    return rebuild(q, lambda x: torch.ops.aten.index.Tensor(x, stored), axis, q.shape[q.axis])


def _masks_fit(q, indices) -> bool:
    dim = 0
    for index in indices:
        wide = index.ndim if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        if index is not None and index.dtype in (torch.bool, torch.uint8) and index.shape != q.shape[dim : dim + wide]:
            return False
        dim += wide
    return True


@keeps_groups(aten.embedding.default)
def _embedding(q, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    if not isinstance(q, GroupwiseQuantTensor) or isinstance(indices, GroupwiseQuantTensor):
        return NotImplemented
    if q.ndim != 2 or q.axis == 0:
        return NotImplemented

    def rows(x):
        return x.index_select(0, indices.reshape(-1)).unflatten(0, indices.shape)  # refuses negative ones, too

    if indices.ndim == 0:
        return _select(q, 0, int(indices)) if 0 <= int(indices) < q.shape[0] else NotImplemented
    return rebuild(q, rows, indices.ndim, q.shape[1])


@keeps_groups(aten.split.Tensor)
def _split(q, split_size, dim=0):
    if not has_dims(q, dim) or split_size < 1:
        return NotImplemented
    length = q.shape[dim]
    return _split_with_sizes(q, [min(split_size, length - at) for at in range(0, length, split_size)] or [0], dim)


@keeps_groups(aten.split_with_sizes.default)
def _split_with_sizes(q, split_sizes, dim=0):
    if not has_dims(q, dim) or min(split_sizes, default=-1) < 0 or sum(split_sizes) != q.shape[dim]:
        return NotImplemented
    bounds = [sum(split_sizes[:i]) for i in range(len(split_sizes) + 1)]
    pieces = [_slice(q, dim, a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    return NotImplemented if any(piece is NotImplemented for piece in pieces) else pieces


@keeps_groups(aten.unbind.int)
def _unbind(q, dim=0):
    if not has_dims(q, dim):
        return NotImplemented
    pieces = [_select(q, dim, i) for i in range(q.shape[dim])]
    return NotImplemented if any(piece is NotImplemented for piece in pieces) else pieces


@keeps_groups(aten.cat.default)
def _cat(tensors, dim=0):
    first = tensors[0]
    if not _joinable(tensors) or not has_dims(first, dim):
        return NotImplemented
    dim %= first.ndim
    if dim == first.axis:
        if not all(q.group_layout.whole for q in tensors[:-1]):
            return NotImplemented
        stored = dim
    else:
        stored = first.group_layout.stored_dim(dim)

    def joined_part(name: str):
        return None if getattr(first, name) is None else torch.cat([getattr(q, name) for q in tensors], stored)

    parts = [joined_part(name) for name in INNER[:3]]
    length = sum(q.shape[dim] for q in tensors) if dim == first.axis else first.shape[first.axis]
    return type(first)(*parts, first._format_name, first.axis, length)


@keeps_groups(aten.stack.default)
def _stack(tensors, dim=0):
    if not _joinable(tensors) or not -tensors[0].ndim - 1 <= dim <= tensors[0].ndim:
        return NotImplemented
    return _cat([unsqueeze(q, dim) for q in tensors], dim)


def _joinable(tensors) -> bool:
    """Quant tensors of one format, axis and dtype; nvfp4 tensors each have a tensor scale of their own."""
    if not all(isinstance(q, GroupwiseQuantTensor) for q in tensors):
        return False
    kinds = {(q._format_name, q.axis, q.ndim, q.dtype, q.tensor_scale is None) for q in tensors}
    return len(kinds) == 1 and tensors[0].tensor_scale is None


@keeps_groups(aten.equal.default)
def _equal(a, b):
    return torch.equal(plain(a), plain(b))
