"""The `mxexport` command. Results go to standard output, progress and errors to standard error.

Exit codes: 0 ok, 1 verification mismatch, 2 usage or missing file, 3 unsupported model, 4 missing external tool.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mxexport.errors import InputFileError, MissingToolError, MXExportError

app = typer.Typer(
    name="mxexport",
    help="Groupwise (OCP microscaling) quantized PyTorch models to QONNX and FPGA dataflow, bit-exact at every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_notes = Console(stderr=True)
_out = Console()

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ModelFile = Annotated[Path, typer.Argument(help="An ONNX file written by mxexport.")]


# Optional packages and the extra that brings them.
_EXTRAS = {"torch": "torch", "jinja2": "fpga"}


def main() -> None:
    """Entry point: our own errors become one clear message and the documented exit code."""
    try:
        app()
    except MXExportError as error:
        _notes.print(f"error: {error}", style="bold red", highlight=False, markup=False)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        _notes.print(
            f"error: this command needs {error.name}: pip install 'mxexport[{_EXTRAS[error.name]}]'", style="bold red"
        )
        sys.exit(MissingToolError.exit_code)
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(130)


def _print_json(data) -> None:
    print(json.dumps(data, indent=2))


@app.command()
def demo(
    format: Annotated[str, typer.Option(help="mxint8, mxfp6_e2m3, mxfp6_e3m2, mxfp4_e2m1, …")] = "mxint8",
    out: Annotated[Path, typer.Option(help="Where all files go.")] = Path("build/demo"),
    synth: Annotated[bool, typer.Option(help="Size every unit with Yosys.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train on real MNIST digits with MX quantization, export, run everywhere, build and simulate the hardware."""
    from mxexport.demo import run_demo
    from mxexport.formats import get_format

    get_format(format)
    with _notes.status("starting") as status:

        def progress(message: str) -> None:
            _notes.print(f"[dim]· {message}[/dim]")
            status.update(message)

        result = run_demo(format, out, synthesize=synth, progress=progress)
    if as_json:
        _print_json(result)
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
    table = Table(title=f"MNIST, {result['format']}, {result['images']} test images", title_justify="left")
    table.add_column("stage")
    table.add_column("accuracy %", justify="right")
    table.add_column("same prediction as\nquantized PyTorch %", justify="right")
    for stage, label in _STAGES.items():
        table.add_row(label, f"{result['accuracy'][stage]:.2f}", f"{result['agreement_with_torch'][stage]:.2f}")
    _out.print(table)
    exact, flips = result["bit_exact"], result["flipped_codes"]
    _out.print(
        f"quantizers bit-exact in torch, numpy, onnxruntime, qonnx, reference evaluator: {_yes(exact['quantizers'])}"
    )
    _out.print(f"RTL words equal the dataflow graph bit for bit: {_yes(exact['rtl'])}")
    _out.print(
        f"element codes that differ end to end between QONNX and dataflow graph: {flips['rate']:.2e} of all "
        "(float32 products round, the hardware's do not)",
        highlight=False,
    )
    _out.print(f"blocks outside the calibrated scale range: {sum(result['clamped_blocks'].values())}")
    _out.print(f"cycles per image: {result['cycles_per_image']:,}")
    if result["area"]:
        _print_area(result["area"])
    _out.print("\nfiles")
    for name, path in result["files"].items():
        _out.print(f"  {name:<12} {path}", highlight=False, soft_wrap=True)
    _out.print(
        f"\nTo look at the graph, open {result['files']['qonnx']} at https://netron.app "
        "or run: pip install netron && netron " + result["files"]["qonnx"],
        highlight=False,
        soft_wrap=True,
    )


def _yes(flag: bool) -> str:
    return "[green]yes[/green]" if flag else "[bold red]NO[/bold red]"


_AREA = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram36": "BRAM36"}


def _print_area(area: dict) -> None:
    table = Table(title="area per unit (Yosys estimate, UltraScale+)", title_justify="left")
    table.add_column("unit")
    for label in _AREA.values():
        table.add_column(label, justify="right")
    for name, figures in area.items():
        if name == "total":
            table.add_section()
        table.add_row(name, *(f"{figures[key]:g}" for key in _AREA))
    _out.print(table)


