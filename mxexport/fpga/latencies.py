"""Cycles of the pieces that products are made of, as mx_pkg states them for the RTL."""

from __future__ import annotations

from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import Element


def sum_latency(terms: int) -> int:
    """mx_sum: one register for every two levels of its tree."""
    return ((terms - 1).bit_length() + 1) // 2


def mul_latency(a: Element, w: Element) -> int:
    """mx_mul: a mantissa product that is shifted far is registered before the shift."""
    (a_exp, a_man), (w_exp, w_man) = (_bits(e) for e in (a, w))
    if a_exp and w_exp and a_exp + a_man + w_exp + w_man <= 6:
        return 1
    span = sum(2**exponent - 2 for exponent in (a_exp, w_exp) if exponent)
    return 2 if span > 3 else 1


def dot_latency(a: Element, w: Element, simd: int) -> int:
    """mx_dot: the product, then one register for every two levels of the adder tree."""
    return mul_latency(a, w) + sum_latency(simd)


def pair_field(a_bits: int, w_bits: int) -> int:
    """Products of linear values whose sum mx_dot_pair keeps within 19 bits."""
    return 16 if a_bits + w_bits <= 16 else 8


def pair_latency(a_bits: int, w_bits: int, simd: int) -> int:
    """mx_dot_pair: a cascade of up to four DSP slices, then binary sums, then two packed ones."""
    most, length = pair_field(a_bits, w_bits), min(simd, 4)
    return length + 2 + (min(simd, most) // length - 1).bit_length() + (simd > most)


def _bits(element: Element) -> tuple[int, int]:
    p = fixedpoint.element_parameters(element)
    return p["exponent_bits"], p["mantissa_bits"]
