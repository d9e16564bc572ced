"""Which integers a tensor holds, as an interval on a fixed-point grid: interval arithmetic of targets and hardware."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Values that are integers from `low` to `high`, each worth value * 2**exponent. Any size: Python integers."""

    exponent: int
    low: int
    high: int

    @classmethod
    def within(cls, exponent: int, magnitude: int, signed: bool = True) -> Grid:
        """Integers none larger than `magnitude`, in both directions where `signed`."""
        return cls(exponent, -magnitude if signed else 0, magnitude)

    @classmethod
    def of_width(cls, exponent: int, width: int) -> Grid:
        """All integers of `width` bits in two's complement."""
        return cls(exponent, -(1 << (width - 1)), (1 << (width - 1)) - 1)

    @property
    def magnitude(self) -> int:
        return max(-self.low, self.high)

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def bits(self) -> int:
        """Bits of the integers; two's complement where some are negative."""
        if not self.signed:
            return max(self.high.bit_length(), 1)
        return max((-self.low - 1).bit_length(), self.high.bit_length(), 1) + 1

    @property
    def width(self) -> int:
        """Bits in two's complement whether or not some are negative: of a signed stream or accumulator; 2 at least."""
        return max(self.bits + (not self.signed), 2)

    def at(self, exponent: int) -> Grid:
        """The same values on a grid that is not coarser."""
        shift = self.exponent - exponent
        return Grid(exponent, self.low << shift, self.high << shift)

    def clipped(self, low: int, high: int) -> Grid:
        return Grid(self.exponent, *(min(max(end, low), high) for end in (self.low, self.high)))

    def __add__(self, other: Grid) -> Grid:
        """The grid of sums, at the finer of the two steps."""
        a, b = self._aligned(other)
        return Grid(a.exponent, a.low + b.low, a.high + b.high)

    def __or__(self, other: Grid) -> Grid:
        """The grid of what is one or the other, at the finer of the two steps."""
        a, b = self._aligned(other)
        return Grid(a.exponent, min(a.low, b.low), max(a.high, b.high))

    def __mul__(self, other: Grid) -> Grid:
        """The grid of products."""
        corners = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Grid(self.exponent + other.exponent, min(corners), max(corners))

    def _aligned(self, other: Grid) -> tuple[Grid, Grid]:
        finer = min(self.exponent, other.exponent)
        return self.at(finer), other.at(finer)


def grid_of(values: np.ndarray) -> Grid:
    """The coarsest grid that holds every value of a finite float32 array, as far as its largest magnitude."""
    mantissa, exponent = np.frexp(np.float64(values[values != 0]))
    if not mantissa.size:
        return Grid(0, 0, 0)
    whole = np.abs(mantissa * 2.0**24).astype(np.int64)  # float32 has 24 significant bits
    zeros = np.log2(whole & -whole).astype(np.int64)  # trailing zeros: log2 of a power of two is exact
    lowest = int((exponent - 24 + zeros).min())
    largest = float(np.abs(values).max()) * 2.0**-lowest  # a whole number, exact in float64
    return Grid.within(lowest, int(largest), bool((values < 0).any()))
