"""`mxexport clean`: simplify an ONNX file and show what was done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli import pages
from mxexport.cli._common import (
    AsJson,
    Force,
    OutFile,
    OutOption,
    check_target,
    console,
    notes,
    one_target,
    print_json,
    print_path,
    print_table,
    stages,
)

_SHOWN = 20


def clean(
    model: Annotated[Path, typer.Argument(help="An ONNX file: ours, Brevitas's or any other.")],
    out: OutFile = None,
    out_option: OutOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Execute before and after every pass; stop where it differs.")
    ] = False,
    save_stages: Annotated[Path | None, typer.Option(help="Directory for the graph after every pass.")] = None,
    shapes: Annotated[str | None, typer.Option(help="batch=1, or input=1x3x224x224; several with commas.")] = None,
    check: Annotated[str | None, typer.Option(help="Then list what fpga, hls4ml, finn or qdq cannot take.")] = None,
    pack: Annotated[
        bool, typer.Option("--pack/--float-weights", help="Quantized weights as packed codes, or as they are.")
    ] = True,
    exact: Annotated[bool, typer.Option("--exact", help="Leave out the passes that round otherwise.")] = False,
    html: pages.HtmlFile = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Fold, simplify and name the nodes of an ONNX file without changing what it computes."""
    path = one_target(out, out_option, f"{model.stem}_clean.onnx")
    check_target(path, force, model)
    pages.check_page(html, force)
    import json

    from mxexport.passes import clean as clean_file
    from mxexport.targets.check import TARGETS, require

    if check is not None and check not in TARGETS:
        raise typer.BadParameter(f"{check!r}; expected one of {', '.join(TARGETS)}", param_hint="--check")
    fixed = parse_shapes(shapes) if shapes else None
    options = {"verify": verify, "save_stages": save_stages, "shapes": fixed, "pack": pack, "exact": exact}
    with stages() as stage:
        report = clean_file(model, path, **options, progress=stage)
    if as_json:
        print_json(json.loads(report.to_json()))
    else:
        _print(report)
        print_path(path)
    if html is not None:
        pages.write_page(pages.clean_page(report), html, quiet=as_json)
    if check is not None:
        from mxexport.model import graph

        require(graph.load(path), check)
        notes.print(f"{check} takes every operator of {path}", highlight=False, markup=False)


def parse_shapes(text: str) -> dict[str, int | tuple[int, ...]]:
    """`batch=1,input=1x3x8x8` -> {"batch": 1, "input": (1, 3, 8, 8)}."""
    shapes: dict[str, int | tuple[int, ...]] = {}
    for part in text.split(","):
        name, equals, sizes = part.rpartition("=")
        if not equals or not name or not all(size.isdigit() for size in sizes.split("x")):
            raise typer.BadParameter(f"{part!r}; expected batch=1 or input=1x3x224x224", param_hint="--shapes")
        numbers = tuple(int(size) for size in sizes.split("x"))
        shapes[name.strip()] = numbers if len(numbers) > 1 else numbers[0]
    return shapes


def _print(report) -> None:
    before, after = report.before, report.after
    names = sorted({*before.operators, *after.operators})
    rows = [(name, before.operators.get(name, 0), after.operators.get(name, 0)) for name in names]
    rows += [("bytes of weights", f"{before.bytes:,}", f"{after.bytes:,}")]
    rows += [("nodes", f"{before.nodes:,}", f"{after.nodes:,}")]
    print_table("operators", ("", "before", "after"), rows, total=True)
    for name, count in report.changed.items():
        console.print(f"{name}: {count} changes", highlight=False)
    for found in report.approximate:
        how_far = f"within {found.ulp:g} ulp of a tensor's largest magnitude" if found.ulp else "equal values"
        told = f"{found.name} is not bit-exact ({found.changes} changes, {how_far}; --exact leaves it out)"
        console.print(f"{told}: {found.reason}", highlight=False, soft_wrap=True, markup=False)
    for name, result in report.verified:
        console.print(f"verified {name}: {result}", highlight=False)
    if report.declined:
        console.print("left as they are", highlight=False)
    for name, node, reason in report.declined[:_SHOWN]:
        console.print(f"  {name}: {node}: {reason}", highlight=False, soft_wrap=True, markup=False)
    if len(report.declined) > _SHOWN:
        console.print(f"  and {len(report.declined) - _SHOWN} more; --json lists all", highlight=False)
    for stage in report.stages:
        console.print(f"stage {stage}", highlight=False, soft_wrap=True, markup=False)
