"""Drawings in SVG that follow the page's colours: bar charts, and the flow of data through boxes."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bars:
    """Counts of what `labels` name, in order; `low` and `high` stand under the ends."""

    labels: Sequence[str]
    counts: Sequence[int]
    low: str
    high: str


@dataclass(frozen=True)
class Box:
    """`lines`: its name, then what is to be said of it; `sources`: indices of the boxes it reads; `accent`: 1 for
    products, 2 for quantizers, 0 for the rest."""

    lines: tuple[str, ...]
    sources: tuple[int, ...]
    accent: int = 0


@dataclass(frozen=True)
class Flow:
    """Boxes in an order in which everything comes behind what it reads; `labels`: (from, to) -> words on the line."""

    boxes: tuple[Box, ...]
    labels: dict[tuple[int, int], str]


_WIDTH, _HEIGHT = 260, 70


def bars_svg(bars: Bars) -> str:
    """One bar for each count; the tallest fills the height."""
    most, width = max(bars.counts, default=0) or 1, _WIDTH / max(len(bars.counts), 1)
    parts = [f'<svg class="bars" viewBox="0 0 {_WIDTH} {_HEIGHT + 16}" role="img">']
    for i, (label, count) in enumerate(zip(bars.labels, bars.counts, strict=True)):
        height = _HEIGHT * count / most
        if count:
            height = max(height, 1)
        title = f"<title>{html.escape(label)}: {count:,}</title>"
        box = (
            f'x="{i * width:.2f}" y="{_HEIGHT - height:.2f}" width="{max(width - 0.4, 0.6):.2f}" height="{height:.2f}"'
        )
        parts.append(f"<rect {box}>{title}</rect>")
    parts.append(f'<line x1="0" y1="{_HEIGHT}" x2="{_WIDTH}" y2="{_HEIGHT}"/>')
    parts.append(f'<text x="0" y="{_HEIGHT + 13}">{html.escape(bars.low)}</text>')
    parts.append(f'<text x="{_WIDTH}" y="{_HEIGHT + 13}" text-anchor="end">{html.escape(bars.high)}</text>')
    return "".join([*parts, "</svg>"])


_BOX, _LINE, _GAP = 380, 15, 16
_LANE = 14
"""Pixels between lines that pass boxes by."""


def flow_svg(flow: Flow) -> str:
    """From top to bottom; lines to a box further below pass on the left, each in a lane of its own."""
    tops, y = [], 8
    for box in flow.boxes:
        tops.append(y)
        y += _height(box) + _GAP
    lanes = _lanes(flow)
    left = 20 + _LANE * max(lanes.values(), default=0)
    parts = [
        f'<svg class="flow" width="{left + _BOX + 10}" height="{y}" viewBox="0 0 {left + _BOX + 10} {y}" role="img">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0L8,4L0,8z"/></marker></defs>'
    ]
    for target, box in enumerate(flow.boxes):
        for source in box.sources:
            start, end = tops[source] + _height(flow.boxes[source]), tops[target]
            if target == source + 1:
                x = left + _BOX / 2
                parts.append(f'<path class="wire" d="M{x},{start}V{end - 1}"/>')
                where = (x + 6, (start + end) / 2 + 4)
            else:
                x = left - _LANE * lanes[source, target]
                a, b = tops[source] + _height(flow.boxes[source]) / 2, tops[target] + _height(box) / 2
                parts.append(f'<path class="wire" d="M{left},{a}H{x}V{b}H{left - 1}"/>')
                where = (x + 3, b - 3)
            if words := flow.labels.get((source, target)):
                parts.append(f'<text class="small" x="{where[0]}" y="{where[1]}">{html.escape(words)}</text>')
    for box, top in zip(flow.boxes, tops, strict=True):
        parts.append(
            f'<g><rect class="box a{box.accent}" x="{left}" y="{top}" width="{_BOX}" height="{_height(box)}" rx="5"/>'
        )
        for i, line in enumerate(box.lines):
            kind = "" if i == 0 else ' class="small"'
            text = html.escape(line if len(line) < 62 else f"{line[:60]}…")
            at = f'x="{left + 10}" y="{top + 16 + i * _LINE}"'
            parts.append(f"<text{kind} {at}><title>{html.escape(line)}</title>{text}</text>")
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def _height(box: Box) -> int:
    return 8 + _LINE * len(box.lines)


def _lanes(flow: Flow) -> dict[tuple[int, int], int]:
    """(from, to) of lines that pass boxes by -> lane, 1 nearest to the boxes; lines side by side have others."""
    found: dict[tuple[int, int], int] = {}
    for target, box in enumerate(flow.boxes):
        for source in box.sources:
            if target == source + 1:
                continue
            taken = {lane for (a, b), lane in found.items() if a < target and source < b and a != source}
            same = [lane for (a, _), lane in found.items() if a == source]
            free = next(n for n in range(1, len(found) + 2) if n not in taken)
            found[source, target] = same[0] if same and same[0] not in taken else free
    return found
