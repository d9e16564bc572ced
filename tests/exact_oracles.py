"""Number formats once more, from the specifications alone: Python integers and Fractions, no mxexport, no numpy.

Slow and obvious on purpose. The tests compare mxexport.numerics and mxexport.fixedpoint with these.
"""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from functools import cache

INF, NAN = "inf", "nan"


def two_to(exponent: int) -> Fraction:
    return Fraction(2**exponent) if exponent >= 0 else Fraction(1, 2**-exponent)


def floor_log2(x: Fraction) -> int:
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if two_to(guess) <= x else guess - 1


def ceil_log2(x: Fraction) -> int:
    return floor_log2(x) + (x != two_to(floor_log2(x)))


def round_half_even(x: Fraction) -> int:
    return round(x)  # Python rounds a Fraction exactly, ties to even


# --- minifloats: OCP MX v1.0 section 5.3, OCP FP8 v1.0 section 5 ------------------------------------------------


@cache
def magnitudes(exponent_bits: int, mantissa_bits: int, specials: str) -> tuple[Fraction | str, ...]:
    """The value of every code with sign bit 0. fnuz formats differ in the bias only; their NaN has sign bit 1."""
    bias = 2 ** (exponent_bits - 1) - 1 + (specials == "fnuz")
    values: list[Fraction | str] = []
    for field in range(2**exponent_bits):
        for mantissa in range(2**mantissa_bits):
            top_field, top_mantissa = field == 2**exponent_bits - 1, mantissa == 2**mantissa_bits - 1
            fraction = Fraction(mantissa, 2**mantissa_bits)
            if specials == "ieee" and top_field:
                values.append(INF if mantissa == 0 else NAN)
            elif specials == "nan" and top_field and top_mantissa:
                values.append(NAN)
            elif field == 0:
                values.append(fraction * two_to(1 - bias))
            else:
                values.append((1 + fraction) * two_to(field - bias))
    return tuple(values)


@cache
def finite_magnitudes(exponent_bits: int, mantissa_bits: int, specials: str) -> tuple[Fraction, ...]:
    return tuple(v for v in magnitudes(exponent_bits, mantissa_bits, specials) if isinstance(v, Fraction))


def nearest_float_code(x: Fraction, exponent_bits: int, mantissa_bits: int, specials: str) -> int:
    """Code of |x| rounded to nearest and saturated; on a tie the even significand.

    With no mantissa bits every normal significand is 1, hence odd: IEEE 754-2019 section 4.3.1 then takes the
    larger magnitude (and zero, which is even, beats the smallest number).
    """
    values, x = finite_magnitudes(exponent_bits, mantissa_bits, specials), abs(x)
    below = bisect_right(values, x) - 1
    if below == len(values) - 1:
        return below
    to_below, to_above = x - values[below], values[below + 1] - x
    if to_below != to_above:
        return below + (to_above < to_below)
    prefer_below = below % 2 == 0 if mantissa_bits else below == 0
    return below if prefer_below else below + 1


# --- the shared exponent: OCP MX v1.0 section 6.3 and the three other published rules ---------------------------


def shared_exponent(amax: Fraction, rule: str, emax: int, mantissa_bits: int, max_val: Fraction) -> int:
    """Exponent of the shared scale before it is clamped to E8M0, for amax > 0."""
    if rule == "floor":
        return floor_log2(amax) - emax
    if rule == "ceil":
        return ceil_log2(amax) - emax
    if rule == "even":  # round amax to the element's mantissa first, halves up
        step = two_to(floor_log2(amax) - mantissa_bits)
        return floor_log2((amax / step + Fraction(1, 2)).__floor__() * step) - emax
    assert rule == "rceil"
    return ceil_log2(amax / max_val)


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)
