"""`mxexport convert`: files for other tools, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli._common import (
    AsJson,
    Force,
    OutFile,
    OutOption,
    check_target,
    console,
    one_target,
    print_json,
    print_path,
    stages,
)


def convert(
    model: Annotated[Path, typer.Argument(help="An ONNX file; for finn the folder of a compiled design, too.")],
    to: Annotated[str, typer.Option(help="qdq (standard ONNX), mxexport (the way back), hls4ml or finn.")],
    out: OutFile = None,
    out_option: OutOption = None,
    opset: Annotated[
        int | None, typer.Option(help="Opset to write. qdq: 21 to 25, from 24 on FP4, E8M0; finn: 13 to 21.")
    ] = None,
    functions: Annotated[
        bool | None,
        typer.Option(
            "--functions/--no-functions", help="qdq: quantizers as functions of the file (default), or inline."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="hls4ml, finn: size of an open first dimension (1).")] = None,
    fold: Annotated[str | None, typer.Option(help="hls4ml: wide, groups, or auto (wide where narrow enough).")] = None,
    max_weight_bits: Annotated[int | None, typer.Option(help="hls4ml, finn: widest integer of a wide fold.")] = None,
    round_bias: Annotated[bool | None, typer.Option(help="hls4ml: round biases to the step of their product.")] = None,
    input_type: Annotated[str | None, typer.Option(help="hls4ml: bits,fraction bits of inputs: 16,8.")] = None,
    verify: Annotated[
        bool | None,
        typer.Option("--verify/--no-verify", help="Run both sides on drawn inputs (default: up to 256 MB of weights)."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Convert a file for another tool and say of every node how it is carried."""
    folder = model.is_dir()
    path = one_target(out, out_option, f"{model.resolve().name}_{to}" if folder else f"{model.stem}_{to}.onnx")
    check_target(path / "finn.onnx" if folder else path, force, model)
    from mxexport import targets

    given = {
        "opset": opset,
        "functions": functions,
        "batch": batch,
        "fold": fold,
        "max_weight_bits": max_weight_bits,
        "round_bias": round_bias,
    }
    given["input_type"] = None if input_type is None else _numbers(input_type)
    options = {name: value for name, value in given.items() if value is not None}
    with stages() as stage:
        stage(f"converting to {to}")
        report = targets.convert(model, path, to=to, verify=verify, **options)
    if as_json:
        print_json(asdict(report))
        return
    for where, note in report.notes:
        console.print(f"{where}: {note}", highlight=False, markup=False)
    console.print(f"compared with the source: {report.verified}", highlight=False, markup=False)
    console.print(f"opset {report.opset}", highlight=False)
    print_path(path)


def _numbers(text: str) -> tuple[int, int]:
    bits, comma, fraction = text.partition(",")
    if not (comma and bits.isdigit() and fraction.isdigit()):
        raise typer.BadParameter(f"{text!r}; expected two whole numbers, such as 16,8", param_hint="--input-type")
    return int(bits), int(fraction)
