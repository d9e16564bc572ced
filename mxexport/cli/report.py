"""`mxexport report`: what a file or a compiled design is, as text, JSON or one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli import pages
from mxexport.cli._common import AsJson, Force, load_array, load_inputs, print_json, print_table, stages
from mxexport.cli.hardware import print_layers
from mxexport.errors import OptionError


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="A compiled design's directory, or an ONNX file; with --inputs, the stages it came from before it.",
            metavar="[STAGE...] PATH",
        ),
    ],
    html: pages.HtmlFile = None,
    inputs: Annotated[Path | None, typer.Option(help=".npy or .npz: compare how every stage answers them.")] = None,
    labels: Annotated[Path | None, typer.Option(help=".npy of whole numbers: the right answers of --inputs.")] = None,
    synth: Annotated[
        bool, typer.Option("--synth", help="Of a design: also size and time every unit with Yosys.")
    ] = False,
    explore: Annotated[bool, typer.Option("--explore", help="Of a design: also draw other foldings of it.")] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Show what a file holds or what compile decided; --html writes it as one page."""
    *before, path = paths
    if (before or labels) and inputs is None:
        raise OptionError("several stages, or labels, are compared on inputs: give --inputs x.npy")
    pages.check_page(html, force)
    extra, told = [], {}
    with stages() as stage:
        if inputs is not None:
            stage("running every stage")
            right = None if labels is None else load_array(labels)
            table = pages.stages_table(paths, load_inputs(inputs), right)
            extra.append(table)
            told = {"stages": [dict(zip(pages.STAGE_KEYS, row, strict=True)) for row in table.rows]}
        if path.is_dir():
            data, page = _design(path, html is not None or synth, synth, explore, extra, stage)
        else:
            data, page = _file(path, extra)
    if as_json:
        print_json(data | told)
    else:
        if path.is_dir():
            print_layers(data)
        else:
            for section in page.sections:
                if section.kind == "table" and section.title in ("Layers", "Quantizers"):
                    _print(section)
        for table in extra:
            if table.kind == "table":
                _print(table)
    if html is not None:
        pages.write_page(page, html, quiet=as_json)


def _print(table) -> None:
    from mxexport.reporting.page import shown

    print_table(table.title, table.columns, [[shown(cell) for cell in row] for row in table.rows])


def _design(path: Path, paged: bool, synth: bool, explore: bool, extra: list, stage):
    """(report.json, the page). Without a page nothing but report.json is read."""
    from mxexport.fpga.reports.stored_report import read_report

    data = read_report(path)
    if not (paged or explore):
        return data, None
    from mxexport.fpga import open_design
    from mxexport.fpga.reports import report_page

    design = open_design(path)
    if synth:
        design.record_synthesis(design.synthesize(progress=stage))
    if explore:
        stage("exploring foldings")
        design.explore()
        extra.append(report_page.pareto((path / "explore.svg").read_text()))
    return design.report, report_page.design_page(design.report, extra)


def _file(path: Path, extra: list):
    from mxexport.model import graph
    from mxexport.passes import infer_shapes
    from mxexport.reporting.model_page import model_page

    model = graph.load(path)
    infer_shapes(model)  # files of other tools say little of what is inside
    page = model_page(model, str(path), extra)
    return {"path": str(path)} | json.loads(page.to_json()), page
