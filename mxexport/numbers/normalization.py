"""Exact integer reference of what hardware does in place of 1/sqrt(variance) (numpy only): no division, no square root.

The variance of a vector, times the square of its length, is a whole number V. Its inverse root is read from a table of
chords over [1, 4): V = m * 4**half with m in that range, so 1/sqrt(V) = 2**-half / sqrt(m).
"""

from __future__ import annotations

import numpy as np

from mxexport.numbers import fixedpoint


def root_table(segment_bits: int, root_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Chords of 2**root_bits / sqrt(m) over [1, 4), 2**segment_bits of them to each unit of m.

    Returns int64 [3 * 2**segment_bits] twice: the value where a segment begins, and what it gains until the segment
    ends (below zero). The function is convex, so a chord lies above it; moved down by half of its largest distance, it
    is off by no more than that half: 3/64 * step**2 of the value, at worst.
    """
    ends = 1 + np.arange(3 * 2**segment_bits + 1) / 2**segment_bits
    left, right = ends[:-1] ** -0.5, ends[1:] ** -0.5
    slope = (right - left) * 2.0**segment_bits
    touching = (-2 * slope) ** (-2 / 3)  # where the curve is as steep as the chord: m**-1.5 / 2 = -slope
    above = left + slope * (touching - ends[:-1]) - touching**-0.5
    scale = 2.0**root_bits
    return tuple(np.rint(v * scale).astype(np.int64) for v in (left - above / 2, right - left))


def half_up(x: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """x / 2**shift to nearest, ties up: one constant adder in hardware."""
    shift = np.asarray(shift, np.int64)
    return (x + ((np.int64(1) << shift) >> np.int64(1))) >> shift


def scaled_variance(x: np.ndarray, center: bool, epsilon: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [..., K] -> (deviations [..., K], V [..., 1]): K * (x - mean), and K**2 times the variance plus `epsilon`.

    Not `center`: the mean counts as 0. Both are exact where V stays below 2**63: the mean is never rounded.
    """
    length = x.shape[-1]
    total = x.sum(-1, keepdims=True) * center
    return length * x - total, length * (x * x).sum(-1, keepdims=True) - total * total + epsilon


def inverse_root(
    variance: np.ndarray, roots: np.ndarray, slopes: np.ndarray, segment_bits: int, root_bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """int64 V >= 1 -> (half, root) with root * 2**-(half + root_bits) = 1/sqrt(V), by the tables of `root_table`."""
    half = fixedpoint.floor_log2(variance) >> 1
    drop = 2 * half - root_bits
    mantissa = np.where(drop > 0, variance >> np.maximum(drop, 0), variance << np.maximum(-drop, 0))
    low = root_bits - segment_bits
    segment = (mantissa >> low) - (1 << segment_bits)
    return half, roots[segment] + half_up(slopes[segment] * (mantissa & ((1 << low) - 1)), low)


def normalized(deviations: np.ndarray, half: np.ndarray, root: np.ndarray, fraction: int, root_bits: int) -> np.ndarray:
    """deviations / sqrt(V) with `fraction` bits below the point: moved to their size first, then times the root."""
    drop = half - fraction
    moved = np.where(drop > 0, half_up(deviations, np.maximum(drop, 0)), deviations << np.maximum(-drop, 0))
    return half_up(moved * root, root_bits)