@app.command()
def info(model: ModelFile, as_json: AsJson = False) -> None:
    """List the quantizers of a file: format, shapes, contracted scales."""
    from mxexport import graph

    loaded = graph.load(model)
    rows = [
        {
            "name": node.name,
            "op": node.op_type,
            "format": graph.quantizer_format(node).name,
            "axis": node.attributes["axis"].value,
            "shape": str(node.inputs[0].shape),
            "scale_shape": str(node.inputs[1].shape),
        }
        for node in loaded.graph
        if graph.is_ours(node, graph.QUANTIZERS)
    ]
    if as_json:
        _print_json({"path": str(model), "opset": loaded.opset_imports.get(""), "quantizers": rows})
        return
    table = Table(title=str(model), title_justify="left")
    for column in ("name", "op", "format", "axis", "shape", "scale_shape"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    _out.print(table)


def _load_array(path: Path):
    import numpy as np

    if not path.is_file():
        raise InputFileError(f"no such file: {path}")
    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise InputFileError(f"{path} is not a .npy array: {error}") from error


@app.command()
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
    results = executors[executor](model, _load_array(inputs))
    np.save(out, next(iter(results.values())))
    summary = {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in results.items()}
    if as_json:
        _print_json({"outputs": summary, "path": str(out)})
    else:
        for name, item in summary.items():
            _out.print(f"{name}: {item['dtype']} {item['shape']}", highlight=False)
        _out.print(f"first output: {out}", highlight=False)


@app.command()
def compile(
    model: ModelFile,
    out: Annotated[Path, typer.Argument(help="Directory of the design.")],
    calibration: Annotated[Path, typer.Option(help="Typical inputs, as .npy; finds each layer's scale range.")],
    margin: Annotated[int, typer.Option(help="Scale codes of head room on both sides.")] = 1,
    target_fps: Annotated[float | None, typer.Option(help="Frames per second to reach at --clock-mhz.")] = None,
    clock_mhz: Annotated[float, typer.Option(help="Clock the frame rate is computed for.")] = 200.0,
    part: Annotated[str, typer.Option(help="AMD device, written into the report.")] = "xczu7ev",
    as_json: AsJson = False,
) -> None:
    """Lower an exported linear network to SystemVerilog."""
    from mxexport.fpga import compile as compile_design

    design = compile_design(
        model,
        out,
        part=part,
        calibration=_load_array(calibration),
        margin=margin,
        target_fps=target_fps,
        clock_mhz=clock_mhz,
    )
    if as_json:
        _print_json(design.report)
        return
    _print_layers(design.report)


def _print_layers(report: dict) -> None:
    table = Table(title=f"{report['path']} ({report['part']})", title_justify="left")
    for column in ("layer", "inputs", "outputs", "formats", "PE", "SIMD", "cycles", "accumulator bits"):
        table.add_column(column)
    for layer in report["layers"]:
        formats = f"{layer['activation']} x {layer['weight']}"
        keys = ("pe", "simd", "cycles", "accumulator_bits")
        table.add_row(
            layer["name"], str(layer["inputs"]), str(layer["outputs"]), formats, *(str(layer[k]) for k in keys)
        )
    _out.print(table)
    _out.print(f"{report['frames_per_second']:,.0f} frames per second at {report['clock_mhz']:g} MHz", highlight=False)


DesignDir = Annotated[Path, typer.Argument(help="A directory that `mxexport compile` wrote.")]


@app.command()
def simulate(
    design: DesignDir,
    inputs: Annotated[Path, typer.Argument(help="Network inputs, as .npy.")],
    out: Annotated[Path, typer.Option(help="Where the outputs go, as .npy.")] = Path("output.npy"),
    stall: Annotated[float, typer.Option(min=0, max=0.95, help="Probability of a random stall on both sides.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Simulate a compiled design with Verilator and compare it with its dataflow graph."""
    import numpy as np

    from mxexport.errors import VerificationError
    from mxexport.fpga import open_design

    opened, x = open_design(design), _load_array(inputs)
    result = opened.simulate(x, stall_in=stall, stall_out=stall)
    equal = bool((result.raw == opened.run_dataflow(x).raw).all())
    np.save(out, result.values)
    summary = {
        "frames": len(x),
        "cycles": result.cycles,
        "clamped_blocks": result.clamped,
        "equals_dataflow": equal,
        "path": str(out),
    }
    if as_json:
        _print_json(summary)
    else:
        for name, value in summary.items():
            _out.print(f"{name}: {value}", highlight=False)
    if not equal:
        raise VerificationError(f"{design}: RTL output differs from the dataflow graph")


@app.command()
def synth(design: DesignDir, as_json: AsJson = False) -> None:
    """Size every unit of a compiled design with Yosys (an estimate, no place and route)."""
    from mxexport.fpga import open_design

    area = open_design(design).area()
    if as_json:
        _print_json(area)
    else:
        _print_area(area)


@app.command()
def report(design: DesignDir, as_json: AsJson = False) -> None:
    """Show what `mxexport compile` decided."""
    from mxexport.fpga import open_design

    data = open_design(design).report
    if as_json:
        _print_json(data)
    else:
        _print_layers(data)


if __name__ == "__main__":
    main()
