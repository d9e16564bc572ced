"""What `export` tells about the file it wrote."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from mxexport.reporting.cells import html_table
from mxexport.reporting.layers import LayerReport


@dataclass(frozen=True)
class ExportReport:
    """What `export` wrote. `notes`: (layer, what differs from or surprises in the model it came from).

    `data_path`: the file beside `path` that holds the tensors; None where they are inside. `str(report)` is a table.
    """

    path: str
    opset: int
    layers: list[LayerReport] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    data_path: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def _repr_html_(self) -> str:
        """Its quantizers as a table, for notebooks."""
        return html_table(f"{self.path}, opset {self.opset}", _HEADER, map(_cells, self.layers))

    def __str__(self) -> str:
        rows = [_HEADER, *map(_cells, self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{self.path}, opset {self.opset}" + (f", tensors in {self.data_path}" if self.data_path else "")]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        weights = [layer for layer in self.layers if layer.bytes is not None]
        if weights:
            lines.append(f"{len(weights)} weights, {sum(layer.bytes or 0 for layer in weights):,} bytes once packed")
        return "\n".join([*lines, *(f"{where}: {what}" for where, what in self.notes)])


_HEADER = ("name", "format", "axis", "shape", "groups", "bytes", "SQNR dB", "saturated %", "padding %")


def _cells(layer: LayerReport) -> tuple[str, ...]:
    def shown(value: float | None, spec: str) -> str:
        return "-" if value is None else format(value, spec)

    return (
        layer.name,
        layer.format,
        shown(layer.axis, "d"),
        "x".join(map(str, layer.shape)) or "-",
        shown(layer.groups, ","),
        shown(layer.bytes, ","),
        shown(layer.sqnr_db, ".2f"),
        shown(layer.saturated_percent, ".3f"),
        shown(layer.padding_percent, ".2f"),
    )
