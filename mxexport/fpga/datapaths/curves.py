"""Smooth functions as hardware computes them: a bounded curve in straight segments, exact by definition from there on.

GELU, SiLU and their like, x f(x) with f(-x) = 1 - f(x), are relu(x) - c(|x|) with c(u) = u f(-u): bounded, and 0 at
both ends, so that no large x saturates and relu(x) is exact. Mish and ELU have a c of their own for negative x;
softplus is relu(x) + c(|x|). tanh is odd, and sigmoid(x) = 1/2 + tanh(x/2)/2. Segments are as long as the gaps between
minifloats: fine close to 0, where results are small.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

SEGMENT_BITS, OCTAVES = 4, 7
"""16 segments an octave, 128 in all: a table of two LUTs a bit."""
_PLACES = 17
"""Bits of a place inside the longest segments, which a DSP48E2 multiplies."""
_FARTHEST = 6
"""Binary logarithm of |x| where curves end at most: 16 fraction bits are left."""
_ROUNDING = 2.0**-15
"""Of bases, slopes and products, at 16 fraction bits."""
TANH_ARGUMENT = (math.sqrt(2 / math.pi), 0.044715)
"""k and a of GELU's tanh form, x/2 (1 + tanh(k (x + a x**3))): Hendrycks and Gimpel, arXiv:1606.08415."""


@dataclass(frozen=True)
class Function:
    """`curve` (float64 -> float64, of |x| below 2**reach) reaches `limit` there; `low` and `low_limit` of negative x,
    where those differ. With `gate` 1 the function is relu(x) - curve(|x|), with 2 relu(x) + curve(|x|), else `offset` +
    sign(x) curve(|x|). `error`: how far hardware is off at most, rounding of its input apart. `steepest`: the largest
    slope."""

    curve: Callable[[float], float]
    reach: int
    error: float
    gate: int = 1
    offset: float = 0.0
    limit: float = 0.0
    words: str = ""
    steepest: float = 1.13
    low: Callable[[float], float] | None = None
    low_limit: float = 0.0

    @property
    def sides(self) -> list[tuple[Callable[[float], float], float]]:
        """Curve and limit of positive x, then those of negative x, where they have their own."""
        return [(self.curve, self.limit), *([] if self.low is None else [(self.low, self.low_limit)])]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The function itself, float64."""
        size = np.abs(np.asarray(x, np.float64))
        curves = [np.vectorize(f, otypes=[float])(np.minimum(size, 350)) for f, _ in self.sides]  # exp overflows
        curve = np.where(np.asarray(x) < 0, curves[-1], curves[0])
        if self.gate:
            return np.maximum(x, 0) + (curve if self.gate == 2 else -curve)
        return self.offset + np.sign(x) * curve


def _twice(u: float) -> float:
    """exp(2 softplus(u)) - 1: Mish is u times that over 2 more."""
    e = math.exp(u)
    return e * (e + 2)


def _tanh_gelu(u: float) -> float:
    k, a = TANH_ARGUMENT
    return u / (1 + math.exp(min(2 * k * (u + a * u**3), 700)))


FUNCTIONS = {
    "gelu": Function(lambda u: u * math.erfc(u / math.sqrt(2)) / 2, 3, 1.25e-4, words="GELU"),
    "gelu_tanh": Function(_tanh_gelu, 3, 1.25e-4, words="GELU in its tanh form"),
    "silu": Function(lambda u: u / (1 + math.exp(u)), 4, 1.4e-4, words="x * sigmoid(x)"),
    "sigmoid": Function(lambda u: math.tanh(u / 2) / 2, 4, 8.5e-5, 0, 0.5, 0.5, words="sigmoid"),
    "tanh": Function(math.tanh, 3, 1.65e-4, 0, 0.0, 1.0, words="tanh"),
    "softplus": Function(lambda u: math.log1p(math.exp(-u)), 4, 1.1e-4, 2, words="softplus"),
    "mish": Function(lambda u: 2 * u / (2 + _twice(u)), 4, 1.4e-4, words="Mish",
                     low=lambda u: u * _twice(-u) / (2 + _twice(-u))),
}  # fmt: skip
"""What hardware has units for, beside those of `function_of` with numbers of their own."""


# --- functions with numbers of their own ------------------------------------------------------------------------------

_CLOSE = 1e-5
"""How far a curve may be from its limit where that begins."""


@functools.cache
def function_of(name: str) -> Function:
    """One of FUNCTIONS, or of what `silu`, `softplus`, `elu` and `hard_sigmoid` name. Raises ValueError for numbers
    that no table holds."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    kind, numbers = re.fullmatch(r"(\w+)\((.*)\)", name).groups()
    made = _FAMILIES[kind](*(float(n) for n in numbers.split(",")))
    if not -OCTAVES <= made.reach <= _FARTHEST:
        raise ValueError(f"its numbers, {name}, need a curve up to 2**{made.reach}; at most 2**{_FARTHEST} has a table")
    errors = [_chords(made.reach, side)[2].max() + abs(side(2.0**made.reach) - end) for side, end in made.sides]
    return replace(made, error=float(max(errors)) + _ROUNDING)


def silu(factor: float) -> str:
    """x * sigmoid(factor * x); quick GELU has 1.702."""
    return "silu" if factor == 1 else f"silu({factor!r})"


def softplus(factor: float) -> str:
    """log(1 + exp(factor * x)) / factor."""
    return "softplus" if factor == 1 else f"softplus({factor!r})"


def elu(height: float, length: float) -> str:
    """x, of negative x height * (exp(x / length) - 1): ELU has a length of 1, CELU one of its height."""
    return f"elu({height!r},{length!r})"


def hard_sigmoid(slope: float, offset: float) -> str:
    """slope * x + offset, between 0 and 1."""
    return f"hard_sigmoid({slope!r},{offset!r})"


