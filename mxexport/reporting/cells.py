"""Cells of tables as readers want them, and tables for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

Cell = str | int | float | None


def shown(cell: Cell) -> str:
    """Thousands apart, four digits of fractions, a dash for nothing."""
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return cell


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """For `_repr_html_`: names are text, never markup."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(shown(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<p>{html.escape(title)}</p><table><tr>{head}</tr>{body}</table>"
