"""`mxexport convert`: files for other tools, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli._common import AsJson, ModelFile, console, print_json


def convert(
    model: ModelFile,
    out: Annotated[Path, typer.Argument(help="Where the converted file goes.")],
    to: Annotated[str, typer.Option(help="qdq (standard ONNX), mxexport (the way back), hls4ml or finn.")],
    opset: Annotated[int | None, typer.Option(help="Opset to write; qdq from 24 on: FP4 and E8M0 types.")] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a file for another tool and say of every node how it is carried."""
    from mxexport import targets

    given = {"opset": opset}
    report = targets.convert(model, out, to=to, **{name: value for name, value in given.items() if value is not None})
    if as_json:
        print_json(asdict(report))
        return
    for where, note in report.notes:
        console.print(f"{where}: {note}", highlight=False, markup=False)
    console.print(f"{report.path} (opset {report.opset})", highlight=False, markup=False)
