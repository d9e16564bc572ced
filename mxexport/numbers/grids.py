"""Constant tensors as integers times a power of two (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Values that are integers times 2**exponent, none larger than `magnitude` (in integers)."""

    exponent: int
    magnitude: int
    signed: bool = True

    @property
    def bits(self) -> int:
        """Bits of the integers, the sign included."""
        return max(self.magnitude.bit_length() + self.signed, 1 + self.signed)

    def __add__(self, other: Grid) -> Grid:
        """The grid of sums, at the finer of the two steps."""
        lowest = min(self.exponent, other.exponent)
        magnitude = sum(g.magnitude << (g.exponent - lowest) for g in (self, other))
        return Grid(lowest, magnitude, self.signed or other.signed)

    def __mul__(self, other: Grid) -> Grid:
        """The grid of products."""
        return Grid(self.exponent + other.exponent, self.magnitude * other.magnitude, self.signed or other.signed)


def grid_of(values: np.ndarray) -> Grid:
    """The coarsest grid that holds every value of a finite float32 array."""
    mantissa, exponent = np.frexp(np.float64(values[values != 0]))
    if not mantissa.size:
        return Grid(0, 0)
    whole = np.abs(mantissa * 2.0**24).astype(np.int64)  # float32 has 24 significant bits
    zeros = np.log2(whole & -whole).astype(np.int64)  # trailing zeros: log2 of a power of two is exact
    lowest = int((exponent - 24 + zeros).min())
    largest = float(np.abs(values).max()) * 2.0**-lowest  # a whole number, exact in float64
    return Grid(lowest, int(largest), bool((values < 0).any()))
