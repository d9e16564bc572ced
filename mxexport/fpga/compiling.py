"""The road from an exported network to a folder of SystemVerilog."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import mxexport
from mxexport.errors import InputFileError
from mxexport.fpga import library, options, package
from mxexport.fpga.areas.devices import check_part, clock_limit
from mxexport.fpga.checking import verify
from mxexport.fpga.checking.framing import Inputs, all_fixed, all_saturated, by_name
from mxexport.fpga.design import Design
from mxexport.fpga.folding import budgets
from mxexport.fpga.lowering import turns, walk
from mxexport.fpga.lowering.calibrate import calibrate, fixed_point_input
from mxexport.fpga.lowering.masks import settle_added
from mxexport.fpga.lowering.prepared import complete, prepare
from mxexport.fpga.network import read
from mxexport.fpga.reports import finn_reports
from mxexport.fpga.reports.report import describe, too_large
from mxexport.fpga.reports.report_page import design_page
from mxexport.fpga.reports.stored_report import REPORT
from mxexport.fpga.scheduling import loops, memory as memory_of
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.writing import emit
from mxexport.model import graph
from mxexport.model.staging import locked, staging
from mxexport.running import executors


def compile(
    model: str | os.PathLike,
    out: str | os.PathLike,
    *,
    calibration: Inputs,
    part: str = "xczu7ev",
    margin: int = 1,
    target_fps: float | None = None,
    clock_mhz: float = 200.0,
    budget: Mapping[str, float] | float | None = None,
    folding: Mapping[str, tuple[int, ...]] | str | os.PathLike | None = None,
    resources: str = "auto",
    memory: Mapping[str, str] | str = "rom",
    memory_bits: int = memory_of.BUS,
    in_turn: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Design:
    """Lower an exported network to a dataflow graph and SystemVerilog under `out`.

    `calibration`: typical inputs [N, ...] as the graph takes them (several: a dict by name, or a tuple in order); they
    set each layer's range of shared scales, widened by `margin` codes, and the inputs' fixed-point types. `target_fps`
    at `clock_mhz` chooses the folding (default: 64 multiply-accumulates per cycle in the largest layer); `folding`
    overrides it per layer: (pe, simd), then taps and pixels at once where there are several, a dict or a YAML file.
    `resources`: products that DSP slices can make are made by them ("dsp"), by LUTs ("lut"), or by LUTs only where a
    budget has too few slices ("auto"). A slice makes two of them, or three of integers on Versal parts.
    `memory`: where the weights of matrix products lie, for all or by layer: constants of the bitstream ("rom"), memory
    that is filled once through an AXI4-Stream of `memory_bits` ("load"), or outside, read for every few vectors of a
    frame ("stream", "stream:N").
    `in_turn`: layers that repeat, with one tensor between them, become one piece of hardware that a frame passes as
    often, with the constants of one layer after the other.
    `budget` asks for the fastest design within so many `lut`, `ff`, `dsp`, `bram36` and `uram` (by
    `design.estimate()`), or within a share of `part`, such as 0.7; beside `target_fps` it is what the design must not
    pass.
    `progress` is called with the name of every stage as it begins.
    A rate that no folding reaches is a warning, as is a design larger than its part, and the report names the layer
    that limits it. `part` names an AMD device, with or without package and speed grade.

    Writes calibrated.onnx, dataflow.onnx, rtl/, mem/, folding.yaml, report.json, report.html and what toolflows take
    beside them (`Design.package`); both graphs are compared on (up to 64 of) the calibration inputs before
    anything is kept.

    Raises:
        UnsupportedError: every node without a hardware unit, or an accumulator over 63 bits.
        VerificationError: the dataflow graph differs from the QONNX graph.
        InputFileError, ShapeError, OptionError: missing file, inputs that do not fit, a bad option, or
            `in_turn` where no layers repeat.
    """
    out, stage = _writable(Path(out)), _Stages(progress)
    part, clock_mhz, margin = check_part(part), options.clock(clock_mhz), options.whole("margin", margin)
    supported = min(clock_mhz, clock_limit(part) or clock_mhz)
    target_cycles, limits = options.cycles_per_frame(target_fps, supported), options.limits(budget, part)
    folding, kinds = options.foldings(folding, part), options.kinds(resources, part)
    wanted, bus = options.memory(memory), options.bus(memory_bits)
    stage("reading the model")
    qonnx = graph.load(model)
    complete(qonnx)
    given = qonnx.clone()
    rewritten = prepare(qonnx)
    frames = walk.read_frames(qonnx)  # names every unsupported node before any work
    inputs = by_name(calibration, list(frames), "calibration")
    hiding = settle_added(qonnx, inputs)
    spelled = qonnx.clone() if rewritten or hiding else None  # before scales get ranges, some of them by design
    stage("calibrating")
    calibrate(qonnx, inputs, margin)
    repeated = turns.prepare(qonnx, inputs, margin) if in_turn else None
    stage("lowering")
    sources = {
        name: Wide.mask(frame) if name in hiding else Wide(frame, *fixed_point_input(inputs[name], margin))
        for name, frame in frames.items()
    }
    lowered = walk.lower(qonnx, sources, repeated)
    network = read(lowered.model)
    stage("folding")
    hardware = loops.in_hardware(network)
    places = memory_of.choose(hardware, wanted)
    hardware = memory_of.placed(hardware, places, bus, part)
    placed = emit.place(hardware, budgets.fold_within(hardware, target_cycles, limits, folding, kinds))
    stage("comparing with the model")
    sample = {name: array[:64] for name, array in inputs.items()}
    if spelled is not None:
        verify.check_rewritten(given, spelled, sample)
    fixed = all_fixed(sample, network)
    compared = verify.compare(qonnx, lowered.model, network, lowered.tensors, lowered.views, sample, fixed)

    report = {"path": str(out), "part": part, "version": mxexport.__version__, "model": _source(model)}
    report |= describe(placed, clock_mhz, target_fps, folding, part)
    report["memory"] = {"bus_bits": bus, "layers": memory_of.table(hardware, placed.foldings, places)}
    report["tensors"] = lowered.tensors
    report["views"] = {name: view.text() for name, view in lowered.views.items()}
    report["calibration"] = {
        "frames": min(map(len, inputs.values())),
        "margin": margin,
        "saturated_inputs": all_saturated(inputs, network),
    }
    report["comparison"] = asdict(compared)
    stage("writing")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with staging(out) as staged:
            graph.save(qonnx, staged / "calibrated.onnx")
            graph.save(lowered.model, staged / "dataflow.onnx")
            _write_rtl(placed, staged)
            chosen = {p.layer: placed.foldings[p.name] for p in hardware.products()}
            (staged / "folding.yaml").write_text(options.folding_text(chosen))
            (staged / "report.html").write_text(design_page(report).to_html())
            (staged / REPORT).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
            frames = {name: array[: package.FRAMES] for name, array in sample.items()}
            streams = all_fixed(frames, network)
            streams |= executors.run(staged / "dataflow.onnx", streams, list(network.outputs))
            package.write(finn_reports.texts(report, stage.seconds()), staged)
            packed = package.texts(placed, report, package.name_of(out), streams)
            package.write(package.ours(packed, out), staged / _BESIDE)
            design = _move_into(staged, out)
    except OSError as error:
        raise InputFileError(f"compile: cannot write to {_named(out)}: {error.strerror or error}") from error
    for words in filter(None, (report["limit"], too_large(report))):
        warnings.warn(words, stacklevel=2)
    return design


class _Stages:
    """Tells what is done, and remembers how long each stage took."""

    def __init__(self, tell: Callable[[str], None]):
        self._tell, self._begun = tell, {}

    def __call__(self, stage: str) -> None:
        self._begun[stage] = time.monotonic()
        self._tell(stage)

    def seconds(self) -> dict[str, float]:
        """Of every stage so far."""
        ends = [*self._begun.values(), time.monotonic()][1:]
        return {stage: end - begun for (stage, begun), end in zip(self._begun.items(), ends, strict=True)}


_BESIDE = "beside"
"""Of the staged files: what stands beside the user's own in folders that are not replaced as a whole."""


