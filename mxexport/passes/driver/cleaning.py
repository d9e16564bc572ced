"""`mx.clean`: one ONNX file in, a simpler one that computes the same out, and a report of what was done."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import onnx
import onnx_ir as ir

from mxexport.model import graph, rewriting
from mxexport.model.opsets import raise_opset
from mxexport.model.writer import writable
from mxexport.ops import DOMAIN
from mxexport.ops._body import LOWEST_OPSET
from mxexport.passes.clean.fix_shapes import fix_shapes
from mxexport.passes.driver.collector import collector_paused
from mxexport.passes.driver.fixed_point import Approximation, Pass, Record, Verify, run_passes
from mxexport.passes.exactness import bound_of
from mxexport.reporting.cells import html_table
from mxexport.running import acceptance

_LOWEST_IR = 8
"""Functions came with 8; before 4, initializers had to be graph inputs, too."""

Source = str | os.PathLike | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class Census:
    """What a model consists of: operator -> count (nested graphs included), nodes, bytes of initializers."""

    operators: dict[str, int]
    nodes: int
    bytes: int


@dataclass(frozen=True, repr=False)
class CleanReport:
    """What `clean` wrote. `changed`: pass -> number of changes; `declined`: (pass, node, reason); `approximate`: the
    passes among those that changed something which are not exact; `verified`: pass -> how its result agreed, where
    verification was asked for; `stages`: files of the stages."""

    path: str
    before: Census
    after: Census
    changed: dict[str, int]
    declined: list[tuple[str, str, str]]
    approximate: list[Approximation] = field(default_factory=list)
    verified: list[tuple[str, str]] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def __repr__(self) -> str:
        changes = ", ".join(f"{name} {count}" for name, count in self.changed.items()) or "nothing to do"
        return f"<CleanReport {self.path!r}: {self.before.nodes} nodes -> {self.after.nodes}: {changes}>"

    def _repr_html_(self) -> str:
        """Operators before and after as a table, for notebooks."""
        before, after = self.before.operators, self.after.operators
        rows = [(name, before.get(name, 0), after.get(name, 0)) for name in sorted({*before, *after})]
        return html_table(repr(self), ("operator", "before", "after"), rows)


def clean(
    source: Source,
    path: str | os.PathLike,
    *,
    verify: Verify = None,
    save_stages: str | os.PathLike | None = None,
    shapes: Mapping[str, int | Sequence[int]] | None = None,
    passes: Iterable[Pass] | None = None,
    pack: bool | None = None,
    exact: bool = False,
    progress: Callable[[str], None] | None = None,
) -> CleanReport:
    """Write `source` (a file, a proto or an onnx-ir model, left as it is) to `path` after running `passes` on it.

    `shapes` fixes open dimensions first: {"batch": 1} or {"input": (1, 784)}. `passes`: default
    `mxexport.passes.PIPELINE`. `pack`: store quantized weights as packed codes in the end (last, because other passes
    look for quantizers); None: unless `passes` are given. `exact` leaves out every pass that states a bound
    (`@approximate`). `verify` and `save_stages` as in `run_passes`. What is written passes ONNX's checker and loads in
    onnxruntime.

    Raises:
        InputFileError: `source` is missing or unreadable, or the directory of `path` does not exist.
        OptionError: `shapes` names nothing in the graph, or inputs for verification cannot be made up.
        VerificationError: a pass changed what the model computes; nothing is written.
        UnsupportedError: an opset or operators that nobody knows, all nodes listed; a pass failed; nothing is written.
    """
    path = writable(path)
    with collector_paused():
        model = load(source)
    before, fixed = census(model), 0
    if shapes:
        fixed = len(fix_shapes(model, shapes).changed)
    steps = []
    for phase in _phases(passes, pack, exact):
        saved = sum(step.stage is not None for step in steps)
        record = run_passes(model, phase, verify, save_stages, progress, saved)
        model, steps = record.model, steps + record.steps
    total, after = Record(model, steps), census(model)
    with collector_paused():
        acceptance.check_result(model, f"clean: {path}")
        graph.save(model, path)
    return CleanReport(
        str(path),
        before,
        after,
        ({"fix_shapes": fixed} if fixed else {}) | total.changed,
        total.declined,
        total.approximate,
        [(step.name, step.verified) for step in steps if step.verified],
        [step.stage for step in steps if step.stage],
    )


def _phases(passes: Iterable[Pass] | None, pack: bool | None, exact: bool) -> list[tuple[Pass, ...]]:
    from mxexport.passes import PIPELINE, fold_weights

    first = PIPELINE if passes is None else tuple(passes)
    phases = [tuple(function for function in first if not (exact and bound_of(function)))]
    return [*phases, (fold_weights,)] if pack or (pack is None and passes is None) else phases


def load(source: Source) -> ir.Model:
    """A model of its own: the caller's stays as it is. One with operators of ours at an opset older than their bodies
    comes at the lowest that has what they are made of.

    Raises:
        InputFileError: missing or unreadable.
        UnsupportedError: an opset or operators that nobody knows, or no output.
    """
    if isinstance(source, ir.Model):
        model = source.clone()
    elif isinstance(source, onnx.ModelProto):
        model = ir.from_proto(source)
    else:
        model = graph.load(source)
    rewriting.name_standard_opset(model)
    what = f"clean: {source}" if isinstance(source, str | os.PathLike) else "clean"
    acceptance.check_source(model, what)
    model.ir_version = max(model.ir_version, _LOWEST_IR)
    if any(node.domain == DOMAIN for node in model.graph.all_nodes()):
        raise_opset(model, LOWEST_OPSET)
    return model


def census(model: ir.Model) -> Census:
    counts = Counter(_operator(node) for node in model.graph.all_nodes())
    size = sum(
        v.const_value.nbytes for g in model.graphs() for v in g.initializers.values() if v.const_value is not None
    )
    return Census(dict(sorted(counts.items())), sum(counts.values()), size)


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in rewriting.STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"
