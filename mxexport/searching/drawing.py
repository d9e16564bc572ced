"""What a search measured as a drawing: metric against cost."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from mxexport.reporting.plots import ACROSS, COLORS, UP, LinearAxis, plot_frame

Point = tuple[float, float, str]
"""Cost, metric, and what is said of it."""

_DIM, _LINE, _MARK = "#999", COLORS[0], COLORS[1]


def front_svg(
    every: Sequence[Point], front: Sequence[Point], marked: Mapping[str, Point], least: float, cost: str
) -> str:
    """All networks as dots, those of the front joined; a dashed line at the metric that is `least` good enough."""
    x = LinearAxis([p[0] for p in every], *ACROSS)
    y = LinearAxis([*(p[1] for p in every), least], *UP)
    parts = plot_frame(x, y, cost, "metric")
    at = y.place(least)
    parts.append(f'<line x1="70" y1="{at:.1f}" x2="610" y2="{at:.1f}" stroke="{_MARK}" stroke-dasharray="4 4"/>')
    path = " ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b, _ in sorted(front))
    parts.append(f'<polyline points="{path}" fill="none" stroke="{_LINE}"/>')
    best = {(a, b) for a, b, _ in front}
    for a, b, told in every:
        color = _LINE if (a, b) in best else _DIM
        dot = f'cx="{x.place(a):.1f}" cy="{y.place(b):.1f}" r="4" fill="{color}"'
        parts.append(f"<circle {dot}><title>{html.escape(told)}</title></circle>")
    for name, (a, b, _) in marked.items():
        left, top = x.place(a), y.place(b)
        parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="7" fill="none" stroke="{_MARK}"/>')
        end = ' text-anchor="end"' if left > sum(ACROSS) / 2 else ""
        parts.append(f'<text x="{left + (-10 if end else 10):.1f}" y="{top - 8:.1f}"{end}>{html.escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
