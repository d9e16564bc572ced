"""`mxexport check`: what a target cannot take of a file, and what to do. `mxexport view`: the file in Netron."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli._common import AsJson, ModelFile, console, print_json
from mxexport.errors import InputFileError, MissingToolError, UnsupportedError


def check(
    model: ModelFile,
    target: Annotated[str, typer.Option("--for", help="fpga, hls4ml, finn or qdq.")] = "fpga",
    as_json: AsJson = False,
) -> None:
    """Say of every node that a target cannot take why, and what to do; exit code 3 where there are such."""
    from mxexport.targets.check import check as problems_of

    problems = problems_of(model, target)
    if as_json:
        rows = [{"where": where, "reason": reason} for where, reason in problems]
        print_json({"path": str(model), "target": target, "problems": rows})
    else:
        for where, reason in problems:
            console.print(f"{where}: {reason}", highlight=False, markup=False, soft_wrap=True)
        count = f"{len(problems)} problems" if problems else "no problems"
        console.print(f"{model}: {count} for {target}", highlight=False, markup=False, soft_wrap=True)
    if problems:
        raise typer.Exit(UnsupportedError.exit_code)


def view(
    model: Annotated[Path, typer.Argument(help="An ONNX file, or the directory of a compiled design.")],
    port: Annotated[
        int, typer.Option(help="Where the page is served, on this machine only.", min=1, max=65_535)
    ] = 8080,
    browse: Annotated[bool, typer.Option("--browse", help="Also open the page in the browser.")] = False,
) -> None:
    """Show a file in Netron, served from this machine; Ctrl-C ends it."""
    file = model / "dataflow.onnx" if model.is_dir() else model
    if not file.is_file():
        raise InputFileError(f"no such file: {file}")
    if importlib.util.find_spec("netron") is None:
        raise MissingToolError("view needs Netron: pip install 'mxexport[view]'")
    import netron

    from mxexport.model.reader import read_proto
    from mxexport.reporting.viewing import labelled

    proto = labelled(read_proto(file))  # refuses what is no model
    with tempfile.TemporaryDirectory(prefix="mxexport-view-") as directory:
        shown = Path(directory) / file.name
        shown.write_bytes(proto.SerializeToString())
        host, port = netron.start(str(shown), address=("localhost", port), browse=browse)
        console.print(f"{file}: http://{host}:{port}", highlight=False, markup=False, soft_wrap=True)
        netron.wait()
