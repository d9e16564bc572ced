"""`mxexport bench`: how fast files run in onnxruntime, beside each other in one process."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli._common import AsJson, load_inputs, print_json, print_table, stages


def bench(
    models: Annotated[list[Path], typer.Argument(help="ONNX files; the others are compared with the first.")],
    inputs: Annotated[Path | None, typer.Option(help=".npy or .npz; random ones without it.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of every file, in turn.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one node's computation.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Time ONNX files in onnxruntime on the same inputs, in turn, and print ratios to the first.

    The float model's file as the first shows what quantization costs; speed on FPGAs: mxexport compile, report.
    """
    from mxexport.model.reader import read_proto
    from mxexport.running.drawing import random_inputs
    from mxexport.running.executors import Session

    given = None if inputs is None else load_inputs(inputs)
    with stages() as stage:
        sessions, fed, taken = [], [], [[] for _ in models]
        for path in models:
            stage(f"opening {path}")
            sessions.append(Session(path, threads=threads))
            fed.append(random_inputs(read_proto(path), 0) if given is None else given)
        for number in range(runs + 1):
            stage(f"run {number} of {runs}")
            for times, session, x in zip(taken, sessions, fed, strict=True):
                start = time.perf_counter()
                session.run(x)
                times.append(time.perf_counter() - start)
    rows = [
        _row(path, times[1:], taken[0][1:]) for path, times in zip(models, taken, strict=True)
    ]  # the first warms up
    if as_json:
        print_json({"runs": runs, "threads": threads, "models": rows})
    else:
        columns = ("file", "median ms", "fastest ms", "ratio to the first")
        cells = [
            (row["path"], f"{row['median_ms']:.3f}", f"{row['fastest_ms']:.3f}", f"{row['ratio']:.2f}") for row in rows
        ]
        print_table(f"onnxruntime (runs: {runs}, threads: {threads})", columns, cells)


def _row(path: Path, times: list[float], first: list[float]) -> dict:
    """`ratio`: the median over runs of this file's time to the first file's in the same turn."""
    ratio = statistics.median(a / b for a, b in zip(times, first, strict=True))
    milliseconds = [1000 * t for t in times]
    return {
        "path": str(path),
        "median_ms": statistics.median(milliseconds),
        "fastest_ms": min(milliseconds),
        "ratio": ratio,
    }
