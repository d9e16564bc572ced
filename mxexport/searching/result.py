"""What a search found: networks with their metric and cost, those that no other beats, and the best as a table."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mxexport.errors import InputFileError
from mxexport.model.writer import write_bytes
from mxexport.reporting.cells import html_table, shown
from mxexport.reporting.page import Facts, Page, Picture, Table
from mxexport.searching.choices import format_table
from mxexport.searching.drawing import front_svg

_MORE_IS_BETTER = "frames_per_second"
COLUMNS = {
    "bytes": "bytes", "lut": "LUT", "ff": "FF", "dsp": "DSP", "bram36": "BRAM36", "uram": "URAM",
    "frames_per_second": "frames/s",
}  # fmt: skip

OBJECTIVES = tuple(COLUMNS)


@dataclass(frozen=True)
class Evaluation:
    """A network: formats by layer ("mxint8", "mxfp4_e2m1/mxint8" for weight and activation, "float"), its metric, its
    costs, those of its layers, and the folding of its design. `refused`: why it could not be made."""

    formats: dict[str, str]
    metric: float | None
    costs: dict[str, float]
    seconds: float
    layer_bytes: dict[str, int] = field(default_factory=dict)
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    folding: dict[str, list[int]] | None = None
    refused: str | None = None

    def cost(self, objective: str) -> float:
        """Of the objective; small is good."""
        value = self.costs[objective]
        return -value if objective == _MORE_IS_BETTER else value

    def in_short(self) -> str:
        """How many layers have which choice."""
        texts = list(self.formats.values())
        counts = {text: texts.count(text) for text in dict.fromkeys(texts)}
        return ", ".join(f"{n} {text}" for text, n in counts.items())


def front(found: Iterable[Evaluation], objective: str) -> list[Evaluation]:
    """Those that no other beats in metric and cost, the most expensive first; of equal ones the first."""
    made = [(e.cost(objective), -e.metric, i, e) for i, e in enumerate(found) if e.metric is not None]
    kept: list[Evaluation] = []
    for _, worse, _, each in sorted(made, key=lambda row: row[:3]):
        if not kept or -worse > kept[-1].metric:
            kept.append(each)
    return kept[::-1]


@dataclass(frozen=True, repr=False)
class SearchResult:
    """`best`: the cheapest network whose metric is at most `within` below that of `reference`. `kept`: how many
    measurements a journal had."""

    objective: str
    within: float
    reference: Evaluation
    best: Evaluation
    evaluations: list[Evaluation]
    kept: int = 0

    def front(self) -> list[Evaluation]:
        """The networks that no other beats, the most expensive first."""
        return front(self.evaluations, self.objective)

    @property
    def saved_percent(self) -> float:
        """How much less the best costs than the reference; of frames a second, how many more it gives."""
        before, after = self.reference.costs[self.objective], self.best.costs[self.objective]
        return 100 * abs(after - before) / before if before else 0.0

    def formats(self) -> dict[str, Any]:
        """Of the best network, as `quantize_model` takes them."""
        return format_table(self.best.formats)

    def to_yaml(self) -> str:
        """The same as a file for `quantize_model(formats=…)` and `mxexport quantize --formats`."""
        import yaml

        return yaml.safe_dump(self.formats(), sort_keys=False, allow_unicode=True)

    def folding_yaml(self) -> str | None:
        """Of the best network's design, for `compile(folding=…)`; None where nothing was compiled."""
        if self.best.folding is None:
            return None
        from mxexport.fpga.options import folding_text
        from mxexport.fpga.unit import Folding

        return folding_text({layer: Folding(*numbers) for layer, numbers in self.best.folding.items()})

    def to_json(self) -> str:
        rows = {"objective": self.objective, "within": self.within, "saved_percent": self.saved_percent}
        rows |= {"reference": asdict(self.reference), "best": asdict(self.best), "kept": self.kept}
        rows["front"] = [asdict(each) for each in self.front()]
        rows["evaluations"] = [asdict(each) for each in self.evaluations]
        return json.dumps(rows, indent=2, allow_nan=False)

    def to_html(self) -> str:
        """One page for people."""
        return self.page().to_html()

    def to_svg(self) -> str:
        """Metric against cost of every network, and the line of those that no other beats."""

        def point(e: Evaluation) -> tuple[float, float, str]:
            cost = e.costs[self.objective]
            return cost, e.metric, f"{shown(e.metric)} at {cost:,g} {COLUMNS[self.objective]}: {e.in_short()}"

        every = [point(e) for e in self.evaluations if e.metric is not None]
        least = self.reference.metric - self.within
        marked = {"reference": point(self.reference), "best": point(self.best)}
        return front_svg(every, [point(e) for e in self.front()], marked, least, COLUMNS[self.objective])

    def page(self) -> Page:
        kinds = {COLUMNS[kind]: self.best.costs[kind] for kind in self._kinds()}
        facts = {"metric": self.best.metric, "metric of the reference": self.reference.metric, **kinds}
        facts |= {"networks measured": len(self.evaluations), "of these from the journal": self.kept}
        note = f"Best: the cheapest within {self.within:g} of the reference, which has {self.reference.in_short()}."
        columns = ("layer", "best", "reference")
        layers = [(name, text, self.reference.formats[name]) for name, text in self.best.formats.items()]
        refused = [(e.in_short(), e.refused) for e in self.evaluations if e.refused]
        sections = [Facts("At a glance", facts), Picture("Every network that was measured", self.to_svg())]
        sections += [Table("Networks that no other beats", *self._table(), note)]
        sections += [Table("Formats by layer", columns, layers)]
        sections += [Table("What could not be made", ("network", "why"), refused)] if refused else []
        title = f"{self.saved_percent:.0f}% {'more' if self.objective == _MORE_IS_BETTER else 'fewer'} "
        return Page(title + COLUMNS[self.objective], "Formats by layer, found by mxexport search", sections)

    def write(self, folder: str | os.PathLike) -> list[Path]:
        """formats.yaml, search.json, search.html and, of a compiled network, folding.yaml. Raises InputFileError."""
        texts = {"formats.yaml": self.to_yaml(), "search.json": self.to_json() + "\n", "search.html": self.to_html()}
        if (folding := self.folding_yaml()) is not None:
            texts["folding.yaml"] = folding
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                write_bytes(Path(folder) / name, text.encode())
        except OSError as error:
            raise InputFileError(f"search: cannot write to {folder}: {error.strerror or error}") from error
        return [Path(folder) / name for name in texts]

    def _kinds(self) -> list[str]:
        return [kind for kind in COLUMNS if kind in self.reference.costs]

    def _table(self) -> tuple[tuple[str, ...], list[tuple]]:
        """Columns and rows of the front."""
        kinds, marks = self._kinds(), {id(self.reference): "reference", id(self.best): "best"}
        rows = [
            (marks.get(id(e), ""), e.metric, *(e.costs[kind] for kind in kinds), e.in_short()) for e in self.front()
        ]
        return ("", "metric", *(COLUMNS[kind] for kind in kinds), "layers"), rows

    def __repr__(self) -> str:
        return (
            f"<SearchResult: {len(self.evaluations)} networks, best {self.best.metric:g} (reference "
            f"{self.reference.metric:g}) with {self.saved_percent:.0f}% "
            f"{'more' if self.objective == _MORE_IS_BETTER else 'fewer'} {COLUMNS[self.objective]}>"
        )

    def __rich__(self) -> RichTable:
        columns, rows = self._table()
        table = RichTable()
        for i, column in enumerate(columns):
            table.add_column(Text(column), justify="right" if 0 < i < len(columns) - 1 else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(shown(cell)) for cell in row))
        return table

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=160).print(self)
        return f"{self!r}\n{stream.getvalue().rstrip()}"

    def _repr_html_(self) -> str:
        return html_table(repr(self), *self._table())
