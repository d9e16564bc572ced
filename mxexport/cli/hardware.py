"""Commands on designs: `compile`, `simulate`, `synth`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxexport.cli._common import (
    AsJson,
    ModelFile,
    console,
    load_inputs,
    one_target,
    print_json,
    print_path,
    print_table,
    save_array,
    stages,
)
from mxexport.errors import OptionError
from mxexport.fpga.reports.stored_report import AREA

if TYPE_CHECKING:
    from mxexport.fpga import Design
    from mxexport.fpga.checking.framing import Inputs


def print_area(area: dict) -> None:
    rows = [(name, *(f"{row[key]:g}" for key in AREA), f"{row['fmax_mhz']:.0f}") for name, row in area.items()]
    title = "area per unit (Yosys estimate, UltraScale+)"
    print_table(title, ("unit", *AREA.values(), "MHz"), rows, total="total" in area)


def compile(
    model: ModelFile,
    calibration: Annotated[
        Path, typer.Option(help="Typical inputs: .npy, or .npz by name; find each layer's scale range.")
    ],
    out: Annotated[Path | None, typer.Argument(help="Directory of the design (or -o).", show_default=False)] = None,
    out_option: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory of the design; without it build/<model>.")
    ] = None,
    margin: Annotated[int, typer.Option(help="Scale codes of head room on both sides.")] = 1,
    target_fps: Annotated[float | None, typer.Option(help="Frames per second to reach at --clock-mhz.")] = None,
    clock_mhz: Annotated[float, typer.Option(help="Clock the frame rate is computed for.")] = 200.0,
    folding: Annotated[Path | None, typer.Option(help="YAML: layer: {pe: …, simd: …}; see folding.yaml.")] = None,
    part: Annotated[str, typer.Option(help="AMD device; its resources are what a budget is a share of.")] = "xczu7ev",
    budget: Annotated[
        str | None, typer.Option(help="The fastest design within a share of the part (0.7), or lut=20000,dsp=100.")
    ] = None,
    resources: Annotated[str, typer.Option(help="Products in DSP slices or LUTs: auto, dsp or lut.")] = "auto",
    memory: Annotated[
        str, typer.Option(help="Where weights lie: rom (bitstream), load (sent once), stream (read for every frame).")
    ] = "rom",
    in_turn: Annotated[
        bool, typer.Option("--in-turn", help="Layers that repeat become one, which a frame passes several times.")
    ] = False,
    explore: Annotated[
        bool, typer.Option("--explore", help="Also list the designs that no other beats in area and rate.")
    ] = False,
    against: Annotated[
        list[Path] | None, typer.Option(help="With --explore: other compiled designs to draw beside it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Lower an exported network to SystemVerilog."""
    from mxexport.fpga import compile as compile_design, open_design

    with stages() as stage:
        design = compile_design(
            model,
            one_target(out, out_option, f"build/{model.stem}"),
            part=part,
            calibration=load_inputs(calibration),
            margin=margin,
            target_fps=target_fps,
            clock_mhz=clock_mhz,
            folding=folding,
            budget=budget_of(budget),
            resources=resources,
            memory=memory,
            in_turn=in_turn,
            progress=stage,
        )
    points = design.explore([open_design(path) for path in against or []]) if explore else []
    if as_json:
        print_json(design.report | ({"explore": [p.table() for p in points]} if explore else {}))
        return
    print_layers(design.report)
    print_path(design.path)
    console.print(f"page: {design.path / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    if explore:
        _print_points(points)
        console.print(f"drawn in {design.path / 'explore.svg'}", highlight=False, markup=False)


def _print_points(points: list) -> None:
    rows = []
    for p in points:
        area = [f"{p.area.table()[key]:,.0f}" for key in AREA]
        rows.append((f"{p.frames_per_second:,.0f}", f"{p.cycles_per_frame:,}", p.resources.upper(), *area))
    title = "designs that no other beats (estimates)"
    print_table(title, ("frames/s", "cycles", "products", *AREA.values()), rows)


def budget_of(text: str | None) -> dict[str, float] | float | None:
    """Raises OptionError for what is neither a number nor a list of name=number."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return float(text)
        return {name.strip(): float(number) for name, number in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise OptionError(f"--budget {text}: expected a share such as 0.7, or lut=20000,dsp=100") from None


def print_layers(report: dict) -> None:
    keys = ("name", "inputs", "outputs", "formats", "pe", "simd", "cycles", "accumulator_bits")
    named = [row | {"formats": f"{row['activation']} x {row['weight']}"} for row in report["layers"]]
    columns = ("layer", "inputs", "outputs", "formats", "PE", "SIMD", "cycles", "accumulator bits")
    print_table(f"{report['path']} ({report['part']})", columns, [[row[key] for key in keys] for row in named])
    console.print(
        f"{report['frames_per_second']:,.0f} frames per second at {report['clock_mhz']:g} MHz", highlight=False
    )
    figures = ", ".join(f"{value:,.0f} {AREA[key]}" for key, value in report["estimate"].items() if key in AREA)
    console.print(f"about {figures} (estimate; mxexport synth counts)", highlight=False)
    if report.get("limit"):
        console.print(report["limit"], highlight=False, markup=False)
    if saturated := report.get("calibration", {}).get("saturated_inputs"):
        console.print(f"{saturated:,} calibration inputs saturate in the input's fixed point", highlight=False)


DesignDir = Annotated[Path, typer.Argument(help="A directory that `mxexport compile` wrote.")]


def simulate(
    design: DesignDir,
    inputs: Annotated[Path, typer.Argument(help="Network inputs: .npy, or .npz by name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The output as .npy; several by name as .npz.")] = Path(
        "output.npy"
    ),
    stall: Annotated[float, typer.Option(min=0, max=0.95, help="Probability of a random stall on both sides.")] = 0.0,
    each_unit: Annotated[
        bool, typer.Option("--each-unit", help="Every unit alone instead, on words of the dataflow graph; no --out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate a compiled design with Verilator and compare it with its dataflow graph."""
    from mxexport.errors import VerificationError
    from mxexport.fpga import open_design

    opened, x = open_design(design), load_inputs(inputs)
    if each_unit:
        _simulate_units(opened, x, stall, as_json)
        return
    with stages() as stage:
        stage("simulating")
        result = opened.simulate(x, stall_in=stall, stall_out=stall)
        stage("running the dataflow graph")
        equal = _same(result.raw, opened.run_dataflow(x).raw)
    if isinstance(result.values, dict):  # several outputs, by name
        out = out.with_suffix(".npz")
    save_array(out, result.values)
    summary = {
        "frames": len(next(iter(x.values())) if isinstance(x, dict) else x),
        "cycles": result.cycles,
        "saturated_inputs": result.saturated_inputs,
        "clamped_blocks": result.clamped,
        "equals_dataflow": equal,
        "path": str(out),
    }
    if as_json:
        print_json(summary)
    else:
        for name, value in summary.items():
            console.print(f"{name}: {value}", highlight=False)
    if not equal:
        raise VerificationError(f"{design}: RTL output differs from the dataflow graph")


def _simulate_units(opened: Design, x: Inputs, stall: float, as_json: bool) -> None:
    """A row for every kind of unit. Raises VerificationError where a unit differs."""
    from mxexport.errors import VerificationError
    from mxexport.fpga.checking import alone

    with stages() as stage:
        found = opened.simulate_units(x, stall_in=stall, stall_out=stall, progress=stage)
    rows = alone.kinds(found)
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        columns = ("unit", "instances", "simulators", "words", "cycles", "claimed", "differ")
        shown = [(r.kind, r.instances, r.builds, r.words, r.cycles or "", r.claimed, len(r.unequal)) for r in rows]
        print_table(f"units of {opened.path} alone, {rows[0].frames} frames", columns, shown)
    for row in rows:
        for name, difference in row.unequal.items():
            raise VerificationError(f"{opened.path}: unit {name}: {difference}")


def _same(a, b) -> bool:
    """Of one output, or of several by name."""
    pairs = [(a[name], b[name]) for name in a] if isinstance(a, dict) else [(a, b)]
    return all(bool((x == y).all()) for x, y in pairs)


def synth(design: DesignDir, as_json: AsJson = False) -> None:
    """Size and time every unit of a compiled design with Yosys (estimates, no place and route)."""
    from mxexport.fpga import open_design
    from mxexport.fpga.design import area_table
    from mxexport.fpga.tools import sta

    opened = open_design(design)
    with stages() as stage:
        results = opened.synthesize(progress=stage)
    opened.record_synthesis(results)
    area = area_table(results)
    if as_json:
        print_json(opened.report["synthesis"] | {"total": area["total"]})
        return
    print_area(area)
    name, slowest = min(results.items(), key=lambda item: item[1].fmax_mhz)
    console.print(f"longest path, in {name}: {slowest.path}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{sta.ULTRASCALE_PLUS.net} ps a connection; {sta.ULTRASCALE_PLUS.source}", highlight=False, markup=False
    )
