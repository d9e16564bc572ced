"""Compares two arrays value by value, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from mxexport.errors import OptionError, ShapeError
from mxexport.numbers.bits import equal_bits, is_float

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Tolerance:
    """A value may differ when |a - b| <= atol + rtol * |b|, or by at most `max_ulp` float steps. All 0: equal bits."""

    rtol: float = 0.0
    atol: float = 0.0
    max_ulp: int = 0

    def __post_init__(self):
        for name, value in vars(self).items():
            number = isinstance(value, Integral if name == "max_ulp" else Real) and not isinstance(value, bool)
            if not (number and 0 <= value < np.inf):
                kind = "whole" if name == "max_ulp" else "finite"
                raise OptionError(f"tolerance: {name} is {value!r}; expected a {kind} number that is not negative")

    @property
    def exact(self) -> bool:
        return not (self.rtol or self.atol or self.max_ulp)

    def __str__(self) -> str:
        parts = [f"{name} {value:g}" for name, value in vars(self).items() if value]
        return " or ".join(parts) or "bit for bit"


EXACT = Tolerance()


def check_tolerance(tolerance) -> Tolerance:
    """`tolerance` itself. Raises OptionError for anything but a Tolerance."""
    if not isinstance(tolerance, Tolerance):
        raise OptionError(
            f"tolerance {tolerance!r}: expected mxexport.running.verification.Tolerance(rtol=, atol=, max_ulp=)"
        )
    return tolerance


@dataclass(frozen=True)
class TensorComparison:
    """One tensor in both models. `differing` counts unequal bit patterns, `outside` those beyond the tolerance.

    `index` and `found` are place and values of the first outside the tolerance. `max_ulp` is taken over pairs of
    numbers of one float type (None elsewhere), `sqnr_db` is None where nothing differs or it is not finite. `problem`
    says why the two could not be compared at all.
    """

    name: str
    dtype: str
    shape: list[int]
    values: int
    differing: int = 0
    outside: int = 0
    index: list[int] | None = None
    found: list[str] | None = None
    max_ulp: int | None = None
    max_abs: float | None = None
    sqnr_db: float | None = None
    problem: str | None = None

    @property
    def equal(self) -> bool:
        return self.problem is None and self.outside == 0


def compare(name: str, a: np.ndarray, b: np.ndarray, tolerance: Tolerance = EXACT) -> TensorComparison:
    """Compare two arrays; mapped ones are read a block at a time. Differing shapes or dtypes become its `problem`.

    Raises ShapeError for what is no array, OptionError for a tolerance that is none.
    """
    check_tolerance(tolerance)
    for which, array in (("first", a), ("second", b)):
        if not isinstance(array, (np.ndarray, np.generic)):
            raise ShapeError(f"compare {name!r}: the {which} is {type(array).__name__}; expected a numpy array")
    common = {"name": name, "dtype": str(a.dtype), "shape": list(a.shape), "values": a.size}
    if a.shape != b.shape or a.dtype != b.dtype:
        problem = f"{a.dtype} {tuple(a.shape)} in the first model, {b.dtype} {tuple(b.shape)} in the second"
        return TensorComparison(**common, problem=problem)
    differing = outside = 0
    first = worst = largest = None
    signal = noise = 0.0
    for start, x, y in _blocks(a, b):
        unequal = ~equal_bits(x, y)
        if not unequal.any():
            signal += _energy(x)
            continue
        beyond = unequal & ~_within(x, y, tolerance)
        differing, outside = differing + int(unequal.sum()), outside + int(beyond.sum())
        if first is None and beyond.any():
            first = start + int(beyond.argmax())
        if x.dtype.kind not in "OSUb":
            wide_x, wide_y = x[unequal].astype(np.float64), y[unequal].astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                error = np.abs(wide_x - wide_y)
                signal, noise = signal + _energy(x), noise + float((error**2).sum())
            largest = _larger(largest, error[~np.isnan(error)])
            worst = _larger(worst, _ulps(x[unequal], y[unequal]))
    found = None if first is None else [str(a.reshape(-1)[first]), str(b.reshape(-1)[first])]
    return TensorComparison(
        **common,
        differing=differing,
        outside=outside,
        index=None if first is None else [int(i) for i in np.unravel_index(first, a.shape)],
        found=found,
        max_ulp=None if worst is None else int(worst),
        max_abs=None if largest is None or not np.isfinite(largest) else float(largest),
        sqnr_db=_sqnr(signal, noise),
    )


def _blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    for start in range(0, a.size, _BLOCK):
        yield start, np.asarray(flat_a[start : start + _BLOCK]), np.asarray(flat_b[start : start + _BLOCK])


def _within(a: np.ndarray, b: np.ndarray, tolerance: Tolerance) -> np.ndarray:
    if tolerance.exact or a.dtype.kind in "OSUb":
        return np.zeros(a.shape, bool)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(wide_a - wide_b)
        near = np.isfinite(error) & (error <= tolerance.atol + tolerance.rtol * np.abs(wide_b))
    if tolerance.max_ulp and is_float(a.dtype):
        numbers = ~(np.isnan(wide_a) | np.isnan(wide_b))
        near[numbers] |= _steps(a[numbers], b[numbers]) <= tolerance.max_ulp
    return near


def _ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Float steps between numbers; pairs with a NaN left out."""
    if not is_float(a.dtype):
        return np.empty(0, np.float64)
    numbers = ~(np.isnan(a) | np.isnan(b))
    return _steps(a[numbers], b[numbers])


def _steps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many floats lie between, as uint64: bit patterns in the order of the values, -0 one step below +0."""
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))

    def ordered(x: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(x).view(unsigned)
        return np.where(bits & sign, ~bits, bits | sign).astype(np.uint64)

    x, y = ordered(a), ordered(b)
    return np.maximum(x, y) - np.minimum(x, y)


def _larger(so_far, values: np.ndarray):
    if not values.size:
        return so_far
    return values.max() if so_far is None else max(so_far, values.max())


def _energy(x: np.ndarray) -> float:
    if x.dtype.kind in "OSUb":
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        return float((x.astype(np.float64) ** 2).sum())


def _sqnr(signal: float, noise: float) -> float | None:
    """10 log10(sum a^2 / sum (a - b)^2)."""
    finite = np.isfinite(signal) and np.isfinite(noise) and signal > 0 and noise > 0
    return round(10 * float(np.log10(signal / noise)), 2) if finite else None
