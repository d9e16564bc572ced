"""Cycles of the pieces that products are made of, as mx_pkg states them for the RTL."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import Element


def sum_latency(terms: int) -> int:
    """mx_sum: one register for every two levels of its tree."""
    return ((terms - 1).bit_length() + 1) // 2


def mul_latency(a: Element, w: Element) -> int:
    """mx_mul: product of the mantissas and shift, each in one cycle or two."""
    a_exp, w_exp = (parts(e)[0] for e in (a, w))
    if fits_table(a, w) or not (a_exp or w_exp):
        return 1
    if not (a_exp and w_exp):
        return 3 if max(a_exp, w_exp) > 2 else 2
    if min(a_exp, w_exp) >= 2:
        return 3 if exponent_sum_bits(a_exp, w_exp) == 6 else 2
    return 2 if sum(2**exponent - 2 for exponent in (a_exp, w_exp)) > 3 else 1


def exponent_sum_bits(a_exp: int, w_exp: int) -> int:
    """Bits of the sum of two exponents that count from 1."""
    return (2**a_exp + 2**w_exp - 2).bit_length()


def sign_pending(a: Element, w: Element) -> bool:
    """Whether mx_mul leaves the sign to the adders behind it."""
    (a_exp, a_man), (w_exp, w_man) = (parts(e) for e in (a, w))
    if min(a_exp, w_exp) < 2 or fits_table(a, w):
        return True
    return a_exp + w_exp > 4 and exponent_sum_bits(a_exp, w_exp) == 5 and a_man + w_man + 5 > 8


def tree(terms: int, pending: bool = False) -> Iterator[tuple[int, int]]:
    """mx_tree, level by level: terms that come, and how many an adder takes: three, or two where signs are pending."""
    step = 2 if pending else 3
    while terms > 1:
        yield terms, step
        terms, step = math.ceil(terms / step), 3


def tree_levels(terms: int, pending: bool = False) -> int:
    """Cycles of mx_tree: a register behind each level."""
    return sum(1 for _ in tree(terms, pending))


def wide_digits(bits: int, step: int) -> int:
    """Digits of `step` bits of a signed integer, the uppermost with one bit more."""
    return 1 if bits <= step + 1 else math.ceil((bits - 1) / step)


def wide_steps(a_bits: int, b_bits: int) -> tuple[int, int]:
    """Bits of the digits that mx_wide_mul takes of its factors: 17 of the one, 26 of the other."""
    return min(((17, 26), (26, 17)), key=lambda steps: wide_digits(a_bits, steps[0]) * wide_digits(b_bits, steps[1]))


def wide_mul_slices(a_bits: int, b_bits: int) -> int:
    """Products of digits in mx_wide_mul, each in a DSP slice."""
    a, b = wide_steps(a_bits, b_bits)
    return wide_digits(a_bits, a) * wide_digits(b_bits, b)


def wide_mul_latency(a_bits: int, b_bits: int) -> int:
    """mx_wide_mul: the products of digits, then their sum."""
    return 1 + tree_levels(wide_mul_slices(a_bits, b_bits))


def divide_factors(width: int, shift: int) -> tuple[int, int]:
    """Bits of the factors of mx_divide: a magnitude, and the reciprocal; `shift`: bits that are added below."""
    return width + 1, width + shift + 2


def divide_latency(width: int, shift: int) -> int:
    """mx_divide."""
    return 4 + wide_mul_latency(*divide_factors(width, shift))


def factor_bits(factor: int) -> int:
    """Bits of a positive constant as a signed factor."""
    return factor.bit_length() + 1


def times_adds(factor: int) -> bool:
    """Whether mx_times is a shift, or a sum of two: constants of one or two ones."""
    return factor.bit_count() <= 2


def times_latency(width: int, factor: int) -> int:
    """mx_times."""
    return 1 if times_adds(factor) else wide_mul_latency(width, factor_bits(factor))


def norm_sums(width: int, length: int) -> tuple[int, int]:
    """Bits of the sum of so many values, and of their squares, in mx_norm_statistics."""
    more = (length - 1).bit_length()
    return width + more, 2 * width + more


def norm_statistics_latency(
    width: int, length: int, lanes: int, center: bool, slope_bits: int, within_bits: int
) -> int:
    """mx_norm_statistics, from the last beat of a vector; `within_bits`: below the address of a chord."""
    total, squares = norm_sums(width, length)
    multiply = max(times_latency(squares, length), wide_mul_latency(total, total) if center else 0)
    chord = wide_mul_latency(slope_bits, within_bits + 1)
    return 9 + wide_mul_latency(width, width) + sum_latency(lanes) + multiply + chord


def booth_latency(w_bits: int, simd: int) -> int:
    """mx_dot_booth: two lanes a cycle in a chain of up to four, the chains, the digits."""
    length, digits = min(simd, 4), math.ceil(w_bits / 2)
    return (2 if length > 2 else 1) + tree_levels(simd // length) + (digits > 1) + (digits > 3)


def dot_latency(a: Element, w: Element, simd: int, use_dsp: bool) -> int:
    """mx_dot: the product and the adder tree, or the Booth rows of integers in LUTs."""
    if not (use_dsp or parts(a)[0] or parts(w)[0]):
        return booth_latency(w.bits, simd)
    return mul_latency(a, w) + tree_levels(simd, sign_pending(a, w))


def encodes_wide(binades: int) -> bool:
    """Whether mx_encode_wide encodes elements of so many binades."""
    return binades > 5


def encode_latency(binades: int) -> int:
    """mx_encode_lane."""
    return 3 + 2 * encodes_wide(binades)


def quantize_tokens_latency(round_bias: int, binades: int) -> int:
    """mx_quantize_tokens, from a word of a block's last token to the first beat of codes, if that were its only token:
    the scale of a column, memories and encoder, codes in order."""
    return (8 if round_bias else 5) + 1 + encode_latency(binades) + 4


def quantize_latency(lanes: int, round_bias: int, binades: int) -> int:
    """mx_quantize_blocks, from the last beat of a block to the first of its codes."""
    return 6 + encode_latency(binades) + (1 if round_bias else -(lanes <= 4))


def rows_in_turn(pe: int, block_beats: int) -> int:
    """mx_matmul: rows that take turns at one shifter and accumulator; a block sum lasts for `block_beats` cycles."""
    return math.ceil(pe / math.ceil(pe / min(block_beats, 8)))


def pair_field(a_bits: int, w_bits: int) -> int:
    """Products of linear values that mx_dot_pair adds in pairs: their sum stays within the bits of the lower one."""
    low = 25 - w_bits if a_bits + w_bits <= 16 else 19
    return min(1 << (low + 1 - a_bits - w_bits), 16)


def pair_latency(a_bits: int, w_bits: int, simd: int) -> int:
    """mx_dot_pair: a cascade of up to four DSP slices, then packed sums, then those of either row."""
    field, length = min(simd, pair_field(a_bits, w_bits)), min(simd, 4)
    return length + 2 + (field // length - 1).bit_length() + tree_levels(simd // field)


def three_chains(simd: int) -> list[int]:
    """mx_dot_three: DSP slices, with three products each, of every cascade."""
    slices = math.ceil(simd / 3)
    length = math.ceil(slices / math.ceil(slices / 4))
    return [min(length, slices - start) for start in range(0, slices, length)]


def three_latency(simd: int) -> int:
    """mx_dot_three: a cascade, then the tree of these."""
    chains = three_chains(simd)
    return chains[0] + 2 + tree_levels(len(chains))


def fits_table(a: Element, w: Element) -> bool:
    """Whether mx_mul makes the product of two minifloats with one LUT per bit."""
    (a_exp, a_man), (w_exp, w_man) = (parts(e) for e in (a, w))
    return bool(a_exp and w_exp) and a_exp + a_man + w_exp + w_man <= 6


def parts(element: Element) -> tuple[int, int]:
    """Exponent and mantissa bits; no exponent: an integer."""
    p = fixedpoint.element_parameters(element)
    return p["exponent_bits"], p["mantissa_bits"]


def softmax_exp_latency(factor: int, distance_bits: int, low: int, slope_bits: int) -> int:
    """mx_softmax_exp; `low`: bits of a step within a chord."""
    return 7 + wide_mul_latency(distance_bits + 1, factor_bits(factor)) + wide_mul_latency(slope_bits, low + 1)


def softmax_latency(beats: int, lanes: int, exp: int, exp_bits: int, reciprocal_bits: int) -> int:
    """mx_softmax, from the last beat of a vector that comes to the last that goes; `exp`: cycles of mx_softmax_exp."""
    top, summed = 2 + (lanes - 1).bit_length(), sum_latency(lanes)
    shares = wide_mul_latency(exp_bits + 2, reciprocal_bits + 2) + 2
    return top + 1 + exp + 1 + summed + 2 + reciprocal_bits + 3 + shares + 2 * (beats - 1)
