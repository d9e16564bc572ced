"""A page: sections of a few kinds, rendered to one self-contained HTML file and to JSON."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

import mxexport
from mxexport.reporting.cells import Cell, shown
from mxexport.reporting.charts import Bars, Flow, bars_svg, flow_svg


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and a value, beside each other at the top."""

    title: str
    pairs: dict[str, Cell]
    kind: str = "facts"


@dataclass(frozen=True)
class Table:
    """`rows` of as many cells as there are `columns`; None is shown as a dash. `note`: how to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    kind: str = "table"

    def numeric(self) -> list[bool]:
        """Of every column, whether it holds numbers."""
        cells = [[row[i] for row in self.rows if row[i] is not None] for i in range(len(self.columns))]
        return [bool(column) and all(map(_is_number, column)) for column in cells]


@dataclass(frozen=True)
class Finding:
    """Something a reader should know: where, what, and what to do about it."""

    where: str
    what: str
    advice: str = ""


@dataclass(frozen=True)
class Findings:
    title: str
    items: Sequence[Finding]
    nothing: str = "Nothing found."
    kind: str = "findings"


@dataclass(frozen=True)
class Histograms:
    """Small bar charts, each under a name."""

    title: str
    charts: dict[str, Bars]
    note: str = ""
    kind: str = "histograms"


@dataclass(frozen=True)
class Drawing:
    """Boxes in the order of the data, and who reads whom."""

    title: str
    flow: Flow
    note: str = ""
    kind: str = "drawing"


@dataclass(frozen=True)
class Picture:
    """An SVG that somebody else drew."""

    title: str
    svg: str
    kind: str = "picture"


Section = Facts | Table | Findings | Histograms | Drawing | Picture


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    sections: list[Section] = field(default_factory=list)

    def to_json(self) -> str:
        """The same data without the drawing."""
        return json.dumps(_plain(self) | {"version": mxexport.__version__}, indent=2, allow_nan=False) + "\n"

    def to_html(self) -> str:
        template = _template()
        return template.render(
            page=self, version=mxexport.__version__, bars_svg=bars_svg, flow_svg=flow_svg, anchor=_anchor
        )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mxexport.reporting", "."),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    return environment.get_template("page.html.j2")


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _plain(thing: Any) -> Any:
    """Dataclasses as dicts, pictures left out."""
    if isinstance(thing, Page):
        kept = [s for s in thing.sections if not isinstance(s, Picture)]
        return {"title": thing.title, "subtitle": thing.subtitle, "sections": [_plain(s) for s in kept]}
    if hasattr(thing, "__dataclass_fields__"):
        return {name: _plain(getattr(thing, name)) for name in thing.__dataclass_fields__}
    if isinstance(thing, dict):
        return {str(key): _plain(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_plain(value) for value in thing]
    return thing
