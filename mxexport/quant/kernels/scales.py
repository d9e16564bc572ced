"""Scales beyond one maximum per group, in torch: the same bits as `mxexport.numbers.scales`, which explains them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mxexport.numbers.formats import GroupFormat
from mxexport.numbers.scales import FLOAT_FACTORS, MX_SHIFTS
from mxexport.quant.kernels import operators


def statistics(x: Tensor, axis: int, channel_axis: int | None, asymmetric: bool) -> Tensor:
    """What decides the scale of each channel, or (`channel_axis` None) of the tensor, laid out as tiny groups."""
    x = x.detach().float()
    kept = None if channel_axis is None else channel_axis % x.ndim
    others = [d for d in range(x.ndim) if d != kept]
    if not torch.compiler.is_exporting() and x.numel() == 0:
        x = x.new_zeros([x.shape[d] if d == kept else 1 for d in range(x.ndim)])
    if torch.compiler.is_exporting():  # the largest value that onnxruntime finds is no NaN where there is one
        bad = x.isnan()
        found = _statistics(torch.where(bad, 0.0, x), axis % x.ndim, others, asymmetric)
        bad = _statistics(bad.float(), axis % x.ndim, others, False) > 0
        return torch.where(bad.repeat_interleave(2, axis % x.ndim) if asymmetric else bad, torch.nan, found)
    return _statistics(x, axis % x.ndim, others, asymmetric)


def _statistics(x: Tensor, axis: int, others: list[int], asymmetric: bool) -> Tensor:
    if not asymmetric:
        return x.abs().amax(others, keepdim=True) if others else x.abs()
    low, high = (x.amin(others, keepdim=True), x.amax(others, keepdim=True)) if others else (x, x)
    return torch.stack([low.clamp(max=0), high.clamp(min=0)], axis + 1).flatten(axis, axis + 1)


def nested_scale(x: Tensor, fmt: GroupFormat, axis: int) -> Tensor:
    """Contracted scales of groups as integers times one float32 per super-group. See `mxexport.numbers.scales`."""
    axis = axis % x.ndim
    x = x.detach().float()
    one, levels, wanted_max = (x.new_full((), v) for v in (1, 2**fmt.scale_bits - 1, fmt.element.max_val))
    bad = ~x.isfinite()  # apart, because the largest value that onnxruntime finds is no NaN where there is one
    grouped = operators.split_groups(torch.where(bad, 0.0, x), axis, fmt.group_size)
    if fmt.asymmetric:
        width = grouped.amax(axis + 1).clamp(min=0) - grouped.amin(axis + 1).clamp(max=0)
    else:
        width = grouped.abs().amax(axis + 1)
    wanted = width / wanted_max
    finite = wanted.isfinite() & (operators.split_groups(bad.float(), axis, fmt.group_size).amax(axis + 1) == 0)
    masked = torch.where(finite, wanted, torch.zeros_like(wanted))
    largest = operators.split_groups(masked, axis, fmt.super_size).amax(axis + 1) / levels
    unit = torch.where(largest == 0, one, largest)
    unit = operators.expand(unit, axis, fmt.super_size, wanted.shape[axis])
    scale = torch.round(wanted / unit).clamp(1, 2**fmt.scale_bits - 1) * unit
    return torch.where(finite, scale, torch.nan)


def candidates(scale: Tensor, fmt: GroupFormat) -> list[Tensor]:
    """Scales to try, the given one first."""
    if not fmt.is_mx:
        return [scale * scale.new_full((), factor) for factor in FLOAT_FACTORS]
    codes = operators.scale_codes(scale, fmt.step_frac_bits).int()
    moved = [operators.power_of_two((codes + shift).clamp(0, 254), fmt.step_frac_bits) for shift in MX_SHIFTS]
    return [torch.where(scale.isnan(), scale, m) for m in moved]


def search_scale(tried: list[Tensor], squared_error: Callable[[Tensor], Tensor]) -> Tensor:
    """For every scale the candidate with the smallest error, the earlier one where two are equal."""
    best, least = tried[0], squared_error(tried[0])
    for scale in tried[1:]:
        error = squared_error(scale)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def tree_sum(x: Tensor, axis: int) -> Tensor:
    """Sum over `axis` by adding neighbours in pairs: the same roundings as the reference."""
    x = x.movedim(axis, -1)
    while x.shape[-1] > 1:
        if x.shape[-1] % 2:
            x = torch.cat([x, torch.zeros_like(x[..., :1])], -1)
        x = x[..., 0::2] + x[..., 1::2]
    return x[..., 0]
