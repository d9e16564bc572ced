"""Points between two axes, in SVG: the frame with its ticks, and numbers placed in it."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Protocol

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2")
ACROSS, UP = (70, 610), (380, 30)
"""From where to where the axes of a frame run."""


class Axis(Protocol):
    def place(self, number: float) -> float: ...

    def ticks(self) -> list[float]: ...


class LogAxis:
    """Places numbers by ratio between two ends of a drawing."""

    def __init__(self, numbers: Sequence[float], start: float, end: float):
        self.low, self.high = math.log10(min(numbers)) - 0.05, math.log10(max(numbers)) + 0.05
        self.start, self.end = start, end

    def place(self, number: float) -> float:
        share = (math.log10(number) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 3 else (1,)
        return [m * 10.0**d for d in decades for m in steps if self.low <= math.log10(m * 10.0**d) <= self.high]


class LinearAxis:
    """Places numbers by difference; some five ticks at 1, 2 or 5 times a power of ten."""

    def __init__(self, numbers: Sequence[float], start: float, end: float):
        low, high = min(numbers), max(numbers)
        margin = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
        self.low, self.high = low - margin, high + margin
        self.start, self.end = start, end

    def place(self, number: float) -> float:
        return self.start + (number - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        wanted = (self.high - self.low) / 5
        decade = 10.0 ** math.floor(math.log10(wanted))
        step = next(m * decade for m in (1, 2, 5, 10) if m * decade >= wanted)
        first = math.ceil(self.low / step)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step) + 1)]


def plot_frame(x: Axis, y: Axis, across: str, up: str) -> list[str]:
    """The head of a drawing of 640 by 430, with lines and numbers at the ticks and the names of both axes."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 430" font-family="sans-serif" font-size="12">',
        "<style>text{fill:#333}.g{stroke:#ccc}@media(prefers-color-scheme:dark){text{fill:#ddd}.g{stroke:#555}}</style>",
    ]
    for tick in x.ticks():
        at = x.place(tick)
        parts.append(f'<line class="g" x1="{at:.1f}" y1="30" x2="{at:.1f}" y2="380"/>')
        parts.append(f'<text x="{at:.1f}" y="398" text-anchor="middle">{_short(tick)}</text>')
    for tick in y.ticks():
        at = y.place(tick)
        parts.append(f'<line class="g" x1="70" y1="{at:.1f}" x2="610" y2="{at:.1f}"/>')
        parts.append(f'<text x="64" y="{at + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    parts.append(f'<text x="340" y="420" text-anchor="middle">{html.escape(across, quote=False)}</text>')
    turned = 'text-anchor="middle" transform="rotate(-90 16 205)"'
    parts.append(f'<text x="16" y="205" {turned}>{html.escape(up, quote=False)}</text>')
    return parts


def _short(number: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"
