"""A compiled design as units inside of FINN: a graph of its matrix layers, and a folder for each of them.

    finn.onnx                  nodes MxLayer, integers between them, a Mul at the end that makes values of them
    units/NAME/dataflow.onnx   what the unit computes, in plain onnxruntime
    units/NAME/rtl, mem        its SystemVerilog and ROMs
    units/NAME/unit.json       its streams, folding, cycles and area
    rtl/                       the library that all units share

`finn_plugin.py` beside this file is FINN's side: it reads such a folder, and knows nothing else of mxexport.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

import mxexport
from mxexport.errors import InputFileError, OptionError, UnsupportedError, VerificationError
from mxexport.fpga import library, parts
from mxexport.fpga.checking.framing import all_fixed, by_name
from mxexport.fpga.design import Design
from mxexport.fpga.parts import Part
from mxexport.fpga.reports import finn_reports
from mxexport.fpga.reports.report import describe_product
from mxexport.fpga.reports.stored_report import REPORT
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.writing import emit
from mxexport.fpga.writing.identifiers import identifiers
from mxexport.model import graph
from mxexport.model.staging import locked, staging
from mxexport.running import executors
from mxexport.targets.verifying import Verify

MODEL, UNITS, UNIT = "finn.onnx", "units", "unit.json"
DOMAIN, OPERATOR = "finn.custom_op.fpgadataflow", "MxLayer"
PLUGIN = Path(__file__).with_name("finn_plugin.py")
IR_VERSION, OPSET = 8, 17
_FRAMES = 4
_HOW = f"""go on in FINN+ 1.6 with the units registered:
  from finn_plugin import build_steps  # {PLUGIN}
  DataflowBuildConfig(..., steps=build_steps(FOLDER), standalone_thresholds=True)
