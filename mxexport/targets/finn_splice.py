"""One graph for FINN of several that follow each other: its own layers (`convert FILE --to finn`) and units of ours
(`convert DESIGN --to finn`), in any order."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mxexport.errors import InputFileError, OptionError, UnsupportedError
from mxexport.model import graph
from mxexport.model.writer import writable, write_bytes
from mxexport.targets._ranges import grids
from mxexport.targets.finn_units import IR_VERSION, MODEL, OPERATOR, UNIT, UNITS

_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


@dataclass
class _Stage:
    """A graph to be joined. `units`: of units, which take whole numbers of `step` and lie channels last; `given`: the
    power of two that all it gives are multiples of, None where nobody knows."""

    name: str
    model: onnx.ModelProto
    units: bool
    step: int | None
    given: int | None

    @property
    def shapes(self) -> tuple[list[int], list[int]]:
        return tuple([d.dim_value for d in v.type.tensor_type.shape.dim] for v in (self.source, self.result))

    @property
    def source(self) -> onnx.ValueInfoProto:
        return self.model.graph.input[0]

    @property
    def result(self) -> onnx.ValueInfoProto:
        return self.model.graph.output[0]


@dataclass
class _Joined:
    nodes: list = field(default_factory=list)
    initializers: list = field(default_factory=list)
    values: list = field(default_factory=list)
    annotations: list = field(default_factory=list)


def splice(stages: Sequence[str | os.PathLike], path: str | os.PathLike) -> Path:
    """Write `path`: what the first of `stages` gives goes into the second, and so on. A stage is an ONNX file that
    `convert --to finn` wrote of a model, or the folder that it wrote of a design.

    Between them stand, where units take whole numbers, a Mul by a power of two, and a Transpose where images change
    their layout. FINN's streamlining takes both away. The folders of units stay where they are: FINN's side is told of
    them (`finn_plugin.build_steps`).

    Raises:
        OptionError: fewer than two stages.
        InputFileError: a stage cannot be read, or the file not written.
        UnsupportedError: shapes, steps or opsets that do not fit; says which.
    """
    if len(stages) < 2:
        raise OptionError(f"splice: {len(stages)} stages given, expected two at least")
    path, found = writable(path), [_read(Path(stage)) for stage in stages]
    opsets = {s.name: _opset(s) for s in found if not s.units}
    if len(set(opsets.values())) > 1:
        listed = ", ".join(f"{name}: {version}" for name, version in opsets.items())
        raise UnsupportedError(f"splice: different opsets ({listed}), expected one; convert with the same opset=")
    joined, value = _Joined(), ""
    for i, stage in enumerate(found):
        _prefix(stage.model.graph, f"{i}/")
        if i:
            value = _border(joined, value, found[i - 1], stage)
        _append(joined, stage.model.graph, value)
        value = stage.result.name
    model = _model(found, joined)
    try:
        write_bytes(path, model.SerializeToString())
    except OSError as error:
        raise InputFileError(f"splice: cannot write {path}: {error.strerror or error}") from error
    return path


def _model(found: list[_Stage], joined: _Joined) -> onnx.ModelProto:
    source, result = found[0].source, found[-1].result
    values = [v for v in joined.values if v.name != result.name]
    made = helper.make_graph(joined.nodes, "spliced", [source], [result], joined.initializers, value_info=values)
    made.quantization_annotation.extend(joined.annotations)
    versions = {o.domain: o.version for s in found for o in s.model.opset_import} | {"": _opset_of(found)}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    functions = {(f.domain, f.name): f for s in found for f in s.model.functions}
    how = {"opset_imports": opsets, "functions": list(functions.values()), "ir_version": IR_VERSION}
    return helper.make_model(made, producer_name="mxexport", **how)


def _opset(stage: _Stage) -> int:
    return next(o.version for o in stage.model.opset_import if o.domain == "")


def _opset_of(found: list[_Stage]) -> int:
    """That of files; graphs of units hold nothing but Mul, which means the same in all."""
    return next((_opset(s) for s in found if not s.units), _opset(found[0]))


def _read(stage: Path) -> _Stage:
    units = stage.is_dir()
    loaded = graph.load(stage / MODEL if units else stage)
    known = {} if units else {value.name: grid.exponent for value, grid in grids(loaded).items()}
    model = graph.to_proto(loaded)
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        counts = f"{len(model.graph.input)} inputs and {len(model.graph.output)} outputs"
        raise UnsupportedError(f"splice: {stage} has {counts}, expected one of each")
    if not units:
        return _Stage(str(stage), model, False, None, known.get(model.graph.output[0].name))
    ends = [_unit_of(stage, node) for node in model.graph.node if node.op_type == OPERATOR]
    return _Stage(str(stage), model, True, ends[0]["inputs"][0]["lsb_exp"], ends[-1]["outputs"][0]["lsb_exp"])


def _unit_of(folder: Path, node: onnx.NodeProto) -> dict:
    """unit.json of a node; its name is that of a folder beside the file, and no path."""
    name = next((a.s.decode() for a in node.attribute if a.name == "unit"), "")
    file = folder / UNITS / name / UNIT
    if not name or name != Path(name).name:
        raise InputFileError(f"{folder}: node {node.name!r} names unit {name!r}; expected the name of a folder")
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputFileError(f"{file} cannot be read ({error}); convert the design again") from error


def _prefix(g: onnx.GraphProto, prefix: str) -> None:
    """Names of one graph are those of no other; an absent input stays absent."""
    for node in g.node:
        node.name = prefix + node.name
        node.input[:] = [prefix + name if name else "" for name in node.input]
        node.output[:] = [prefix + name if name else "" for name in node.output]
    for value in (*g.input, *g.output, *g.value_info, *g.initializer):
        value.name = prefix + value.name
    for annotation in g.quantization_annotation:
        annotation.tensor_name = prefix + annotation.tensor_name


def _append(joined: _Joined, g: onnx.GraphProto, source: str) -> None:
    """`source`: what its input is read from; "" where it stays an input."""
    if source:
        for node in g.node:
            node.input[:] = [source if name == g.input[0].name else name for name in node.input]
    joined.nodes += g.node
    joined.initializers += g.initializer
    joined.values += [v for v in (*g.value_info, *g.output) if v.name not in {known.name for known in joined.values}]
    inner = {name for node in g.node for name in (*node.input, *node.output)}
    joined.annotations += [a for a in g.quantization_annotation if a.tensor_name in inner]


def _border(joined: _Joined, value: str, before: _Stage, behind: _Stage) -> str:
    """What brings the result of one stage into the next; the name of what it reads."""
    shape, wanted = before.shapes[1], behind.shapes[0]
    if len(shape) == 4 and before.units != behind.units:
        order = _TO_LAST if behind.units else _TO_FIRST
        joined.nodes.append(helper.make_node("Transpose", [value], [f"{value}/turned"], f"{value}/turned", perm=order))
        value, shape = f"{value}/turned", [shape[i] for i in order]
    if shape != wanted:
        what = f"{before.name} gives {shape}, {behind.name} takes {wanted}"
        raise UnsupportedError(f"splice: {what}, expected equal shapes{' (channels last)' * behind.units}")
    if not behind.units:
        return value
    if before.given != behind.step:
        given = "values of unknown step" if before.given is None else f"multiples of 2**{before.given}"
        how = "end it with a quantizer, and compile the design with its outputs as calibration"
        raise UnsupportedError(f"splice: {before.name} gives {given}, {behind.name} takes 2**{behind.step}; {how}")
    factor = np.array(np.ldexp(1.0, -behind.step), np.float32)
    joined.initializers.append(numpy_helper.from_array(factor, f"{value}/steps"))
    joined.nodes.append(helper.make_node("Mul", [value, f"{value}/steps"], [f"{value}/whole"], f"{value}/whole"))
    return f"{value}/whole"
