"""Which scale rule a run-time quantizer of Brevitas follows: measured on the quantizer, then checked on edge values.

Brevitas' power-of-two scale is 2^r(log2(amax)) / 2^floor(log2(T)), with r one of floor, ceil, round or mid-max. Each r
is an integer addition on the float32 bits of amax (`round_bias` of `MXScale`); the addend is found by bisection.
Brevitas' float32 log2 misrounds a few values right beside the point where r steps; ours does not. That, and groups
below Brevitas' smallest statistic, are the only differences that `check_rule` lets pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mxexport.errors import UnsupportedError
from mxexport.frontends.brevitas.quantizers import AmaxRule, Elements, MXRule, RangeRule, equal_bits
from mxexport.numbers.formats import FloatElement

# The widest stretch beside a step, in units of the last place, that a float32 log2 gets wrong for exponents up to 127.
LOG2_ERROR = 64
_MANTISSA = 1 << 23

GroupFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Groups [P, G] -> (dequantized values [P, G], scales [P])."""


def as_groups(quantize: Callable[[Tensor], tuple[Tensor, Tensor]], axis: int, rank: int) -> GroupFunction:
    """Feeds groups [P, G] to a quantizer of tensors of `rank` (at least 2) that groups along `axis`."""
    at = axis % rank

    def run(groups: Tensor) -> tuple[Tensor, Tensor]:
        shape = [1] * rank
        shape[at], shape[0 if at else 1] = groups.shape[1], groups.shape[0]
        value, scale = quantize((groups if at else groups.T).reshape(shape))
        value = value.reshape(groups.shape if at else groups.T.shape)
        return value if at else value.T, scale.reshape(-1)

    return run


def one_by_one(quantize: Callable[[Tensor], tuple[Tensor, Tensor]]) -> GroupFunction:
    """Feeds groups [P, G], each as a tensor [1, G], to a quantizer that has one scale for all."""

    def run(groups: Tensor) -> tuple[Tensor, Tensor]:
        values, scales = zip(*(quantize(group[None]) for group in groups), strict=True)
        return torch.cat(values), torch.stack([scale.reshape(()) for scale in scales])

    return run


def measure_rule(name: str, quantize: GroupFunction, elements: Elements) -> MXRule | AmaxRule:
    """The scale rule of `quantize`.

    Raises:
        UnsupportedError: neither a power of two of the largest magnitude nor a fraction of it.
    """

    def scale_of(amax: Tensor) -> Tensor:
        groups = torch.zeros(len(amax), elements.group_size)
        groups[:, 0] = amax
        return quantize(groups)[1]

    probes = torch.tensor([1.0, 1.25, 1.4, 1.5, 1.75, 1.9999, 3.0, 1000.0, 1e-3])
    scales = scale_of(probes)
    smallest = scale_of(torch.zeros(1))[0]
    if (torch.frexp(scales).mantissa == 0.5).all():
        return _mx_rule(scale_of, smallest, elements)
    for levels in _possible_levels(elements):
        if torch.equal(probes / torch.tensor(levels), scales):
            return AmaxRule(levels, float(smallest))
    raise UnsupportedError(
        "from_brevitas: a run-time scale follows no rule that can be exported",
        [(name, f"scales {scales[:4].tolist()} for largest magnitudes {probes[:4].tolist()}")],
    )


def _possible_levels(elements: Elements) -> list[float]:
    if isinstance(elements.element, FloatElement):
        return [elements.element.max_val]
    low, high = elements.code_limits
    return [float(v) for v in dict.fromkeys((-low, high, high + 1)) if v > 0]


def _mx_rule(scale_of, smallest: Tensor, elements: Elements) -> MXRule:
    base = scale_of(torch.ones(1))[0]
    low, high = 0, _MANTISSA  # mantissas: at `low` the scale is still the base, at `high` it has stepped
    while high - low > 1:
        middle = (low + high) // 2
        stepped = scale_of((torch.tensor([middle]) + 127 * _MANTISSA).int().view(torch.float32))[0] > base
        low, high = (low, middle) if stepped else (middle, high)
    fraction = elements.format(True).step_frac_bits
    exponent = int(torch.frexp(base).exponent) - 1
    code_min = 0
    if torch.isfinite(smallest) and smallest > 0:
        code_min = max(0, int(torch.frexp(smallest).exponent) - 1 + 127 + fraction)
    return MXRule(-exponent - fraction, _MANTISSA - high, fraction, code_min)


