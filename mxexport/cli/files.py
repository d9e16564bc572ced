"""Commands on one ONNX file: `info`, `run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mxexport.cli._common import AsJson, ModelFile, console, load_array, print_json


def info(model: ModelFile, as_json: AsJson = False) -> None:
    """List the quantizers and packed weights of a file: format, shapes, contracted scales."""
    from mxexport import graph

    loaded = graph.load(model)
    rows = [
        {
            "name": node.name,
            "op": node.op_type,
            "format": graph.quantizer_format(node).name,
            "axis": node.attributes["axis"].value,
            "shape": str(graph.quantized_shape(node)),
            "scale_shape": str(node.inputs[1].shape),
        }
        for node in loaded.graph
        if graph.is_ours(node, graph.QUANTIZERS | graph.DEQUANTIZERS)
    ]
    if as_json:
        print_json({"path": str(model), "opset": loaded.opset_imports.get(""), "quantizers": rows})
        return
    table = Table(title=str(model), title_justify="left")
    for column in ("name", "op", "format", "axis", "shape", "scale_shape"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    console.print(table)


def run(
    model: ModelFile,
    inputs: Annotated[Path, typer.Argument(help="Input of the first graph input, as .npy.")],
    out: Annotated[Path, typer.Option(help="Where the first output goes, as .npy.")] = Path("output.npy"),
    executor: Annotated[str, typer.Option(help="onnxruntime, qonnx or reference.")] = "onnxruntime",
    as_json: AsJson = False,
) -> None:
    """Execute a file on given inputs."""
    import numpy as np

    from mxexport import runtime

    executors = {"onnxruntime": runtime.run, "qonnx": runtime.run_qonnx, "reference": runtime.run_reference}
    if executor not in executors:
        raise typer.BadParameter(f"{executor!r}; expected one of {', '.join(executors)}")
    results = executors[executor](model, load_array(inputs))
    np.save(out, next(iter(results.values())))
    summary = {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in results.items()}
    if as_json:
        print_json({"outputs": summary, "path": str(out)})
    else:
        for name, item in summary.items():
            console.print(f"{name}: {item['dtype']} {item['shape']}", highlight=False)
        console.print(f"first output: {out}", highlight=False)
