"""Exact integer reference of softmax in hardware (numpy only): one table, one product and one division for each row.

exp(x - max) is 2**-t with t = (max - x) * log2(e). Its whole part is a shift, its fraction is read from a table of
chords over [0, 1), as in I-BERT and Softermax; the maximum gives exactly 1, so that sums are never below that.
"""

from __future__ import annotations

import numpy as np

from mxexport.numbers.normalization import half_up

FACTOR_BITS = 16
"""Bits below the point of the factor that makes distances to steps of t."""
_NOBODY = -(2**62)


def exp2_table(segment_bits: int, exp_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Chords of 2**exp_bits * 2**-f over [0, 1), 2**segment_bits of them.

    Returns int64 [2**segment_bits] twice: the value where a segment begins, and what it gains until the segment ends
    (below zero). 2**-f is convex, so a chord lies above it; all but the first are moved down by half of their largest
    distance. The first begins at 2**exp_bits: the maximum of a row is exact.
    """
    ends = np.arange(2**segment_bits + 1) / 2**segment_bits
    left, right = 2.0 ** -ends[:-1], 2.0 ** -ends[1:]
    slope = (right - left) * 2.0**segment_bits
    touching = -np.log2(-slope / np.log(2))  # where the curve is as steep as the chord
    above = left + slope * (touching - ends[:-1]) - 2.0**-touching
    above[0] = 0
    return tuple(np.rint(v * 2.0**exp_bits).astype(np.int64) for v in (left - above / 2, right - left))


def exponentials(
    x: np.ndarray,
    mask: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray,
    *,
    factor: int,
    drop: int,
    distance_bits: int,
    fraction: int,
    segment_bits: int,
    exp_bits: int,
) -> np.ndarray:
    """int64 [..., T] -> 2**exp_bits * exp(scale * (x - max)) over the last axis, by the tables of `exp2_table`; 0 where
    `mask` (broadcasts to x) is 0. `factor`, of FACTOR_BITS, holds the scale: distances without their `drop` lowest
    bits, at most 2**distance_bits - 1, become t with `fraction` bits."""
    kept = mask != 0
    top = np.where(kept, x, np.int64(_NOBODY)).max(-1, keepdims=True)
    distance = np.minimum((top - np.minimum(x, top)) >> np.int64(drop), np.int64(2**distance_bits - 1))
    t = half_up(distance * factor, FACTOR_BITS)
    whole, below, low = np.minimum(t >> fraction, exp_bits + 2), t & (2**fraction - 1), fraction - segment_bits
    segment = below >> low
    found = values[segment] + half_up(slopes[segment] * (below & (2**low - 1)), low)
    return np.where(kept, half_up(found, whole), np.int64(0))


def shares(e: np.ndarray, exp_bits: int, reciprocal_bits: int, out_bits: int) -> np.ndarray:
    """int64 [..., T] -> 2**out_bits * e / sum(e): the reciprocal of a sum is cut to `reciprocal_bits`; zeros stay."""
    total = np.maximum(e.sum(-1, keepdims=True), 1)
    reciprocal = (np.int64(1) << np.int64(exp_bits + reciprocal_bits)) // total
    return half_up(e * reciprocal, exp_bits + reciprocal_bits - out_bits)
