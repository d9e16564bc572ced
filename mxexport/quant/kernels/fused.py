"""MX quantize-dequantize in one go: shared scale, elements and the mask of what was not clipped.

One pass over memory in a kernel compiled for the CPU (`native`) or a GPU (`on_gpu`), or slab by slab in torch on any
device, so that every intermediate result stays in the cache; `choice` says which. All give the bits of
`mxexport.numbers.numerics`.

A mask holds one bit per element in memory order, lowest bit first, eight to a byte: what the gradient needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mxexport.numbers.groups import contracted_shape
from mxexport.quant.kernels import choice, native, on_gpu, operators

_MAGNITUDE = 0x7FFFFFFF
_INF_BITS = 0x7F800000
SLAB = 1 << 17  # elements whose intermediate results stay in the caches, and enough to pay for the calls
DEVICE_SLAB = 1 << 24  # on other devices a slab only bounds the memory of the intermediate results


@dataclass(frozen=True)
class MXSpec:
    """A format as numbers: the first five as in `numerics.mx_scale`, the rest describe the element.

    Element steps are 2**(max(exponent, emin) - mantissa_bits); an MX integer has `emin` 0 and its fraction bits as
    `mantissa_bits`. `signed_zero` False (integers, FNUZ floats) returns +0 for -0.
    """

    emax: int
    round_bias: int
    frac_bits: int
    code_min: int
    code_max: int
    mantissa_bits: int
    emin: int
    max_val: float
    integer: bool
    signed_zero: bool

    @property
    def numbers(self) -> tuple:
        """The fields in their order, as the operator takes them."""
        shared = (self.emax, self.round_bias, self.frac_bits, self.code_min, self.code_max)
        return *shared, self.mantissa_bits, self.emin, self.max_val, self.integer, self.signed_zero

    @property
    def limit(self) -> float:
        """Largest magnitude that keeps its gradient: half a step beyond the last integer still rounds to it."""
        return self.max_val + (2.0 ** -(self.mantissa_bits + 1) if self.integer else 0.0)

    def kernel_format(self) -> native.Format:
        zero = -0.0 if self.signed_zero else 0.0
        shared = (self.emax, self.round_bias, self.frac_bits, self.code_min, self.code_max)
        return native.Format(*shared, self.mantissa_bits, self.emin, self.max_val, self.limit, zero)


def mask_bytes(elements: int) -> int:
    return (elements + 7) // 8


def mx_quantize_dequantize(
    x: Tensor, axis: int, group_size: int, p: MXSpec, with_mask: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(values, scale, mask) of a floating tensor of any rank above 0.

    values: dtype and shape of `x`, contiguous; scale: contracted float32, as `operators.mx_scale` gives it; mask:
    uint8, one bit per element, empty unless `with_mask`.
    """
    x, axis = x.detach().contiguous(), axis % x.ndim
    shape = tuple(x.shape)
    values = torch.empty_like(x)
    scale = torch.empty(contracted_shape(shape, axis, group_size), dtype=torch.float32, device=x.device)
    mask = torch.empty(mask_bytes(x.numel()) if with_mask else 0, dtype=torch.uint8, device=x.device)
    if x.numel() == 0:
        return values, scale, mask
    folded = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    x3, values3 = x.view(folded), values.view(folded)
    scale3 = scale.view(folded[0], -1, folded[2])
    kernel = choice.kernel_for(x)
    slabs = [
        (x3[o, k], values3[o, k], scale3[o, _groups(k, group_size)], mask[bits] if with_mask else None)
        for o, k, bits in _slabs(folded, group_size, _limit(kernel, x))
    ]
    if kernel == "native" and x.dtype == torch.float32:
        native.quantize_dequantize(slabs, group_size, p.kernel_format())
    else:
        compute = {"native": _quantize_on_cpu, "triton": _quantize_on_gpu, "torch": _quantize_slab}[kernel]
        for slab in slabs:
            compute(*slab, group_size, p)
    return values, scale, mask


