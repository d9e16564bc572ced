"""Commands on one ONNX file: `info`, `run`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli._common import (
    AsJson,
    ModelFile,
    console,
    load_inputs,
    print_json,
    print_table,
    save_array,
    save_arrays,
)


def info(model: ModelFile, as_json: AsJson = False) -> None:
    """List the quantizers and packed weights of a file: format, shapes, contracted scales."""
    from mxexport.model import graph

    loaded = graph.load(model)
    rows = [
        {
            "name": node.name,
            "op": node.op_type,
            "format": graph.quantizer_format(node).name,
            "axis": node.attributes["axis"].value,
            "shape": _dims(graph.quantized_shape(node)),
            "scale_shape": _dims(node.inputs[1].shape),
        }
        for node in loaded.graph
        if graph.is_ours(node, graph.QUANTIZERS | graph.DEQUANTIZERS)
    ]
    if as_json:
        print_json({"path": str(model), "opset": loaded.opset_imports.get(""), "quantizers": rows})
        return
    columns = ("name", "op", "format", "axis", "shape", "scale_shape")
    cells = [[_text(cell) for cell in row.values()] for row in rows]
    print_table(str(model), columns, cells)


def _dims(shape) -> list[int | str] | None:
    """As `run --json` gives shapes; open sizes by their names."""
    return None if shape is None else [d if isinstance(d, int) else str(d) for d in shape]


def _text(cell) -> object:
    return f"[{','.join(map(str, cell))}]" if isinstance(cell, list) else "?" if cell is None else cell


def run(
    model: ModelFile,
    inputs: Annotated[Path, typer.Argument(help="The one input as .npy, or several by name as .npz.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The first output as .npy; all of them by name where it ends in .npz."),
    ] = Path("output.npy"),
    output_dir: Annotated[Path | None, typer.Option(help="Write every output as .npy into this directory.")] = None,
    outputs: Annotated[str | None, typer.Option(help="Tensors to compute, commas between; inner ones, too.")] = None,
    executor: Annotated[str, typer.Option(help="onnxruntime, qonnx or reference.")] = "onnxruntime",
    as_json: AsJson = False,
) -> None:
    """Execute a file on given inputs."""
    from mxexport.errors import InputFileError
    from mxexport.running import executors

    if executor not in executors.EXECUTORS:
        raise typer.BadParameter(f"{executor!r}; expected one of {', '.join(executors.EXECUTORS)}")
    fed, names, kernels = load_inputs(inputs), outputs.split(",") if outputs else None, executor
    if executor == "onnxruntime":
        session = executors.Session(model, names, weights="each")
        results, kernels = session.run(fed), session.kernels
    else:
        results = executors.find_executor(executor)(model, fed, names)
    if not results:
        raise InputFileError(f"{model}: its graph has no outputs; name tensors with --outputs")
    paths = _write(results, out, output_dir)
    summary = {
        name: {"shape": list(a.shape), "dtype": str(a.dtype), "path": paths[name]} for name, a in results.items()
    }
    if as_json:
        print_json({"outputs": summary, "path": next(iter(paths.values())), "kernels": kernels})
        return
    for name, item in summary.items():
        written = f" in {item['path']}" if item["path"] else ""
        console.print(
            f"{name}: {item['dtype']} {item['shape']}{written}", highlight=False, markup=False, soft_wrap=True
        )


def _file_names(names: Iterable[str]) -> dict[str, str]:
    """A .npy file for every output, no two the same: `a/b` and `a_b` become `a_b.npy` and `a_b_1.npy`."""
    files: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        candidates = (f"{stem}{f'_{i}' if i else ''}.npy" for i in itertools.count())
        files[name] = next(candidate for candidate in candidates if candidate not in files.values())
    return files


def _write(results: dict, out: Path, directory: Path | None) -> dict[str, str | None]:
    """Output name -> file it went to (None: to none). Types numpy has no name for are written as float32, exactly.

    All files are whole, or (InputFileError) what stood there before stays.
    """
    import numpy as np

    plain = {n: a if a.dtype.kind in "biufSU" else a.astype(np.float32) for n, a in results.items()}
    if directory is not None:
        files = _file_names(plain)
        save_arrays(directory, {file: plain[name] for name, file in files.items()}, make=True)
        return {name: str(directory / file) for name, file in files.items()}
    if out.suffix == ".npz":
        save_array(out, plain)
        return dict.fromkeys(plain, str(out))
    first = next(iter(plain))
    save_array(out, plain[first])
    return dict.fromkeys(plain) | {first: str(out)}
