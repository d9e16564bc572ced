"""Exact integer reference of what hardware does with pixels (numpy only): windows and averages. Channels come last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def output_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """Windows that fit along one axis (ONNX Conv, auto_pad = NOTSET)."""
    return (size + before + after - (kernel - 1) * dilation - 1) // stride + 1


def taps(
    x: np.ndarray,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    fill: int,
) -> np.ndarray:
    """[N, H, W, C] -> [N, OH, OW, kernel h * kernel w, C]: what every output pixel reads, `fill` outside the frame.

    pads: top, left, bottom, right, as ONNX has them.
    """
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    rows, columns = (
        np.arange(output_size(size, k, s, before, after, d))[:, None] * s + np.arange(k) * d
        for size, k, s, before, after, d in zip(
            x.shape[1:3], kernel, strides, (top, left), (bottom, right), dilations, strict=True
        )
    )
    found = padded[:, rows][:, :, :, columns].transpose(0, 1, 3, 2, 4, 5)
    return found.reshape(*found.shape[:3], kernel[0] * kernel[1], x.shape[3])


def divide(x: np.ndarray, divisor: int) -> np.ndarray:
    """x / divisor for int64 x and divisor > 0, to nearest, ties to even."""
    magnitude = np.abs(x)
    quotient = magnitude // divisor
    rest = 2 * (magnitude - quotient * divisor)
    rounded = quotient + ((rest > divisor) | ((rest == divisor) & (quotient % 2 == 1)))
    return np.where(x < 0, -rounded, rounded)
