"""Which torch operations keep the groups of a quant tensor, one function each; all others see plain values.

A rule gets the operation's own arguments and returns the result, or NotImplemented where these arguments do not keep
the groups. Rules see no gradients: autograd works above them with torch's own formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from math import frexp, isfinite, prod

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from mxexport.errors import UnsupportedError
from mxexport.quant.layout import resolve_shape
from mxexport.quant.tensor import INNER, GroupwiseQuantTensor, joined

aten = torch.ops.aten
_RULES: dict[object, Callable] = {}


def keeps_groups(*operations):
    def register(rule):
        _RULES.update(dict.fromkeys(operations, rule))
        return rule

    return register


def dispatch(func, args: tuple, kwargs: dict):
    """The result of `func`: by its rule, or on dequantized values."""
    rule = _RULES.get(func)
    result = NotImplemented if rule is None else rule(*args, **kwargs)
    if result is not NotImplemented:
        return result
    _refuse_writing(func, args, kwargs)
    if torch.is_inference_mode_enabled():  # no autograd then, which would have taken `func` to pieces
        result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    plain_args, plain_kwargs = tree_map(_plain, (args, kwargs))
    return _apart(func, func(*plain_args, **plain_kwargs))


def _apart(func, result):
    """Copies of results that are views, so that writing to them does not change the quant tensor."""
    views = [r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns]
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, result) if any(views) else result


def _plain(x):
    return joined(x) if isinstance(x, GroupwiseQuantTensor) else x


def _refuse_writing(func, args: tuple, kwargs: dict) -> None:
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        written = kwargs.get(argument.name, args[i] if i < len(args) else None)
        if any(isinstance(x, GroupwiseQuantTensor) for x in tree_leaves(written)):
            raise UnsupportedError(
                f"{func}: quant tensors cannot be changed in place; compute on .value and quantize the result"
            )


def _rebuild(q: GroupwiseQuantTensor, part: Callable[[Tensor], Tensor], axis: int, length: int, values=None):
    """Like `q` with `part` done to every contracted tensor (`values`, if given, to the values instead)."""
    zero = None if q.zero_point_ is None else part(q.zero_point_)
    return type(q)((values or part)(q._grouped), part(q.scale_), zero, q._format_name, axis, length, q.tensor_scale)


def _same_groups(q: GroupwiseQuantTensor, grouped: Tensor, zero_point=None, scale=None, tensor_scale=None):
    zero = q.zero_point_ if zero_point is None else zero_point
    scale = q.scale_ if scale is None else scale
    tensor_scale = q.tensor_scale if tensor_scale is None else tensor_scale
    return type(q)(grouped, scale, zero, q._format_name, q.axis, q.shape[q.axis], tensor_scale)


def _has(q, *dims: int) -> bool:
    """Whether `q` has all these dimensions; where not, torch says so when it is given the plain values."""
    return all(-q.ndim <= d < q.ndim for d in dims)


# --- copies and moves -------------------------------------------------------------------------------------------


@keeps_groups(aten.detach.default, aten.alias.default, aten.lift_fresh.default)
def _alias(q):
    return _rebuild(q, torch.ops.aten.alias.default, q.axis, q.shape[q.axis])


@keeps_groups(aten.clone.default, aten.contiguous.default)
def _clone(q, *, memory_format=None):
    copied = _rebuild(q, torch.clone, q.axis, q.shape[q.axis])
    copied.tensor_scale = None if q.tensor_scale is None else q.tensor_scale.clone()
    return copied


@keeps_groups(aten._to_copy.default)
def _to(q, *, dtype=None, device=None, layout=None, pin_memory=None, non_blocking=False, memory_format=None):
    if dtype is not None and not dtype.is_floating_point:
        return NotImplemented
    move = {"device": device, "non_blocking": non_blocking}

    def part(x):
        return torch.ops.aten._to_copy.default(x, **move)

    moved = _rebuild(
        q, part, q.axis, q.shape[q.axis], values=lambda v: torch.ops.aten._to_copy.default(v, dtype=dtype, **move)
    )
    moved.tensor_scale = None if q.tensor_scale is None else part(q.tensor_scale)
    return moved


@keeps_groups(aten.copy_.default)
def _copy(target, source, non_blocking=False):
    """Loading a state dict: one quant tensor into another of the same kind."""
    if not isinstance(target, GroupwiseQuantTensor):
        return NotImplemented
    if not isinstance(source, GroupwiseQuantTensor) or _kind(target) != _kind(source):
        raise UnsupportedError(
            f"cannot copy {_describe(source)} into {_describe(target)}: a quant tensor takes the values of one with "
            "the same format, shape and axis"
        )
    for name in INNER:
        if getattr(target, name) is not None:
            getattr(target, name).copy_(getattr(source, name), non_blocking)
    return target


def _kind(q) -> tuple:
    return type(q), q._format_name, q.group_layout


def _describe(x: Tensor) -> str:
    name = f"{x._format_name} along axis {x.axis}" if isinstance(x, GroupwiseQuantTensor) else f"a plain {x.dtype}"
    return f"{name} tensor of shape {tuple(x.shape)}"


# --- element by element -----------------------------------------------------------------------------------------


@keeps_groups(aten.neg.default)
def _neg(q):
    element = q.format.element
    if element.signed_zero:
        return _same_groups(q, -q._grouped)
    zero_point = None if q.zero_point_ is None else element.code_hi - q.zero_point_  # the codes mirror as well
    return _same_groups(q, 0 - q._grouped, zero_point)  # 0 - 0 is +0, the only zero these formats have


@keeps_groups(aten.abs.default)
def _abs(q):
    return NotImplemented if q.format.asymmetric else _same_groups(q, q._grouped.abs())


@keeps_groups(aten.relu.default)
def _relu(q):
    return _same_groups(q, q._grouped.relu())


@keeps_groups(aten.mul.Tensor, aten.mul.Scalar)
def _mul(q, factor):
    if not isinstance(q, GroupwiseQuantTensor):
        q, factor = factor, q
    return _scaled(q, _power_of_two(factor))


@keeps_groups(aten.div.Tensor, aten.div.Scalar)
def _div(q, divisor):
    power = _power_of_two(divisor)
    return NotImplemented if power is None or not isinstance(q, GroupwiseQuantTensor) else _scaled(q, 1 / power)


def _power_of_two(factor) -> float | None:
    """A positive Python number that is a power of two (torch hands some over as CPU scalars); otherwise None."""
    if isinstance(factor, (int, float)) and factor > 0 and isfinite(factor):
        return float(factor) if frexp(factor)[0] == 0.5 and 2.0**-126 <= factor <= 2.0**126 else None
    return None


def _scaled(q, power: float | None):
    """`q` times a power of two where values and scales stay exact; needs to see the values."""
    plain = type(q._grouped) in (Tensor, torch.nn.Parameter)
    if power is None or not plain or q._grouped.device.type == "meta" or torch.compiler.is_compiling():
        return NotImplemented
    grouped, scale = q._grouped * power, q.scale_ * power
    lost = ((grouped / power != q._grouped) & ~q._grouped.isnan()).any()
    lost |= ((scale / power != q.scale_) & ~q.scale_.isnan()).any()
    if q.format.is_mx:  # the new scale must have an E8M0 code
        smallest = 2.0 ** (-127 - q.format.step_frac_bits)
        lost |= ((scale < smallest) | (scale > 2.0 ** (127 - q.format.step_frac_bits))).any()
    if lost:
        return NotImplemented
    return _same_groups(
        q, grouped, scale=scale, tensor_scale=None if q.tensor_scale is None else q.tensor_scale * power
    )


# --- shape ------------------------------------------------------------------------------------------------------


@keeps_groups(aten.permute.default)
def _permute(q, dims):
    if not _has(q, *dims):
        return NotImplemented
    order = tuple(d % q.ndim for d in dims)
    stored = q.group_layout.stored_order(order)
    return _rebuild(q, lambda x: x.permute(stored), order.index(q.axis), q.shape[q.axis])


@keeps_groups(aten.transpose.int)
def _transpose(q, dim0, dim1):
    if not _has(q, dim0, dim1):
        return NotImplemented
    order = list(range(q.ndim))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _permute(q, order)


@keeps_groups(aten.t.default)
def _t(q):
    if q.ndim > 2:
        return NotImplemented
    return _alias(q) if q.ndim < 2 else _transpose(q, 0, 1)


@keeps_groups(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(q, size):
    shape = resolve_shape(tuple(size), q.numel())
    layout = q.group_layout.viewed(shape) if prod(shape) == q.numel() else None
    if layout is None:
        return joined(q).clone().reshape(size)  # not a view, as all plain results
    return _rebuild(
        q,
        lambda x: x.reshape(layout.stored(1)),
        layout.axis,
        layout.length,
        values=lambda x: x.reshape(layout.stored(layout.group_size)),
    )


@keeps_groups(aten.unsqueeze.default)
def _unsqueeze(q, dim):
    if not -q.ndim - 1 <= dim <= q.ndim:
        return NotImplemented
    dim %= q.ndim + 1
    before = dim <= q.axis
    return _rebuild(q, lambda x: x.unsqueeze(dim if before else dim + 1), q.axis + before, q.shape[q.axis])


@keeps_groups(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)
def _squeeze(q, dim=None):
    dims = range(q.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    if not _has(q, *dims):
        return NotImplemented
    gone = {d % q.ndim for d in dims if q.shape[d] == 1}
    if q.axis in gone:
        return NotImplemented
    stored = tuple(q.group_layout.stored_dim(d) for d in gone)
    return _rebuild(q, lambda x: x.squeeze(stored), q.axis - sum(d < q.axis for d in gone), q.shape[q.axis])


@keeps_groups(aten.flip.default)
def _flip(q, dims):
    if not _has(q, *dims) or q.axis in {d % q.ndim for d in dims}:
        return NotImplemented
    stored = [q.group_layout.stored_dim(d % q.ndim) for d in dims]
    return _rebuild(q, lambda x: x.flip(stored), q.axis, q.shape[q.axis])


@keeps_groups(aten.expand.default)
def _expand(q, size, *, implicit=False):
    more = len(size) - q.ndim
    if more < 0 or size[more + q.axis] not in (-1, q.shape[q.axis]):
        return NotImplemented
    sizes = list(size)
    sizes[more + q.axis : more + q.axis + 1] = (-1, -1)
    return _rebuild(q, lambda x: x.expand(sizes), more + q.axis, q.shape[q.axis])


@keeps_groups(aten.repeat.default)
def _repeat(q, repeats):
    axis = len(repeats) - q.ndim + q.axis
    if len(repeats) < q.ndim or (repeats[axis] != 1 and not q.group_layout.whole):
        return NotImplemented
    stored = [*repeats[: axis + 1], 1, *repeats[axis + 1 :]]
    return _rebuild(q, lambda x: x.repeat(stored), axis, q.shape[q.axis] * repeats[axis])


# --- parts of a tensor ------------------------------------------------------------------------------------------


@keeps_groups(aten.slice.Tensor)
def _slice(q, dim=0, start=None, end=None, step=1):
    if not _has(q, dim):
        return NotImplemented
    dim %= q.ndim
    if dim != q.axis:
        stored = q.group_layout.stored_dim(dim)
        return _rebuild(q, lambda x: torch.ops.aten.slice.Tensor(x, stored, start, end, step), q.axis, q.shape[q.axis])
    first, last, _ = slice(start, end).indices(q.shape[dim])
    size = q.group_size
    if step != 1 or last <= first or first % size or (last % size and last != q.shape[dim]):
        return NotImplemented
    return _rebuild(q, lambda x: x.narrow(dim, first // size, -(-last // size) - first // size), dim, last - first)


@keeps_groups(aten.select.int)
def _select(q, dim, index):
    if not _has(q, dim):
        return NotImplemented
    dim %= q.ndim
    if dim == q.axis:
        return NotImplemented
    stored = q.group_layout.stored_dim(dim)
    return _rebuild(q, lambda x: x.select(stored, index), q.axis - (dim < q.axis), q.shape[q.axis])


@keeps_groups(aten.index_select.default)
def _index_select(q, dim, index):
    if not isinstance(q, GroupwiseQuantTensor) or isinstance(index, GroupwiseQuantTensor):
        return NotImplemented
    if not _has(q, dim) or dim % q.ndim == q.axis:
        return NotImplemented
    stored = q.group_layout.stored_dim(dim % q.ndim)
    return _rebuild(q, lambda x: x.index_select(stored, index), q.axis, q.shape[q.axis])


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
    return _rebuild(q, lambda x: torch.ops.aten.index.Tensor(x, stored), axis, q.shape[q.axis])


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
    return _rebuild(q, rows, indices.ndim, q.shape[1])


@keeps_groups(aten.split.Tensor)
def _split(q, split_size, dim=0):
    if not _has(q, dim) or split_size < 1:
        return NotImplemented
    length = q.shape[dim]
    return _split_with_sizes(q, [min(split_size, length - at) for at in range(0, length, split_size)] or [0], dim)


@keeps_groups(aten.split_with_sizes.default)
def _split_with_sizes(q, split_sizes, dim=0):
    if not _has(q, dim) or min(split_sizes, default=-1) < 0 or sum(split_sizes) != q.shape[dim]:
        return NotImplemented
    bounds = [sum(split_sizes[:i]) for i in range(len(split_sizes) + 1)]
    pieces = [_slice(q, dim, a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    return NotImplemented if any(piece is NotImplemented for piece in pieces) else pieces


@keeps_groups(aten.unbind.int)
def _unbind(q, dim=0):
    if not _has(q, dim):
        return NotImplemented
    pieces = [_select(q, dim, i) for i in range(q.shape[dim])]
    return NotImplemented if any(piece is NotImplemented for piece in pieces) else pieces


@keeps_groups(aten.cat.default)
def _cat(tensors, dim=0):
    first = tensors[0]
    if not _joinable(tensors) or not _has(first, dim):
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
    return _cat([_unsqueeze(q, dim) for q in tensors], dim)


def _joinable(tensors) -> bool:
    """Quant tensors of one format, axis and dtype; nvfp4 tensors each have a tensor scale of their own."""
    if not all(isinstance(q, GroupwiseQuantTensor) for q in tensors):
        return False
    kinds = {(q._format_name, q.axis, q.ndim, q.dtype, q.tensor_scale is None) for q in tensors}
    return len(kinds) == 1 and tensors[0].tensor_scale is None


@keeps_groups(aten.equal.default)
def _equal(a, b):
    return torch.equal(_plain(a), _plain(b))
