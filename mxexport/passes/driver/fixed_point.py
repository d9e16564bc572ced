"""Runs a list of passes to a fixed point, and on request executes the model around every one that changed something."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnx_ir as ir

from mxexport.errors import InputFileError, MXExportError, OptionError, UnsupportedError, VerificationError
from mxexport.model import graph, rewriting
from mxexport.model.outcome import Outcome
from mxexport.ops import DOMAIN
from mxexport.passes.driver.collector import collector_paused
from mxexport.passes.driver.comparing import compare, same_outputs
from mxexport.passes.exactness import Bound, bound_of, name_of, runs_once
from mxexport.running.execution import Verify, drawn_inputs, execute, named_inputs

Pass = Callable[[ir.Model], Outcome]
_ROUNDS = 20


@dataclass
class Step:
    """One pass of one round. `verified`: None (not executed), "equal bits" or what lay within the pass's bound;
    `bound`: what the pass states, None for an exact one."""

    name: str
    round: int
    changed: list[str]
    declined: list[tuple[str, str]]
    verified: str | None = None
    stage: str | None = None
    bound: Bound | None = None


@dataclass(frozen=True)
class Approximation:
    """A pass that is not exact, and how often it changed something. `ulp`: how far it may move a tensor's values, in
    units in the last place of the tensor's largest magnitude; `reason`: why."""

    name: str
    changes: int
    ulp: float
    reason: str


@dataclass
class Record:
    """What a run did. `model` is the result; `declined` is what the last look at each pass left alone."""

    model: ir.Model
    steps: list[Step] = field(default_factory=list)

    @property
    def changed(self) -> dict[str, int]:
        """Pass name -> number of changes."""
        counts: dict[str, int] = {}
        for step in self.steps:
            counts[step.name] = counts.get(step.name, 0) + len(step.changed)
        return {name: count for name, count in counts.items() if count}

    @property
    def approximate(self) -> list[Approximation]:
        """Every pass that states a bound and changed something."""
        bounds = {step.name: step.bound for step in self.steps if step.bound and step.changed}
        return [Approximation(name, self.changed[name], b.ulp, b.reason) for name, b in bounds.items()]

    @property
    def declined(self) -> list[tuple[str, str, str]]:
        """(pass, node, reason)."""
        last = {step.name: step for step in self.steps}
        return [(step.name, node, reason) for step in last.values() for node, reason in step.declined]

    def to_json(self) -> str:
        return json.dumps([asdict(step) for step in self.steps], indent=2)


def run_passes(
    model: ir.Model,
    passes: Iterable[Pass],
    verify: Verify = None,
    save_stages: str | os.PathLike | None = None,
    progress: Callable[[str], None] | None = None,
    stages_before: int = 0,
) -> Record:
    """Run `passes` in order, again and again until a whole round changes nothing; transformations of qonnx run once.
    `model` itself stays as it is.

    Passes see symmetric quantizers without the zero points a file may need for its function bodies
    (`graph.drop_zero_points`); a model that holds bodies gets them anew in the end.

    `verify`: True executes on seeded random inputs, or give inputs (by name, in order, or one array): a pass must leave
    all outputs bit-equal, or within the bound it states (`@approximate`). `save_stages`: a directory for one file per
    pass that changed something, `01_pass_name.onnx`, …

    Raises:
        VerificationError: a pass changed what the model computes; names the pass, node and first tensor that differs.
        UnsupportedError: a pass failed, never reached a fixed point, or the model cannot be executed for verification.
    """
    with collector_paused():
        record = Record(_copied(model))
        graph.drop_zero_points(record.model)
    checker = _Checker(record.model, verify)
    stages = _Stages(save_stages, stages_before)
    passes = list(passes)
    version, seen = 0, [-1] * len(passes)  # the version of the model that each pass last left unchanged
    for number in range(1, _ROUNDS + 1):
        for i, function in enumerate(passes):
            if seen[i] == version or (runs_once(function) and number > 1):
                continue
            if progress:
                progress(f"{name_of(function)} (round {number})")
            checker.remember(record.model)
            outcome = _call(function, record.model)
            step = Step(name_of(function), number, outcome.changed, outcome.declined, bound=bound_of(function))
            record.steps.append(step)
            if outcome.modified:
                version += 1
                step.stage = stages.save(record.model, step.name)
                step.verified = checker.check(record.model, function)
            else:
                seen[i] = version
        if all(last == version or runs_once(f) for f, last in zip(passes, seen, strict=True)):
            if any(domain == DOMAIN for domain, *_ in record.model.functions):  # bodies as the calls are now
                graph.attach_functions(record.model)
            return record
    moving = [name_of(f) for f, last in zip(passes, seen, strict=True) if last != version and not runs_once(f)]
    raise UnsupportedError(
        f"passes: no fixed point after {_ROUNDS} rounds; passes that undo each other are among {', '.join(moving)}"
    )