def is_one_bit_short(rule: MXRule | AmaxRule | RangeRule, elements: Elements) -> bool:
    """True where the largest value of a group can be twice what its codes reach (Brevitas' MXInt8)."""
    if not isinstance(rule, MXRule) or isinstance(elements.element, FloatElement):
        return False
    largest = 2.0 - rule.round_bias / _MANTISSA
    return largest / (elements.code_limits[1] * 2.0 ** -(rule.emax + rule.frac_bits)) >= 1.5


# --- check ----------------------------------------------------------------------------------------------------


def check_rule(
    name: str,
    theirs: GroupFunction,
    ours: GroupFunction,
    rule: MXRule | AmaxRule | RangeRule,
    elements: Elements,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Compare on edge values of `dtype`, bit for bit.

    Raises:
        UnsupportedError: a difference that is none of those this module's docstring names.
    """
    groups = edge_groups(elements.group_size).to(dtype).float()
    expected, actual = theirs(groups)[0], ours(groups)[0]
    same = equal_bits(expected, actual).all(1)
    unexplained = ~same & ~known_difference(groups, rule, dtype)
    if unexplained.any():
        row = int(torch.argwhere(unexplained)[0])
        at = int(torch.argwhere(~equal_bits(expected[row], actual[row]))[0])
        raise UnsupportedError(
            "from_brevitas: a run-time quantizer cannot be reproduced bit for bit",
            [(name, f"{float(groups[row, at])!r} gives {float(expected[row, at])!r} in Brevitas and "
                    f"{float(actual[row, at])!r} here ({int(unexplained.sum())} of {len(groups)} probes)")],
        )  # fmt: skip


def without_integer_minus_zero(value: Tensor, elements: Elements) -> Tensor:
    """Integer and fnuz codes have no -0."""
    signed_zero = isinstance(elements.element, FloatElement) and elements.element.signed_zero and elements.signed
    return value if signed_zero else value + 0.0


def known_difference(groups: Tensor, rule: MXRule | AmaxRule | RangeRule, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows [P] where Brevitas' log2, of `dtype`, may misround, or which lie below its smallest statistic."""
    if not isinstance(rule, MXRule):
        return torch.zeros(len(groups), dtype=torch.bool)
    bits = (groups.abs().amax(1).view(torch.int32)).long() + rule.round_bias
    beside = ((bits + LOG2_ERROR) >> 23) != ((bits - LOG2_ERROR) >> 23)
    if dtype == torch.bfloat16:  # 8 bits hold log2 to 2**-9 of it; subtracting mid-max's constant rounds again
        steps = torch.log2(groups.double().abs().amax(1)) - math.log2(2 - rule.round_bias / _MANTISSA)
        beside |= (steps - steps.round()).abs() <= (steps.abs() + 1) * 2**-7
    return beside | ((bits >> 23) - rule.emax <= rule.code_min)


def edge_groups(group_size: int) -> Tensor:
    """Groups [P, G] that hurt: zeros, -0, NaN, Inf, every binade, right beside powers of two, ties, tiny values."""
    generator = torch.Generator().manual_seed(0)
    exponents = torch.arange(-40, 110).float()
    normal = torch.randn(len(exponents), group_size, generator=generator)
    ramp = torch.linspace(-1, 1, group_size)
    powers = torch.exp2(exponents)
    rows = [
        normal * powers[:, None],
        torch.nextafter(powers, torch.tensor(0.0))[:, None] * ramp,
        torch.nextafter(powers, torch.tensor(torch.inf))[:, None] * ramp,
        powers[:, None] * ramp,
        (torch.arange(group_size) - group_size // 2)[None] / torch.exp2(torch.arange(8.0))[:, None],
        torch.zeros(1, group_size),
        torch.full((1, group_size), -0.0),
        torch.full((1, group_size), 1e-30),
        normal[:8].abs() + 1,
        -normal[:8].abs() - 1,
        torch.full((1, group_size), -3.0),
    ]
    special = normal[:3].clone()
    special[0, 0], special[1, 0], special[2, -1] = torch.nan, torch.inf, -torch.inf
    return torch.cat([*rows, special])
