"""The operators as torch.library ops `mxexport::…`: what QAT layers call, and what export finds in the graph.

Names and arguments equal those of the ONNX operators in `mxexport.ops`, except for `mx_quantize_dequantize`: scale and
elements at once, which no graph for export holds. Gradients are straight-through: the
quantizers pass the gradient where the value was not clipped; scales found at run time take none. For transforms other
than a backward pass see `transforms`.
"""

from __future__ import annotations

from functools import partial, wraps

import torch
from torch import Tensor

from mxexport.numbers.groups import contracted_shape
from mxexport.quant.kernels import fused, operators, transforms


@torch.library.custom_op("mxexport::mx_scale", mutates_args=())
def _mx_scale(
    x: Tensor, axis: int, group_size: int, emax: int, round_bias: int, frac_bits: int, code_min: int, code_max: int
) -> Tensor:
    return operators.mx_scale(x, axis, group_size, emax, round_bias, frac_bits, code_min, code_max)


@torch.library.custom_op("mxexport::nvfp4_scale", mutates_args=())
def _nvfp4_scale(x: Tensor, axis: int, group_size: int) -> Tensor:
    return operators.nvfp4_scale(x, axis, group_size)[0]


@torch.library.custom_op("mxexport::groupwise_scale", mutates_args=())
def _groupwise_scale(x: Tensor, axis: int, group_size: int, levels: float, asymmetric: bool) -> Tensor:
    return operators.groupwise_scale(x, axis, group_size, levels, asymmetric)


@torch.library.custom_op("mxexport::groupwise_zero_point", mutates_args=())
def _groupwise_zero_point(x: Tensor, scale: Tensor, axis: int, group_size: int, levels: float) -> Tensor:
    return operators.groupwise_zero_point(x, scale, axis, group_size, levels)


@torch.library.custom_op("mxexport::mx_float_quant", mutates_args=())
def _mx_float_quant(
    x: Tensor,
    scale: Tensor,
    axis: int,
    group_size: int,
    exponent_bits: int,
    mantissa_bits: int,
    exponent_bias: int,
    max_val: float,
    signed: bool,
    signed_zero: bool,
) -> Tensor:
    return operators.mx_float_quant(
        x, scale, axis, group_size, exponent_bits, mantissa_bits, exponent_bias, max_val, signed, signed_zero
    )


@torch.library.custom_op("mxexport::groupwise_quant", mutates_args=())
def _groupwise_quant(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    axis: int,
    group_size: int,
    bit_width: int,
    signed: bool,
    narrow: bool,
) -> Tensor:
    return operators.groupwise_quant(x, scale, zero_point, axis, group_size, bit_width, signed, narrow)