def _copied(model: ir.Model) -> ir.Model:
    try:
        return model.clone()
    except RuntimeError as error:  # onnx-ir copies in the order of the nodes
        raise UnsupportedError("passes: the graph has a cycle, or nodes that stand before what they read") from error


def _call(function: Pass, model: ir.Model) -> Outcome:
    try:
        with collector_paused():
            outcome = function(model)
    except MXExportError as error:
        error.args = (f"pass {name_of(function)}: {error}",)
        raise
    except Exception as error:  # whatever a library below raises; the user needs the pass and the reason
        reason = (str(error).splitlines() or [""])[0]
        raise UnsupportedError(f"pass {name_of(function)} failed: {type(error).__name__}: {reason}") from error
    if not isinstance(outcome, Outcome):
        raise UnsupportedError(f"pass {name_of(function)} returned {type(outcome).__name__}; expected an Outcome")
    return outcome


class _Checker:
    """Executes the model before and after; does nothing where verification is off."""

    def __init__(self, model: ir.Model, verify: Verify):
        self.inputs = None
        if verify is None or verify is False:
            return
        _refuse_random(model)
        self.inputs = drawn_inputs(model) if verify is True else named_inputs(model, verify)
        self.outputs = execute(model, self.inputs)

    def remember(self, model: ir.Model) -> None:
        if self.inputs is not None:
            self.before = model.clone()

    def check(self, model: ir.Model, function: Pass) -> str | None:
        if self.inputs is None:
            return None
        outputs, fed = self._execute(model, function)
        same, bound = same_outputs(self.outputs, outputs), bound_of(function)
        if same and bound is None:
            return "equal bits"
        # Behind a quantizer a change inside may leave no trace in the outputs: every tensor is looked at.
        result = compare(self.before, model, fed, bound)
        if result.difference is None and bound is None:
            raise VerificationError(f"pass {name_of(function)}: outputs differ; no tensor named alike does before them")
        if result.difference is not None:
            raise VerificationError(_message(function, result.difference))
        self.outputs = outputs
        if same and not result.within_bound and not result.behind_quantizer:
            return "equal bits"
        moved = f"; {result.behind_quantizer} behind a rounding" if result.behind_quantizer else ""
        return f"{result.within_bound} tensors within {bound.ulp:g} ulp of their largest magnitude{moved}"

    def _execute(self, model: ir.Model, function: Pass):
        try:
            return execute(model, self.inputs), self.inputs
        except UnsupportedError as error:
            raise VerificationError(
                f"pass {name_of(function)}: the model before it executes, the one after it does not: {error}"
            ) from error


def _refuse_random(model: ir.Model) -> None:
    random = [rewriting.label(node) for node in model.graph.all_nodes() if rewriting.is_random(node)]
    if random:
        raise OptionError(f"verify: {', '.join(random)} give other values each time; leave verify out")


def _message(function: Pass, found) -> str:
    bound = bound_of(function)
    expected = f"within {bound.ulp:g} ulp ({bound.reason})" if bound else "bit-equal"
    distance = f" ({found.distance:.3g} ulp of the largest magnitude)" if found.distance is not None else ""
    return (
        f"pass {name_of(function)}: tensor {found.tensor!r} of node {found.node!r} should be {expected}: "
        f"{found.detail}{distance}. The caller's model is unchanged; leave the pass out with passes=[...] to go on"
    )


class _Stages:
    def __init__(self, folder: str | os.PathLike | None, before: int = 0):
        self.folder, self.count = Path(folder) if folder is not None else None, before
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputFileError(f"cannot save stages in {self.folder}: {error.strerror}") from error

    def save(self, model: ir.Model, name: str) -> str | None:
        if self.folder is None:
            return None
        self.count += 1
        return str(graph.save(model.clone(), self.folder / f"{self.count:02d}_{name}.onnx"))