or see resources and cycles at once: python finn_plugin.py FOLDER build/"""


def convert_design(source: str | os.PathLike, out: str | os.PathLike, verify: Verify) -> tuple[list, str]:
    """Write the folder `out` from the folder of a compiled design; (notes, how it was compared).

    verify: the units run one after the other and must give the design's integers, every one, between layers and at the
        end: on frames drawn with a seed, or those given; False: not at all.

    Raises:
        InputFileError: no design, or `out` cannot be written.
        UnsupportedError: several outputs, or one whose step float32 does not hold; layers in turn.
        VerificationError: units that give other integers.
    """
    design, out = Design(source), _writable(Path(out))
    network = design.network
    _check_ends(design)
    if design.hardware.loop is not None:
        found = f"{design.path}: its layers take turns in one piece of hardware, which FINN cuts between layers"
        raise UnsupportedError(f"{found}; compile it without in_turn")
    found = parts.cut(graph.load(design.path / "dataflow.onnx"), network, design.foldings)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with staging(out) as staged:
            names = [_write_unit(part, staged / UNITS) for part in found]
            verified = _compare(design, found, [staged / UNITS / name for name in names], verify)
            (staged / "rtl").mkdir()
            for file in library.rtl_sources():
                shutil.copy(file, staged / "rtl" / file.name)
            onnx.save(_graph(found, names), staged / MODEL)
            _move_into(staged, out)
    except OSError as error:
        raise InputFileError(f"convert --to finn: cannot write to {out}: {error.strerror or error}") from error
    return [("model", _HOW), *_input_notes(design), *map(_note, found)], verified


def _writable(out: Path) -> Path:
    if "\0" in str(out) or (os.path.lexists(out) and not out.is_dir()):
        raise InputFileError(f"convert --to finn: {str(out)!r} is no directory; a design becomes a folder: name one")
    if (out / REPORT).exists():
        raise InputFileError(f"convert --to finn: {out} holds a compiled design; give another name")
    return out


def _check_ends(design: Design) -> None:
    network = design.network
    if len(network.outputs) > 1:
        names = ", ".join(network.tensors[s] for s in network.outputs)
        why = f"outputs {names}: FINN's layers give one stream each, expected one output; export them one by one"
        raise UnsupportedError(f"convert --to finn: {design.path}: {why}")
    stream = network.result
    if not -126 <= stream.lsb_exp <= 127:
        why = f"its output counts steps of 2**{stream.lsb_exp}, expected a float32; scale the last layer"
        raise UnsupportedError(f"convert --to finn: {design.path}: {why}")


def _move_into(staged: Path, out: Path) -> None:
    """Replace what `out` has of such a folder; finn.onnx is away meanwhile and comes last."""
    out.mkdir(exist_ok=True)
    with locked(out):
        (out / MODEL).unlink(missing_ok=True)
        for name in (UNITS, "rtl"):
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            os.replace(staged / name, out / name)
        os.replace(staged / MODEL, out / MODEL)


# --- units ---------------------------------------------------------------------------------------------------------


def _write_unit(part: Part, units: Path) -> str:
    """Its folder below `units`; what it is called. The name of its module is that of no other unit."""
    (text,) = identifiers([part.name])
    described = _description(part)
    digest = hashlib.sha256(graph.to_proto(part.model).SerializeToString(deterministic=True))
    digest.update(json.dumps([mxexport.__version__, described]).encode())
    name, top = f"{text}_{digest.hexdigest()[:8]}", f"mx_unit_{digest.hexdigest()[:12]}"
    folder = units / name
    (folder / "rtl").mkdir(parents=True)
    (folder / "mem").mkdir()
    graph.save(part.model, folder / "dataflow.onnx")
    (folder / "rtl" / f"{top}.sv").write_text(emit.top_level(part.design, top))
    emit.write_memories(part.design, folder / "mem")
    files = {
        "top": top,
        "status": list(emit.status_bits(part.design)),
        "library": [file.name for file in library.rtl_sources()],
        "rtl": [f"{top}.sv"],
        "memories": sorted(file for cell in part.design.cells for file in cell.memories),
    }
    (folder / UNIT).write_text(json.dumps(described | files, indent=1, allow_nan=False) + "\n")
    return name


def _description(part: Part) -> dict:
    network = part.network
    folding = part.foldings[part.slowest.name]
    layers = [describe_product(network, p, part.foldings[p.name]) for p in network.products()]
    return {
        "name": part.name,
        "inputs": [_end(part, s) for s in network.inputs],
        "outputs": [_end(part, s) for s in network.outputs],
        "pe": folding.pe,
        "simd": folding.simd,
        "layer": part.slowest.layer,
        "foldings": {name: asdict(f) for name, f in part.foldings.items()},
        "cycles": part.cycles,
        "latency_cycles": part.latency,
        "estimate": part.estimate().table(),
        "counts": finn_reports.counts(layers)["total"],
    }


def _end(part: Part, stream: str) -> dict:
    kind, lanes = part.network.streams[stream], part.lanes[stream]
    return {
        "name": stream,
        "shape": list(kind.shape),
        "bits": kind.width,
        "nonnegative": kind.nonnegative,
        "lsb_exp": kind.lsb_exp,
        "lanes": lanes,
        "beats": kind.beats(lanes),
    }


def datatype(kind: Wide) -> str:
    """What qonnx calls a stream: the bit of the sign does not travel where there is none."""
    return f"UINT{kind.width - 1}" if kind.nonnegative else f"INT{kind.width}"


def _input_notes(design: Design) -> list[tuple[str, str]]:
    found = []
    for stream in design.network.inputs:
        kind = design.network.streams[stream]
        shape = ", channels last" if len(kind.shape) == 3 else ""
        what = f"integers of {kind.width} bits, one is 2**{kind.lsb_exp}; shape {[1, *kind.shape]}{shape}"
        found.append((f"input {stream}", what))
    return found


def _note(part: Part) -> tuple[str, str]:
    area = part.estimate().table()
    taken = ", ".join(f"{area[kind]:,.4g} {kind.upper()}" for kind in ("lut", "dsp", "bram36") if area[kind])
    return part.name, f"one unit, {part.foldings[part.slowest.name]}: {part.cycles:,} cycles a frame, about {taken}"


# --- the graph -----------------------------------------------------------------------------------------------------


def _graph(found: list[Part], names: list[str]) -> onnx.ModelProto:
    """Nodes in order; whole numbers everywhere but behind the Mul of every output, whose values are the network's."""
    nodes = [_node(part, name) for part, name in zip(found, names, strict=True)]
    streams = {s: p.network.streams[s] for p in found for s in (*p.network.inputs, *p.network.outputs)}
    first, last = found[0].network, found[-1].network
    outputs, initializers = [], []
    for stream in last.outputs:
        scale, values = f"{stream}.scale", f"{stream}.values"
        step = np.float32(2.0) ** streams[stream].lsb_exp
        initializers.append(onnx.numpy_helper.from_array(np.array(step, np.float32), scale))
        nodes.append(helper.make_node("Mul", [stream, scale], [values], name=values))
        outputs.append(_tensor(values, streams[stream]))
    inputs = [_tensor(s, streams[s]) for s in first.inputs]
    inner = [_tensor(s, kind) for s, kind in streams.items() if s not in first.inputs]
    made = helper.make_graph(nodes, "units", inputs, outputs, initializers, value_info=inner)
    made.quantization_annotation.extend(_annotation(s, kind) for s, kind in streams.items())
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="mxexport")


