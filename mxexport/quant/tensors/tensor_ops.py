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
from mxexport.quant.tensors.layout import resolve_shape
from mxexport.quant.tensors.tensor import INNER, GroupwiseQuantTensor, joined

aten = torch.ops.aten
_RULES: dict[object, Callable] = {}
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def keeps_groups(*operations):
    def register(rule):
        _RULES.update(dict.fromkeys(operations, rule))
        return rule

    return register


def dispatch(func, args: tuple, kwargs: dict):
    """The result of `func`: by its rule, or on dequantized values."""
    if not torch.is_inference_mode_enabled():
        return _result(func, args, kwargs)
    if not _gives_views(func) or _made_in_inference_mode(args, kwargs):
        return _result(func, args, kwargs, take_to_pieces=True)
    with torch.inference_mode(False), torch.no_grad():  # torch gives views of other tensors a version counter
        return _result(func, args, kwargs, take_to_pieces=True)


def _result(func, args: tuple, kwargs: dict, take_to_pieces: bool = False):
    """`take_to_pieces`: where there is no autograd, which otherwise has done that to `func`."""
    rule = _RULES.get(func)
    result = NotImplemented if rule is None else rule(*args, **kwargs)
    if result is not NotImplemented:
        return result
    _refuse_writing(func, args, kwargs)
    if take_to_pieces and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
        with _lazy_bits():
            return func._op_dk(_COMPOSITE, *args, **kwargs)  # `decompose` prefers pieces in Python: other roundings
    plain_args, plain_kwargs = tree_map(_values_for(func), (args, kwargs))
    return _apart(func, func(*plain_args, **plain_kwargs))


def _lazy_bits():
    """Conjugation and negation that torch puts off are done in here; a dispatch goes on without."""
    exclude = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.Conjugate, torch._C.DispatchKey.Negative):
        exclude = exclude.remove(key)
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), exclude)


def _apart(func, result):
    """Copies of results that are views, so that writing to them does not change the quant tensor."""
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, result) if _gives_views(func) else result


def _gives_views(func) -> bool:
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _made_in_inference_mode(args: tuple, kwargs: dict) -> bool:
    return all(x.is_inference() for x in tree_leaves((args, kwargs)) if isinstance(x, GroupwiseQuantTensor))


def plain(x):
    return joined(x) if isinstance(x, GroupwiseQuantTensor) else x


_ANY_STRIDES = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.mv.default}
_ANY_STRIDES |= {aten.convolution.default, aten.copy_.default, aten._to_copy.default}


def _values_for(func) -> Callable:
    """Quant tensors claim to be contiguous, and torch has operations that rely on it, such as `det` in its gradient; so
    they see contiguous values. No copy is made for products and elementwise operations, which take any strides."""
    if func in _ANY_STRIDES or torch.Tag.pointwise in func.tags:
        return plain
    return lambda x: joined(x).contiguous() if isinstance(x, GroupwiseQuantTensor) else x


def _refuse_writing(func, args: tuple, kwargs: dict) -> None:
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        written = kwargs.get(argument.name, args[i] if i < len(args) else None)
        if any(isinstance(x, GroupwiseQuantTensor) for x in tree_leaves(written)):
            raise UnsupportedError(
                f"{func}: quant tensors cannot be changed in place; compute on .value and quantize the result"
            )


def rebuild(q: GroupwiseQuantTensor, part: Callable[[Tensor], Tensor], axis: int, length: int, values=None):
    """Like `q` with `part` done to every contracted tensor (`values`, if given, to the values instead)."""
    zero = None if q.zero_point_ is None else part(q.zero_point_)
    return type(q)((values or part)(q._grouped), part(q.scale_), zero, q._format_name, axis, length, q.tensor_scale)


def _same_groups(q: GroupwiseQuantTensor, grouped: Tensor, zero_point=None, scale=None, tensor_scale=None):
    zero = q.zero_point_ if zero_point is None else zero_point
    scale = q.scale_ if scale is None else scale
    tensor_scale = q.tensor_scale if tensor_scale is None else tensor_scale
    return type(q)(grouped, scale, zero, q._format_name, q.axis, q.shape[q.axis], tensor_scale)


def has_dims(q, *dims: int) -> bool:
    """Whether `q` has all these dimensions; where not, torch says so when it is given the plain values."""
    return all(-q.ndim <= d < q.ndim for d in dims)


# --- copies and moves -------------------------------------------------------------------------------------------


