"""`mxexport verify`: two files on the same inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli._common import AsJson, console, load_inputs
from mxexport.errors import VerificationError


def verify(
    a: Annotated[Path, typer.Argument(help="An ONNX file.")],
    b: Annotated[Path, typer.Argument(help="The file to compare it with.")],
    inputs: Annotated[Path | None, typer.Option(help=".npy or .npz; random ones without it.")] = None,
    executor: Annotated[str, typer.Option(help="onnxruntime, qonnx or reference.")] = "onnxruntime",
    rtol: Annotated[float, typer.Option(help="Relative tolerance; all tolerances 0: equal bits.")] = 0.0,
    atol: Annotated[float, typer.Option(help="Absolute tolerance.")] = 0.0,
    max_ulp: Annotated[int, typer.Option(help="Float steps allowed.")] = 0,
    tensors: Annotated[str, typer.Option(help="shared, outputs, or names with commas between.")] = "shared",
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run two files on the same inputs and compare the tensors both name alike; exit code 1 where they differ."""
    from mxexport.running.verification import Tolerance, verify as verify_models

    result = verify_models(
        a,
        b,
        None if inputs is None else load_inputs(inputs),
        executor=executor,
        tolerance=Tolerance(rtol, atol, max_ulp),
        tensors=tensors if tensors in ("shared", "outputs") else tensors.split(","),
        seed=seed,
    )
    if as_json:
        print(json.dumps(json.loads(result.to_json()), indent=2))
    else:
        console.print(str(result), highlight=False, markup=False, soft_wrap=True)
    if not result:
        raise VerificationError(f"{a} and {b} differ, first in tensor {result.first_difference.name!r}")
