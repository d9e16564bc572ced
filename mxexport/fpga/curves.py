"""Smooth functions as hardware computes them: a bounded curve in straight segments, exact by definition from there on.

GELU, SiLU and their like, x f(x) with f(-x) = 1 - f(x), are relu(x) - c(|x|) with c(u) = u f(-u): bounded, and 0 at
both ends, so that no large x saturates and relu(x) is exact. tanh is odd, and sigmoid(x) = 1/2 + tanh(x/2)/2. Segments
are as long as the gaps between minifloats: fine close to 0, where results are small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SEGMENT_BITS, OCTAVES = 4, 7
"""16 segments an octave, 128 in all: a table of two LUTs a bit."""
TANH_ARGUMENT = (math.sqrt(2 / math.pi), 0.044715)
"""k and a of GELU's tanh form, x/2 (1 + tanh(k (x + a x**3))): Hendrycks and Gimpel, arXiv:1606.08415."""


@dataclass(frozen=True)
class Function:
    """`curve` (float64 -> float64, of |x| below 2**reach) reaches `limit` there. With `gate` the function is relu(x) -
    curve(|x|), else `offset` + sign(x) curve(|x|). `error`: how far hardware is off at most, rounding of its input
    apart."""

    curve: Callable[[float], float]
    reach: int
    error: float
    gate: bool = True
    offset: float = 0.0
    limit: float = 0.0
    words: str = ""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The function itself, float64."""
        size = np.abs(np.asarray(x, np.float64))
        curve = np.vectorize(self.curve, otypes=[float])(np.minimum(size, 700))  # exp overflows above
        if self.gate:
            return np.maximum(x, 0) - curve
        return self.offset + np.sign(x) * curve


def _tanh_gelu(u: float) -> float:
    k, a = TANH_ARGUMENT
    return u / (1 + math.exp(min(2 * k * (u + a * u**3), 700)))


FUNCTIONS = {
    "gelu": Function(lambda u: u * math.erfc(u / math.sqrt(2)) / 2, 3, 1.25e-4, words="GELU"),
    "gelu_tanh": Function(_tanh_gelu, 3, 1.25e-4, words="GELU in its tanh form"),
    "silu": Function(lambda u: u / (1 + math.exp(u)), 4, 1.4e-4, words="x * sigmoid(x)"),
    "sigmoid": Function(lambda u: math.tanh(u / 2) / 2, 4, 8.5e-5, False, 0.5, 0.5, words="sigmoid"),
    "tanh": Function(math.tanh, 3, 1.65e-4, False, 0.0, 1.0, words="tanh"),
}
"""What hardware has units for."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The numbers of operator WideActivation; `base` and `slope` int64, all in steps of 2**-fraction."""

    base: np.ndarray
    slope: np.ndarray
    fraction: int
    segment_bits: int
    position_bits: int
    octaves: int
    gate: int
    offset: int
    limit: int

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
        both = np.concatenate([self.base, self.base + self.slope, [self.limit]])
        return int(both.min()), int(both.max())


def curve_of(name: str, fraction: int) -> Curve:
    """The curve of one of FUNCTIONS on |x| of so many fraction bits: in each segment the chord, moved so that the
    largest errors on both sides are equal. The first one starts at 0, where all of them are 0."""
    function = FUNCTIONS[name]
    position_bits = fraction + function.reach - OCTAVES - SEGMENT_BITS
    pieces = 1 << SEGMENT_BITS
    starts = np.concatenate([np.arange(pieces), *(np.arange(pieces, 2 * pieces) << d for d in range(OCTAVES))])
    lengths = np.repeat(1 << np.maximum(np.arange(OCTAVES + 1) - 1, 0), pieces)
    inside = np.linspace(0, 1, 33)
    points = np.ldexp(starts[:, None] + lengths[:, None] * inside, position_bits - fraction)
    values = np.vectorize(function.curve)(points)
    chord = values[:, -1] - values[:, 0]
    off = values - values[:, :1] - chord[:, None] * inside
    base = np.rint(np.ldexp(values[:, 0] + (off.max(1) + off.min(1)) / 2, fraction)).astype(np.int64)
    base[0] = 0
    slope = np.maximum(np.rint(np.ldexp(chord, fraction)).astype(np.int64), -base)  # never below 0
    ends = (round(math.ldexp(x, fraction)) for x in (function.offset, function.limit))
    return Curve(base, slope, fraction, SEGMENT_BITS, position_bits, OCTAVES, int(function.gate), *ends)