@torch.library.custom_op("mxexport::mx_quantize_dequantize", mutates_args=())
def mx_quantize_dequantize(
    x: Tensor,
    axis: int,
    group_size: int,
    emax: int,
    round_bias: int,
    frac_bits: int,
    code_min: int,
    code_max: int,
    mantissa_bits: int,
    emin: int,
    max_val: float,
    integer: bool,
    signed_zero: bool,
    with_mask: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(values, scale, mask): `mx_scale` and the quantizer of an MX format in one pass. See `fused`."""
    shared = (emax, round_bias, frac_bits, code_min, code_max)
    spec = fused.MXSpec(*shared, mantissa_bits, emin, max_val, integer, signed_zero)
    return fused.mx_quantize_dequantize(x, axis, group_size, spec, with_mask)


@torch.library.custom_op("mxexport::mask_gradient", mutates_args=())
def mask_gradient(grad: Tensor, mask: Tensor) -> Tensor:
    return fused.mask_gradient(grad, mask)


def _fake_scale(x: Tensor, axis: int, group_size: int) -> Tensor:
    return x.new_empty(contracted_shape(tuple(x.shape), axis, group_size), dtype=torch.float32)


@_mx_scale.register_fake
def _(x, axis, group_size, *rest):
    return _fake_scale(x, axis, group_size)


@_nvfp4_scale.register_fake
def _(x, axis, group_size):
    return _fake_scale(x, axis, group_size)


@_groupwise_scale.register_fake
def _(x, axis, group_size, *rest):
    return _fake_scale(x, axis, group_size)


@_groupwise_zero_point.register_fake
def _(x, scale, axis, group_size, *rest):
    return _fake_scale(x, axis, group_size)


@_mx_float_quant.register_fake
def _(x, *rest):
    return torch.empty_like(x)


@_groupwise_quant.register_fake
def _(x, *rest):
    return torch.empty_like(x)


@mx_quantize_dequantize.register_fake
def _(x, axis, group_size, *rest):
    mask = x.new_empty(fused.mask_bytes(x.numel()) if rest[-1] else 0, dtype=torch.uint8)
    return x.new_empty(x.shape), _fake_scale(x, axis, group_size), mask


@mask_gradient.register_fake
def _(grad, mask):
    return grad.new_empty(grad.shape)


# --- what the rest of the package calls ---------------------------------------------------------------------------


def _scale_finder(op):
    """The operator; scales found at run time take no gradient from any transform."""

    @wraps(op)
    def find(x: Tensor, *args) -> Tensor:
        return op(x.detach() if transforms.active() else x, *args)

    return find


mx_scale, nvfp4_scale = _scale_finder(_mx_scale), _scale_finder(_nvfp4_scale)
groupwise_scale, groupwise_zero_point = _scale_finder(_groupwise_scale), _scale_finder(_groupwise_zero_point)


def mx_float_quant(x: Tensor, scale: Tensor, axis: int, group_size: int, **element) -> Tensor:
    """The operator of this name; `element` holds the rest of its arguments."""
    if not transforms.active():
        return _mx_float_quant(x, scale, axis, group_size, **element)
    x0, scale = x.detach(), scale.detach()
    inside = _float_inside(operators.in_steps(x0, scale, None, axis, group_size), element["max_val"], element["signed"])
    return transforms.straight_through(_mx_float_quant(x0, scale, axis, group_size, **element), x, inside)


def groupwise_quant(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group_size: int, **element
) -> Tensor:
    """The operator of this name; `element` holds the rest of its arguments."""
    if not transforms.active():
        return _groupwise_quant(x, scale, zero_point, axis, group_size, **element)
    constants = x.detach(), scale.detach(), zero_point, axis, group_size
    inside = _int_inside(operators.in_steps(*constants), **element)
    return transforms.straight_through(_groupwise_quant(*constants, **element), x, inside)


# --- vmap: the batch becomes the first dimension -----------------------------------------------------------------


def _batched(op, tensors: int, info, in_dims, *args):
    """One call for the whole batch: `args` begin with so many tensors (or None), then comes the axis."""
    given, (axis, *rest) = args[:tensors], args[tensors:]
    moved = [
        None if t is None else t.unsqueeze(0).expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(given, in_dims, strict=False)
    ]
    return op(*moved, axis % (moved[0].ndim - 1) + 1, *rest), 0


for _op, _tensors in (
    (_mx_scale, 1),
    (_groupwise_scale, 1),
    (_groupwise_zero_point, 2),
    (_mx_float_quant, 2),
    (_groupwise_quant, 3),
):
    _op.register_vmap(partial(_batched, _op, _tensors))


@_nvfp4_scale.register_vmap
def _(info, in_dims, x, axis, group_size):
    return torch.stack([_nvfp4_scale(one, axis, group_size) for one in x.unbind(in_dims[0])]), 0  # each a tensor scale


# --- straight-through gradients -------------------------------------------------------------------------------


def _no_gradient(ctx, grad):
    return (None,) * ctx.arity


def _remember_arity(ctx, inputs, output):
    ctx.arity = len(inputs)


for _op in (_mx_scale, _nvfp4_scale, _groupwise_scale, _groupwise_zero_point):
    _op.register_autograd(_no_gradient, setup_context=_remember_arity)


def _float_setup(ctx, inputs, output):
    x, scale, axis, group_size, _, _, _, max_val, signed, _ = inputs
    v = operators.in_steps(x.detach(), scale, None, axis, group_size)
    ctx.save_for_backward(_float_inside(v, max_val, signed))
    ctx.arity = len(inputs)


def _float_inside(v: Tensor, max_val: float, signed: bool) -> Tensor:
    return (v <= max_val) & (v >= (-max_val if signed else 0.0))


def _int_setup(ctx, inputs, output):
    x, *groups, bit_width, signed, narrow = inputs
    ctx.save_for_backward(_int_inside(operators.in_steps(x.detach(), *groups), bit_width, signed, narrow))
    ctx.arity = len(inputs)


def _int_inside(v: Tensor, bit_width: int, signed: bool, narrow: bool) -> Tensor:
    low, high = operators.int_limits(bit_width, signed, narrow)
    # Half a step beyond the last code still rounds to it: only what is really clipped loses its gradient.
    return (v <= high + 0.5) & (v >= low - 0.5)


def _straight_through(ctx, grad):
    (inside,) = ctx.saved_tensors
    return (torch.where(inside, grad, 0.0), *(None,) * (ctx.arity - 1))


_mx_float_quant.register_autograd(_straight_through, setup_context=_float_setup)
_groupwise_quant.register_autograd(_straight_through, setup_context=_int_setup)


def _fused_setup(ctx, inputs, output):
    _, scale, mask = output
    ctx.mark_non_differentiable(scale, mask)
    ctx.set_materialize_grads(False)  # or zeros are made for the scale and the mask
    ctx.save_for_backward(mask)
    ctx.arity = len(inputs)


def _fused_backward(ctx, grad, *rest):
    (mask,) = ctx.saved_tensors
    return (mask_gradient(grad, mask), *(None,) * (ctx.arity - 1))


def _mask_setup(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _mask_backward(ctx, grad):
    (mask,) = ctx.saved_tensors
    return mask_gradient(grad, mask), None


mx_quantize_dequantize.register_autograd(_fused_backward, setup_context=_fused_setup)
mask_gradient.register_autograd(_mask_backward, setup_context=_mask_setup)
