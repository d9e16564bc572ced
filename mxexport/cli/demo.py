"""`mxexport demo`: the main job on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli._common import AsJson, console, notes, print_json, print_table
from mxexport.cli.hardware import print_area


def demo(
    format: Annotated[str, typer.Option(help="mxint8, mxfp6_e2m3, mxfp6_e3m2, mxfp4_e2m1, …")] = "mxint8",
    network: Annotated[str, typer.Option(help="cnn, mlp, residual, depthwise or large (64 x 64).")] = "cnn",
    out: Annotated[Path, typer.Option(help="Where all files go.")] = Path("build/demo"),
    synth: Annotated[bool, typer.Option(help="Size every unit with Yosys.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train on real MNIST digits with MX quantization, export, run everywhere, build and simulate the hardware."""
    from mxexport.cli.demo_run import run_demo
    from mxexport.numbers.formats import get_format

    get_format(format)
    with notes.status("starting") as status:

        def progress(message: str) -> None:
            notes.print(f"[dim]· {message}[/dim]")
            status.update(message)

        result = run_demo(format, out, network=network, synthesize=synth, progress=progress)
    if as_json:
        print_json(result)
    else:
        _print_demo(result)


_STAGES = {
    "float": "PyTorch, float32",
    "torch": "PyTorch, quantized",
    "onnxruntime": "QONNX file in plain onnxruntime",
    "qonnx": "QONNX file in qonnx",
    "dataflow": "dataflow graph (integers)",
    "rtl": "SystemVerilog in Verilator",
}


def _print_demo(result: dict) -> None:
    title = f"MNIST, {result['network']}, {result['format']}, {result['images']} test images"
    columns = ("stage", "accuracy %", "same prediction as\nquantized PyTorch %")
    figures = [result["accuracy"], result["agreement_with_torch"]]
    rows = [(label, *(f"{column[stage]:.2f}" for column in figures)) for stage, label in _STAGES.items()]
    print_table(title, columns, rows)
    exact, flips = result["bit_exact"], result["flipped_codes"]
    console.print(
        f"quantizers bit-exact in torch, numpy, onnxruntime, qonnx, reference evaluator: {_yes(exact['quantizers'])}"
    )
    console.print(f"RTL words equal the dataflow graph bit for bit: {_yes(exact['rtl'])}")
    console.print(
        f"element codes that differ end to end between QONNX and dataflow graph: {flips['rate']:.2e} of all "
        "(float32 products round, the hardware's do not)",
        highlight=False,
    )
    console.print(f"blocks outside the calibrated scale range: {sum(result['clamped_blocks'].values())}")
    console.print(f"cycles per image: {result['cycles_per_image']:,}")
    if result["area"]:
        print_area(result["area"])
    console.print("\nfiles")
    for name, path in result["files"].items():
        console.print(f"  {name:<12} {path}", highlight=False, soft_wrap=True)
    graph, page = result["files"]["qonnx"], result["files"]["page"]
    console.print(
        f"\nTo look at the design, open {page}; at the graph: pip install 'mxexport[view]' && mxexport view {graph}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _yes(flag: bool) -> str:
    return "[green]yes[/green]" if flag else "[bold red]NO[/bold red]"