def _node(part: Part, name: str) -> onnx.NodeProto:
    network, folding = part.network, part.foldings[part.slowest.name]
    return helper.make_node(
        OPERATOR,
        list(network.inputs),
        list(network.outputs),
        name=part.name,
        domain=DOMAIN,
        backend="fpgadataflow",
        unit=name,
        PE=folding.pe,
        SIMD=folding.simd,
        inputDataTypes=[datatype(network.streams[s]) for s in network.inputs],
    )


def _tensor(name: str, kind: Wide) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, *kind.shape])


def _annotation(name: str, kind: Wide) -> onnx.TensorAnnotation:
    entry = onnx.StringStringEntryProto(key="finn_datatype", value=datatype(kind))
    return onnx.TensorAnnotation(tensor_name=name, quant_parameter_tensor_names=[entry])


# --- compared with the design --------------------------------------------------------------------------------------


def _compare(design: Design, found: list[Part], folders: list[Path], verify: Verify) -> str:
    """Every unit against what the whole dataflow graph gives there, on the integers that the unit before it gave."""
    if verify is False:
        return "not compared, as asked"
    streams = _frames(design, verify)
    count = len(next(iter(streams.values())))
    wanted = [s for part in found for s in part.network.outputs]
    expected = executors.run(design.path / "dataflow.onnx", streams, wanted)
    for part, folder in zip(found, folders, strict=True):
        given = {s: streams[s] for s in part.network.inputs}
        streams |= executors.run(folder / "dataflow.onnx", given, list(part.network.outputs))
        for s in part.network.outputs:
            if not np.array_equal(streams[s], expected[s]):
                what = f"unit {part.name!r} gives other integers than the design"
                raise VerificationError(f"convert --to finn: {design.path}: {what}; please report it")
    return f"every integer behind every unit equals the design's, {count} frames"


def _frames(design: Design, verify: Verify) -> dict[str, np.ndarray]:
    network = design.network
    if verify is not None and verify is not True:
        given: Mapping | tuple | np.ndarray = verify
        return all_fixed(by_name(given, [network.tensors[s] for s in network.inputs], "verify"), network)
    rng, found = np.random.default_rng(1), {}
    for stream in network.inputs:
        kind = network.streams[stream]
        most = 2 ** (kind.width - 1)
        found[stream] = rng.integers(-most, most, (_FRAMES, *kind.shape))
    return found


def check_options(options: Mapping) -> None:
    """Raises OptionError: a design takes none of those that a file takes."""
    if options:
        raise OptionError(f"convert --to finn: a compiled design takes no {', '.join(sorted(options))}")
