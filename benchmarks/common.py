"""Timing that compares within one run: every figure is a ratio to a memory copy measured beside it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def fastest(function: Callable[[], object], seconds: float = 0.4) -> float:
    """Shortest of many calls, in seconds; the first call (compilation, page faults) does not count."""
    function()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def copy_time(x: torch.Tensor) -> float:
    """A copy of `x` into fresh memory, as every out-of-place operation has to make it."""
    return fastest(x.clone)


def verdict(value: float, target: float) -> str:
    return f"{value:.2f} (target {target:g}: {'met' if value <= target else 'MISSED'})"
