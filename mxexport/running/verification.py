"""Checks that models, stages and executors compute the same bits."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import OptionError, ShapeError, VerificationError
from mxexport.model import graph
from mxexport.model.calls import output_names
from mxexport.model.reader import read_proto
from mxexport.numbers.bits import equal_bits
from mxexport.ops import OPERATORS
from mxexport.reporting.cells import html_table
from mxexport.running import executors, preparing
from mxexport.running.comparison import TensorComparison, Tolerance, check_tolerance, compare
from mxexport.running.drawing import random_inputs
from mxexport.running.executors import ModelLike
from mxexport.running.isolated import run_isolated

__all__ = ["Tolerance", "TensorComparison", "Verification", "count_quantizer_differences", "equal_bits", "verify"]

_ISOLATE_ABOVE = 256 << 20  # bytes of weights
_CHUNK = 512 << 20  # bytes of tensors compared at once


@dataclass(frozen=True)
class Verification:
    """What `verify` found. True where the models agree; `tensors` in the order the first model computes them."""

    a: str
    b: str
    executor: str
    tolerance: Tolerance
    tensors: list[TensorComparison]
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """Most resident memory of the processes that ran each model (empty where they ran in this one)."""

    @property
    def equal(self) -> bool:
        return all(t.equal for t in self.tensors)

    def __bool__(self) -> bool:
        return self.equal

    @property
    def first_difference(self) -> TensorComparison | None:
        return next((t for t in self.tensors if not t.equal), None)

    def raise_if_different(self) -> None:
        """Raises VerificationError with the text of `str(self)`."""
        if not self.equal:
            raise VerificationError(str(self))

    def to_json(self) -> str:
        first = self.first_difference
        data = asdict(self) | {"equal": self.equal, "first_difference": first.name if first else None}
        return json.dumps(data, indent=2)

    def _repr_html_(self) -> str:
        """The tensors that differ (or all were equal) as a table, for notebooks."""
        wrong = [(t.name, t.outside, t.values, t.max_ulp, t.sqnr_db) for t in self.tensors if not t.equal]
        title = str(self).splitlines()[0]
        return html_table(title, ("tensor", "values that differ", "of", "at most ulp", "SQNR dB"), wrong)

    def __str__(self) -> str:
        values = sum(t.values for t in self.tensors)
        counts = f"{len(self.tensors)} tensors, {values:,} values"
        head = f"{self.a} and {self.b} in {self.executor}, {self.tolerance}: {counts}"
        if self.equal:
            return f"equal: {head}"
        wrong = [t for t in self.tensors if not t.equal]
        lines = [f"DIFFERENT: {head}", f"first differing tensor: {_describe(wrong[0])}"]
        lines += [f"  {_describe(t)}" for t in wrong[1:20]]
        return "\n".join(lines + [f"  and {len(wrong) - 20} more"] * (len(wrong) > 20))


def _describe(t: TensorComparison) -> str:
    if t.problem:
        return f"{t.name!r}: {t.problem}"
    parts = [f"{t.outside:,} of {t.values:,} values", f"first at {t.index}: {t.found[0]} and {t.found[1]}"]
    if t.max_ulp is not None:
        parts.append(f"at most {t.max_ulp:,} ulp")
    if t.sqnr_db is not None:
        parts.append(f"SQNR {t.sqnr_db} dB")
    return f"{t.name!r}: " + ", ".join(parts)


def verify(
    a: ModelLike,
    b: ModelLike,
    inputs: Any = None,
    *,
    executor: str = "onnxruntime",
    tolerance: Tolerance | None = None,
    tensors: str | list[str] = "shared",
    seed: int = 0,
    isolate: bool | None = None,
) -> Verification:
    """Run two models on the same inputs and compare outputs and the tensors both name alike.

    inputs: a dict, a tuple in graph order or one array; None draws them from the shapes `a` declares (normal floats,
        small integers that any table can be indexed with, open dimensions 2) with `seed`.
    tolerance: None demands equal bits (any NaN equals any NaN).
    tensors: "shared" (all that nodes of both top graphs make), "outputs", or names; outputs are always compared. A
        model's outputs are computed with the model as it is; tensors inside need a run with other outputs, for which
        onnxruntime may fuse operators otherwise.
    isolate: run each model in a process of its own, one after the other, so that memory holds one at a time; None does
        so for files with 256 MB of weights or more.

    Raises:
        InputFileError, ShapeError, OptionError: bad files, inputs, or names.
    """
    executors.find_executor(executor)
    tolerance = check_tolerance(Tolerance() if tolerance is None else tolerance)
    if not isinstance(seed, Integral) or isinstance(seed, bool) or seed < 0:
        raise OptionError(f"seed is {seed!r}; expected a whole number, 0 or more")
    models = (a, b)
    outlines = tuple(map(_outline, models))
    fed_a = executors.feeds(outlines[0], random_inputs(outlines[0], seed) if inputs is None else inputs)
    fed = (fed_a, _feeds_for_second(fed_a, *outlines))
    outputs = _pair_outputs(*outlines)
    inner = [n for n in _inner(tensors, *outlines) if n not in outputs]
    files = all(not isinstance(m, (onnx.ModelProto, ir.Model)) for m in models)
    if isolate and not files:
        raise OptionError("isolate: processes of their own need both models as files")
    if isolate is None:
        isolate = files and max(map(_weight_bytes, outlines)) >= _ISOLATE_ABOVE
    runner = _Runner(models, fed, executor, isolate)
    found = {}
    for names in _chunks(outlines[0], inner, fed_a):
        for name, pair in runner.run(names, names):
            found[name] = compare(name, *pair, tolerance)
    for name, pair in runner.run(list(outputs), list(outputs.values())):
        found[name] = compare(name, *pair, tolerance)
    order = [o for n in outlines[0].graph.node for o in n.output if o in found]
    ordered = [found[n] for n in dict.fromkeys([*order, *found])]
    labels = [str(m) if files else f"{kind} model" for m, kind in zip(models, ("first", "second"), strict=True)]
    return Verification(*labels, executor, tolerance, ordered, runner.peaks)


class _Runner:
    """Runs the two models for some tensors at a time, in this process or each in one of its own."""

    def __init__(self, models, fed, executor: str, isolate: bool):
        self.models, self.fed, self.executor, self.isolate = models, fed, executor, isolate
        self.peaks: dict[str, int] = {}

    def run(self, names_a: list[str], names_b: list[str]) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
        if not names_a:
            return
        with tempfile.TemporaryDirectory(prefix="mxexport-verify-") as directory:
            found = [self._one(i, names, Path(directory)) for i, names in enumerate((names_a, names_b))]
            for first, second in zip(names_a, names_b, strict=True):
                yield first, (np.asanyarray(found[0].pop(first)), np.asanyarray(found[1].pop(second)))

    def _one(self, i: int, names: list[str], directory: Path) -> dict[str, np.ndarray]:
        if not self.isolate:
            return dict(executors.find_executor(self.executor)(self.models[i], self.fed[i], names))
        arrays, peak = run_isolated(Path(self.models[i]), self.fed[i], names, self.executor, directory / "ab"[i])
        self.peaks["ab"[i]] = max(peak, self.peaks.get("ab"[i], 0))
        return arrays


# --- what is compared -----------------------------------------------------------------------------------------


def _outline(model: ModelLike) -> onnx.ModelProto:
    """The proto for its names, shapes and types; tensors of data files and large ones may be without data."""
    if isinstance(model, onnx.ModelProto):
        return model
    return preparing.outline(model) if isinstance(model, ir.Model) else read_proto(model)


def _pair_outputs(a: onnx.ModelProto, b: onnx.ModelProto) -> dict[str, str]:
    first, second = ([o.name for o in m.graph.output] for m in (a, b))
    if set(first) == set(second):
        return {name: name for name in first}
    if len(first) == len(second):
        return dict(zip(first, second, strict=True))
    raise ShapeError(f"the models have different outputs: {', '.join(first)} and {', '.join(second)}")


def _feeds_for_second(fed: dict[str, np.ndarray], a: onnx.ModelProto, b: onnx.ModelProto) -> dict[str, np.ndarray]:
    """By name, or in order where the names differ."""
    constants = {i.name for i in b.graph.initializer}
    wanted = [i.name for i in b.graph.input if i.name not in constants]
    ordered = [fed[i.name] for i in a.graph.input if i.name in fed]
    return executors.feeds(b, {n: fed[n] for n in wanted} if set(wanted) <= set(fed) else tuple(ordered))


def _inner(tensors: str | list[str], a: onnx.ModelProto, b: onnx.ModelProto) -> list[str]:
    made = [{o: None for n in m.graph.node for o in n.output if o} for m in (a, b)]
    constants = [{i.name for i in m.graph.initializer} for m in (a, b)]
    both = [n for n in made[0] if n in made[1] or n in constants[1]] + [n for n in made[1] if n in constants[0]]
    if tensors == "shared":
        return both
    if tensors == "outputs":
        return []
    if isinstance(tensors, str) or tensors is None:
        raise OptionError(f"tensors {tensors!r}: expected 'shared', 'outputs' or a list of names")
    tensors = [] if isinstance(tensors, (list, tuple)) and not tensors else output_names(tensors, "tensors")
    known = set(both) | (constants[0] & constants[1])
    if unknown := [n for n in tensors if n not in known and n not in {o.name for o in a.graph.output}]:
        raise OptionError(f"tensors: not in both models: {', '.join(unknown)}")
    return tensors


def _weight_bytes(proto: onnx.ModelProto) -> int:
    kinds = [(t, ir.DataType(t.data_type)) for t in proto.graph.initializer]
    return sum(math.prod(t.dims) * max(1, kind.itemsize) for t, kind in kinds if kind != ir.DataType.STRING)


def _chunks(proto: onnx.ModelProto, names: list[str], fed: dict[str, np.ndarray]) -> Iterator[list[str]]:
    """Names in the order given, in runs of about `_CHUNK` bytes; tensors that come from weights alone apart from those
    that need the network to run."""
    varying = {i.name for i in proto.graph.input} - {i.name for i in proto.graph.initializer}
    for node in proto.graph.node:
        if not varying.isdisjoint(node.input):
            varying.update(node.output)
    bytes_of = _sizes(proto, fed)
    for group in ([n for n in names if n not in varying], [n for n in names if n in varying]):
        chunk, size = [], 0
        for name in group:
            if chunk and size + bytes_of(name) > _CHUNK:
                yield chunk
                chunk, size = [], 0
            chunk.append(name)
            size += bytes_of(name)
        if chunk:
            yield chunk


def _sizes(proto: onnx.ModelProto, fed: dict[str, np.ndarray]):
    """Bytes by name, with open dimensions as the inputs have them; a tensor of unknown shape counts as the largest."""
    known: dict[str, int] = {}
    for value in proto.graph.input:
        for d, n in zip(
            value.type.tensor_type.shape.dim, fed[value.name].shape if value.name in fed else (), strict=False
        ):
            if d.dim_param:
                known[d.dim_param] = n
    sizes = {}
    for value in (*proto.graph.value_info, *proto.graph.output):
        t = value.type.tensor_type
        dims = [d.dim_value or known.get(d.dim_param) for d in t.shape.dim]
        if t.HasField("shape") and t.elem_type and None not in dims:
            sizes[value.name] = math.prod(dims) * onnx.helper.tensor_dtype_to_np_dtype(t.elem_type).itemsize
    largest = max(sizes.values(), default=1 << 20)
    return lambda name: sizes.get(name, largest)


# --- quantizers against numpy ---------------------------------------------------------------------------------


def count_quantizer_differences(model: ir.Model, inputs, execute=executors.run) -> dict[str, int]:
    """Node name -> values whose bits differ from the numpy reference given the very input the node saw.

    Runs the graph once in `execute` (`executors.run`, `run_qonnx` or `run_reference`), asking for the input, scale and
    output of every scale, quantizer and dequantizer node.
    """
    kinds = graph.QUANTIZERS | graph.SCALES | graph.DEQUANTIZERS | graph.STORED_SCALES | graph.ZERO_POINTS
    nodes = [n for n in model.graph if graph.is_ours(n, kinds)]
    wanted = list(dict.fromkeys(v.name for n in nodes for v in (*n.inputs, *n.outputs) if v is not None))
    known = {v.name: v.const_value.numpy() for v in model.graph.initializers.values()}
    seen = known | _run_for(model, inputs, [name for name in wanted if name not in known], execute)
    differences = {}
    for node in nodes:
        arrays = [None if v is None else seen[v.name] for v in node.inputs]
        (expected,) = OPERATORS[node.op_type].reference(*arrays, **graph.attributes(node))
        differences[node.name] = int((~equal_bits(expected, seen[node.outputs[0].name])).sum())
    return differences


def _run_for(model: ir.Model, inputs, names: list[str], execute) -> dict[str, np.ndarray]:
    proto = executors.load_proto(model)
    fed = executors.feeds(proto, inputs)
    missing = [name for name in names if name not in fed]
    return fed | (execute(proto, fed, missing) if missing else {})