def _positive(words: str, *numbers: float) -> None:
    if not all(0 < n < math.inf for n in numbers):
        raise ValueError(f"it is {words} with {', '.join(f'{n:g}' for n in numbers)}; expected positive numbers")


def _silu(k: float) -> Function:
    _positive("x * sigmoid(k x)", k)
    reach = _reach(math.log(2 / _CLOSE) / k)
    return Function(lambda u: u / (1 + math.exp(min(k * u, 700))), reach, 0, words=f"x * sigmoid({k:.6g} x)")


def _softplus(k: float) -> Function:
    _positive("log(1 + exp(k x)) / k", k)
    reach = _reach(math.log(1 / _CLOSE) / k)
    return Function(lambda u: math.log1p(math.exp(-k * u)) / k, reach, 0, 2, words=f"softplus of {k:.6g} x")


def _elu(height: float, length: float) -> Function:
    _positive("an ELU", height, length)
    return Function(
        lambda u: 0.0, _reach(length * math.log(max(height, 1) / _CLOSE)), 0,
        words=_elu_words(height, length), steepest=max(height / length, 1),
        low=lambda u: -height * math.expm1(-u / length), low_limit=height,
    )  # fmt: skip


def _elu_words(height: float, length: float) -> str:
    if length == 1:
        return "ELU" if height == 1 else f"ELU of alpha {height:.6g}"
    return f"CELU of alpha {height:.6g}" if height == length else f"SELU, of negative x down to {-height:.6g}"


def _hard_sigmoid(slope: float, offset: float) -> Function:
    _positive("a hard sigmoid", slope)
    if offset != 0.5:
        raise ValueError(f"its beta is {offset:g}; expected 0.5")
    words = f"hard sigmoid, {slope:.6g} x + 1/2"
    reach = _reach(0.5 / slope)
    return Function(lambda u: min(slope * u, 0.5), reach, 0, 0, 0.5, 0.5, words, steepest=slope)


_FAMILIES = {"silu": _silu, "softplus": _softplus, "elu": _elu, "hard_sigmoid": _hard_sigmoid}


def _reach(end: float) -> int:
    """The binary logarithm of the first power of two from `end` on."""
    return math.ceil(math.log2(end))


@dataclass(frozen=True, eq=False)
class Curve:
    """The numbers of operator WideActivation; `base` and `slope` int64, all in steps of 2**-fraction."""

    base: np.ndarray
    slope: np.ndarray
    fraction: int
    segment_bits: int
    position_bits: int
    octaves: int
    sides: int
    gate: int
    offset: int
    limit: int
    low_limit: int

    @property
    def places(self) -> int:
        """Bits of a place inside the longest segments."""
        return self.position_bits + self.octaves - 1

    @property
    def range(self) -> int:
        """Bits of |x| before the last segment ends."""
        return self.segment_bits + self.position_bits + self.octaves

    @property
    def ends(self) -> tuple[int, int]:
        """The lowest and the highest value: segments are straight."""
        both = np.concatenate([self.base, self.base + self.slope, [self.limit, self.low_limit]])
        return int(both.min()), int(both.max())


def most_fraction(name: str) -> int:
    """Fraction bits of |x| at most: a place inside a segment fits a DSP48E2."""
    return min(_PLACES + 1 + SEGMENT_BITS - function_of(name).reach, 18)


def curve_of(name: str, fraction: int) -> Curve:
    """The curve of a function on |x| of so many fraction bits: in each segment the chord, moved so that the largest
    errors on both sides are equal. The first one starts where the function does."""
    function = function_of(name)
    position_bits = fraction + function.reach - OCTAVES - SEGMENT_BITS
    tables = [_table(side, function.reach, fraction) for side, _ in function.sides]
    base, slope = (np.concatenate(parts) for parts in zip(*tables, strict=True))
    limits = function.sides[0][1], function.sides[-1][1]
    offset, limit, low_limit = (round(math.ldexp(x, fraction)) for x in (function.offset, *limits))
    shape = (SEGMENT_BITS, position_bits, OCTAVES, len(tables))
    return Curve(base, slope, fraction, *shape, function.gate, offset, limit, low_limit)


def _table(curve: Callable[[float], float], reach: int, fraction: int) -> tuple[np.ndarray, np.ndarray]:
    """Base and slope of every segment, in steps of 2**-fraction."""
    middle, chord, _ = _chords(reach, curve)
    base = np.rint(np.ldexp(middle, fraction)).astype(np.int64)
    base[0] = round(math.ldexp(curve(0.0), fraction))
    return base, np.maximum(np.rint(np.ldexp(chord, fraction)).astype(np.int64), -base)  # never below 0


def _chords(reach: int, curve: Callable[[float], float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every segment of a curve on |x| below 2**reach: where its chord starts, moved to the middle of the errors; by
    how much it rises; and how far it is off, of the first, which is not moved, twice that."""
    pieces = 1 << SEGMENT_BITS
    starts = np.concatenate([np.arange(pieces), *(np.arange(pieces, 2 * pieces) << d for d in range(OCTAVES))])
    lengths = np.repeat(1 << np.maximum(np.arange(OCTAVES + 1) - 1, 0), pieces)
    inside = np.linspace(0, 1, 33)
    points = np.ldexp(starts[:, None] + lengths[:, None] * inside, reach - OCTAVES - SEGMENT_BITS)
    values = np.vectorize(curve, otypes=[float])(points)
    chord = values[:, -1] - values[:, 0]
    off = values - values[:, :1] - chord[:, None] * inside
    return values[:, 0] + (off.max(1) + off.min(1)) / 2, chord, (off.max(1) - off.min(1)) / 2 * (1 + (starts == 0))