def mask_gradient(grad: Tensor, mask: Tensor) -> Tensor:
    """`grad` where the mask is set, else 0; dtype and shape of `grad`, contiguous."""
    grad = grad.detach().contiguous()
    result = torch.empty_like(grad)
    flat, flat_result, count = grad.view(-1), result.view(-1), grad.numel()
    if count == 0:
        return result
    kernel = choice.kernel_for(grad)
    if kernel == "triton":
        on_gpu.mask_gradient(flat, mask, flat_result)
        return result
    limit = -(-count // native.thread_count(count)) if kernel == "native" else _slab_size(grad)
    step = -(-limit // 8) * 8
    starts = range(0, count, step)
    pieces = [(flat[i : i + step], mask[i // 8 : (i + step) // 8], flat_result[i : i + step]) for i in starts]
    if kernel == "native":
        native.mask_gradient(pieces)
    else:
        zero = grad.new_zeros(())
        for piece, bits, out in pieces:
            torch.where(_unpack(bits)[: piece.numel()], piece, zero, out=out)
    return result


def memory_order(x: Tensor) -> list[int] | None:
    """The order of dimensions in which `x` is contiguous; None where it already is, or where there is no such order."""
    if x.is_contiguous():
        return None
    order = sorted(range(x.ndim), key=lambda dim: x.stride(dim), reverse=True)
    return order if x.permute(order).is_contiguous() else None


def _limit(kernel: choice.Kernel, x: Tensor) -> int:
    """Elements of a slab: one per thread or the whole tensor where no intermediate results need memory."""
    if kernel == "native" and x.dtype == torch.float32:
        return -(-x.numel() // native.thread_count(x.numel()))
    return x.numel() if kernel == "triton" and x.dtype in on_gpu.KINDS else _slab_size(x)


def _slab_size(x: Tensor) -> int:
    return SLAB if x.device.type == "cpu" else DEVICE_SLAB


# --- cutting a tensor -----------------------------------------------------------------------------------------


def _slabs(folded: tuple[int, int, int], group_size: int, limit: int) -> Iterator[tuple[slice, slice, slice]]:
    """Cut [outer, length, inner] into runs of memory of whole groups, about `limit` elements each.

    Yields the slices of `outer`, of `length`, and of the mask's bytes: every run but the last begins and ends on a
    whole byte.
    """
    outer, length, inner = folded
    each = length * inner
    whole_bytes = 8 // math.gcd(each, 8)
    if each <= limit or (outer > 1 and whole_bytes > 1):
        step = -(-max(1, limit // each) // whole_bytes) * whole_bytes
        for first in range(0, outer, step):
            last = min(first + step, outer)
            yield slice(first, last), slice(0, length), slice(first * each // 8, mask_bytes(last * each))
        return
    row = group_size * inner
    step = max(1, limit // row) * group_size * (8 // math.gcd(row, 8))
    for o in range(outer):
        for first in range(0, length, step):
            last = min(first + step, length)
            bits = slice((o * each + first * inner) // 8, mask_bytes(o * each + last * inner))
            yield slice(o, o + 1), slice(first, last), bits


def _groups(elements: slice, group_size: int) -> slice:
    return slice(elements.start // group_size, -(-elements.stop // group_size))


# --- one slab in a compiled kernel ----------------------------------------------------------------------------


def _quantize_on_cpu(x: Tensor, values: Tensor, scale: Tensor, mask: Tensor | None, group_size: int, p: MXSpec) -> None:
    """As `_quantize_slab`, for a type that the native kernel does not take."""
    wide = x.float()
    wide_values = torch.empty_like(wide)
    native.quantize_dequantize([(wide, wide_values, scale, mask)], group_size, p.kernel_format())
    values.copy_(wide_values)


def _quantize_on_gpu(x: Tensor, values: Tensor, scale: Tensor, mask: Tensor | None, group_size: int, p: MXSpec) -> None:
    """As `_quantize_slab`, in Triton."""
    direct = x.dtype in on_gpu.KINDS
    given = x if direct else x.float()
    result = values if direct else torch.empty_like(given)
    unpacked = on_gpu.quantize_dequantize(given, result, scale, mask, group_size, p.kernel_format())
    if unpacked is not None:
        mask.copy_(_pack(unpacked))
    if not direct:
        values.copy_(result)


# --- one slab in torch ----------------------------------------------------------------------------------------


def _quantize_slab(x: Tensor, values: Tensor, scale: Tensor, mask: Tensor | None, group_size: int, p: MXSpec) -> None:
    """Fill values [o, k, i], scale [o, n, i] and mask of the slab x [o, k, i]."""
    length = x.shape[1]
    grouped = operators.split_groups(x.float(), 1, min(group_size, length))
    magnitude = grouped.view(torch.int32) & _MAGNITUDE
    amax = magnitude.amax(2, keepdim=True)
    finite = amax < _INF_BITS
    codes = (((amax.clamp(max=_INF_BITS) + p.round_bias) >> 23) - p.emax).clamp(p.code_min, p.code_max)
    scale.copy_(torch.where(finite, operators.power_of_two(codes, p.frac_bits), torch.nan).squeeze(2))
    down = torch.where(finite, operators.power_of_two(codes), torch.nan)
    v = magnitude.view(torch.float32)
    for up in _reciprocals(codes, p.emax):
        v.mul_(torch.where(finite, up, torch.nan))
    if mask is not None:
        inside = (v <= p.limit).flatten(1, 2)[:, :length]
        mask.copy_(_pack(inside))
    if p.integer:
        v.copysign_(grouped).clamp_(-p.max_val, p.max_val)
    else:
        v.clamp_(max=p.max_val)
    _round(v, p)
    whole = length == v.shape[1] * v.shape[2] and values.dtype == torch.float32
    out = values.view(v.shape) if whole else v
    if p.integer:
        torch.mul(v, down, out=out)
    else:
        torch.copysign(v.mul_(down), grouped, out=out)
        if not p.signed_zero:
            out.add_(0.0)
    if not whole:
        values.copy_(v.flatten(1, 2)[:, :length])


def _reciprocals(codes: Tensor, emax: int) -> tuple[Tensor, ...]:
    """Factors of 2**(127 - code), none of them subnormal: code 254 occurs only where emax is 0, and hardly ever."""
    exponent = 254 - codes  # biased: power_of_two(exponent) = 2**(127 - code)
    if emax > 0 or (codes.device.type == "cpu" and int(codes.max()) < 254):  # elsewhere looking costs a wait
        return (operators.power_of_two(exponent),)
    half = (exponent + 127) >> 1
    return operators.power_of_two(half), operators.power_of_two(exponent + 127 - half)


def _round(v: Tensor, p: MXSpec) -> None:
    """Round magnitudes (integers: with their sign) to the element grid in place; integers lose the sign of zero.

    Adding and taking away a number whose last bit weighs one step rounds to nearest even.
    """
    if p.integer:
        one_binade = 1.5 * 2.0 ** (23 - p.mantissa_bits)
        v.add_(one_binade).sub_(one_binade)
        return
    binade = (v.view(torch.int32) & _INF_BITS).clamp_(min=(p.emin + 127) << 23).view(torch.float32)
    steps = 2.0 ** (23 - p.mantissa_bits)
    v.add_(binade, alpha=steps).sub_(binade, alpha=steps)


# --- masks ----------------------------------------------------------------------------------------------------

_GATHER = 0x0102040810204080  # times eight bytes of 0 or 1: the top byte collects one bit of each
_SPREAD = 0x0101010101010101  # times a byte: eight copies of it
_ONE_EACH = 0x8040201008040201 - (1 << 64)  # bit i of copy i


def _pack(inside: Tensor) -> Tensor:
    """bool -> uint8 of eight elements each, in memory order (little-endian machines)."""
    flat = inside.contiguous().view(-1)
    padding = -flat.numel() % 8
    if padding:
        flat = torch.nn.functional.pad(flat, [0, padding])
    return ((flat.view(torch.int64) * _GATHER) >> 56).to(torch.uint8)


def _unpack(mask: Tensor) -> Tensor:
    """uint8 -> bool, eight times as many."""
    return ((mask.long() * _SPREAD) & _ONE_EACH).view(torch.uint8) != 0