def _source(model: str | os.PathLike) -> dict[str, str]:
    """Which file a design was made of."""
    with open(model, "rb") as file:
        return {"path": str(model), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _writable(out: Path) -> Path:
    """`out`, before any work. Raises InputFileError where a directory cannot come to be."""
    if "\0" in str(out):
        raise InputFileError(f"compile: cannot write to {_named(out)}: its name holds a NUL")
    first = next(p for p in (out, *out.absolute().parents) if os.path.lexists(p))
    if not first.is_dir():
        raise InputFileError(f"compile: cannot write to {out}: {first} is no directory; give another name")
    return out


def _named(out: Path) -> str:
    """The path in words, cut where it is very long."""
    text = str(out)
    return repr(text if len(text) < 200 else f"{text[:80]}…{text[-40:]}")


def _write_rtl(design: emit.Design, directory: Path) -> None:
    (directory / "rtl").mkdir()
    (directory / "mem").mkdir()
    for source in library.rtl_sources():
        shutil.copy(source, directory / "rtl" / source.name)
    (directory / "rtl" / f"{emit.TOP}.sv").write_text(emit.top_level(design))
    emit.write_memories(design, directory / "mem")


def _move_into(staged: Path, out: Path) -> Design:
    """Replace what `out` has of this design; report.json is away meanwhile and comes last, so that it vouches for the
    rest. What else lies there stays. Gives what stands there before another process may replace it."""
    out.mkdir(exist_ok=True)
    with locked(out):
        (out / REPORT).unlink(missing_ok=True)
        for entry in staged.iterdir():
            target = out / entry.name
            if entry.name in (REPORT, _BESIDE):
                continue
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
        for file in (staged / _BESIDE).rglob("*"):
            if file.is_file():
                target = out / file.relative_to(staged / _BESIDE)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
        os.replace(staged / REPORT, out / REPORT)
        return Design(out)
