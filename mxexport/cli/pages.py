"""The pages that commands write: an ONNX file's with what a command did, and the accuracy of every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli._common import check_target, console
from mxexport.errors import InputFileError, OptionError, ShapeError

HtmlFile = Annotated[Path | None, typer.Option("--html", help="Also write a page for people: layers, codes, drawing.")]


def check_page(html: Path | None, force: bool) -> None:
    """Raise InputFileError, before any work, where the page cannot be written."""
    if html is not None:
        from mxexport.model.writer import writable

        check_target(html, force)
        writable(html)


def write_page(page, html: Path, quiet: bool = False) -> None:
    """`page` as one file, whole."""
    from mxexport.model.writer import write_bytes

    try:
        write_bytes(html, page.to_html().encode())
    except OSError as error:
        raise InputFileError(f"cannot write {html}: {error.strerror or error}") from error
    if not quiet:
        console.print(f"page: {html}", highlight=False, markup=False, soft_wrap=True)


def export_page(report, conversion=None):
    """Of a file just exported; `conversion`: the report of quantize_model, where it made the model."""
    from mxexport.model import graph
    from mxexport.reporting.model_page import model_page
    from mxexport.reporting.page import Table

    extra = []
    if report.notes:
        extra.append(Table("Notes of the export", ("where", "what"), report.notes))
    if conversion is not None:
        extra.append(_conversion(conversion))
    return model_page(graph.load(report.path), report.path, extra, report.layers)


def _conversion(report):
    from mxexport.reporting.page import Table

    rows = [(c.name, c.kind, c.weight, c.activation, c.scale_rule, c.note) for c in report.converted]
    rows += [(f.place, f.kind, "float", "float", "", f.reason) for f in report.left]
    rows += [(change.layer, change.what, change.before, change.after, "", change.reason) for change in report.changed]
    columns = ("module", "kind or what", "weight or before", "activation or after", "scale rule", "note")
    return Table(
        "What became of every module", columns, rows, "Quantized, left in float, then what the recipe changed."
    )


def clean_page(report):
    """Of a file just cleaned."""
    from mxexport.model import graph
    from mxexport.reporting.model_page import model_page
    from mxexport.reporting.page import Table

    before, after = report.before, report.after
    names = sorted({*before.operators, *after.operators})
    rows = [(name, before.operators.get(name, 0), after.operators.get(name, 0)) for name in names]
    rows += [("bytes of tensors", before.bytes, after.bytes), ("nodes", before.nodes, after.nodes)]
    bounds = {a.name: f"within {a.ulp:g} ulp: {a.reason}" if a.ulp else a.reason for a in report.approximate}
    agreed = dict(report.verified)
    done = [(name, n, bounds.get(name, "exact"), agreed.get(name)) for name, n in report.changed.items()]
    extra = [
        Table("Operators", ("operator", "before", "after"), rows),
        Table("Passes that changed something", ("pass", "changes", "exactness", "verified"), done),
    ]
    if report.declined:
        extra.append(Table("Left as they are", ("pass", "node", "reason"), report.declined))
    return model_page(graph.load(report.path), report.path, extra)


STAGE_KEYS = ("path", "accuracy_percent", "same_predictions_percent", "sqnr_db")


def stages_table(paths: Sequence[Path], inputs, labels=None):
    """How every stage of a model answers the same inputs: SQNR and predictions against the first, accuracy.

    Raises:
        ShapeError: labels that do not fit the outputs.
        OptionError: stages with different numbers of outputs.
    """
    from mxexport.reporting.layers import sqnr
    from mxexport.reporting.page import Table

    first, rows = None, []
    for path in paths:
        found = _answers(path, inputs)
        first = found if first is None else first
        if found.shape != first.shape:
            raise OptionError(f"{path} answers {found.shape}, {paths[0]} answers {first.shape}: no stages of one model")
        same = 100 * float((found.argmax(-1) == first.argmax(-1)).mean())
        row = [str(path), _accuracy(found, labels), same, None if found is first else sqnr(first, found)]
        rows.append(row)
    columns = ("stage", "accuracy %", "predictions as the first %", "SQNR to the first, dB")
    note = f"First output, on {len(first)} frames."
    return Table("Stages", columns, rows, note)


def _answers(path: Path, inputs):
    """float64 of the first output."""
    import numpy as np

    if path.is_dir():
        from mxexport.fpga import open_design

        values = open_design(path).run_dataflow(inputs).values
        found = next(iter(values.values())) if isinstance(values, Mapping) else values
    else:
        from mxexport.running import executors

        found = next(iter(executors.run(path, inputs).values()))
    return np.asarray(found, np.float64)


def _accuracy(found, labels) -> float | None:
    if labels is None:
        return None
    wanted = found.shape[:-1]
    if labels.shape != wanted or labels.dtype.kind not in "iu":
        raise ShapeError(f"labels: found {labels.dtype} {labels.shape}; expected whole numbers of shape {wanted}")
    return 100 * float((found.argmax(-1) == labels).mean())