@keeps_groups(aten.detach.default, aten.alias.default, aten.lift_fresh.default)
def _alias(q):
    return rebuild(q, torch.ops.aten.alias.default, q.axis, q.shape[q.axis])


@keeps_groups(aten.clone.default, aten.contiguous.default)
def _clone(q, *, memory_format=None):
    copied = rebuild(q, torch.clone, q.axis, q.shape[q.axis])
    copied.tensor_scale = None if q.tensor_scale is None else q.tensor_scale.clone()
    return copied


@keeps_groups(aten._to_copy.default)
def _to(q, *, dtype=None, device=None, layout=None, pin_memory=None, non_blocking=False, memory_format=None):
    if dtype is not None and not dtype.is_floating_point:
        return NotImplemented
    move = {"device": device, "non_blocking": non_blocking}

    def part(x):
        return torch.ops.aten._to_copy.default(x, **move)

    moved = rebuild(
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
    in_backward = torch._C._current_graph_task_id() != -1  # there torch's formulas write to the magnitudes of a norm
    return NotImplemented if q.format.asymmetric or in_backward else _same_groups(q, q._grouped.abs())


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
    seen = type(q._grouped) in (Tensor, torch.nn.Parameter)
    if power is None or not seen or q._grouped.device.type == "meta" or torch.compiler.is_compiling():
        return NotImplemented
    grouped, scale = q._grouped * power, q.scale_ * power
    lost = ((grouped / power != q._grouped) & ~q._grouped.isnan()).any()
    lost |= ((scale / power != q.scale_) & ~q.scale_.isnan()).any()
    lost |= q._grouped.isinf().any()  # an overflow stands for one code under one scale only
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
    if not has_dims(q, *dims):
        return NotImplemented
    order = tuple(d % q.ndim for d in dims)
    stored = q.group_layout.stored_order(order)
    return rebuild(q, lambda x: x.permute(stored), order.index(q.axis), q.shape[q.axis])


@keeps_groups(aten.transpose.int)
def _transpose(q, dim0, dim1):
    if not has_dims(q, dim0, dim1):
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
    return rebuild(
        q,
        lambda x: x.reshape(layout.stored(1)),
        layout.axis,
        layout.length,
        values=lambda x: x.reshape(layout.stored(layout.group_size)),
    )


@keeps_groups(aten.unsqueeze.default)
def unsqueeze(q, dim):
    if not -q.ndim - 1 <= dim <= q.ndim:
        return NotImplemented
    dim %= q.ndim + 1
    before = dim <= q.axis
    return rebuild(q, lambda x: x.unsqueeze(dim if before else dim + 1), q.axis + before, q.shape[q.axis])


@keeps_groups(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)
def _squeeze(q, dim=None):
    dims = range(q.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    if not has_dims(q, *dims):
        return NotImplemented
    gone = {d % q.ndim for d in dims if q.shape[d] == 1}
    if q.axis in gone:
        return NotImplemented
    stored = tuple(q.group_layout.stored_dim(d) for d in gone)
    return rebuild(q, lambda x: x.squeeze(stored), q.axis - sum(d < q.axis for d in gone), q.shape[q.axis])


@keeps_groups(aten.flip.default)
def _flip(q, dims):
    if not has_dims(q, *dims) or q.axis in {d % q.ndim for d in dims}:
        return NotImplemented
    stored = [q.group_layout.stored_dim(d % q.ndim) for d in dims]
    return rebuild(q, lambda x: x.flip(stored), q.axis, q.shape[q.axis])


@keeps_groups(aten.expand.default)
def _expand(q, size, *, implicit=False):
    more = len(size) - q.ndim
    if more < 0 or size[more + q.axis] not in (-1, q.shape[q.axis]):
        return NotImplemented
    sizes = list(size)
    sizes[more + q.axis : more + q.axis + 1] = (-1, -1)
    return rebuild(q, lambda x: x.expand(sizes), more + q.axis, q.shape[q.axis])


@keeps_groups(aten.repeat.default)
def _repeat(q, repeats):
    axis = len(repeats) - q.ndim + q.axis
    if len(repeats) < q.ndim or (repeats[axis] != 1 and not q.group_layout.whole):
        return NotImplemented
    stored = [*repeats[: axis + 1], 1, *repeats[axis + 1 :]]
    return rebuild(q, lambda x: x.repeat(stored), axis, q.shape[q.axis] * repeats[axis])
