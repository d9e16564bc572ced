"""What a model's own code does with its modules, for whoever wants to change some of them.

`watch(model)` traces the forward of a copy with `torch.fx`, through containers and the user's own modules: in training
and in eval mode, with optional arguments given and left out, and every way through branches on values. Where code
cannot be traced, whatever it can reach is `unknown`, with the reason; children that such code does nothing with but
call are traced on their own.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType

from torch import nn

from mxexport.quant.folding.tracer import MATTER, WRAPPERS, Tracer, Watched

_MOST_PATHS = 32

_NO_COMPUTATION = re.compile(r"^__|init|reset|load|save|freeze|fuse|decay|param|repr|prun|group|device|dtype")
"""Names of methods that set a model up or describe it."""


def watch(model: nn.Module) -> Watched:
    """See above; `model` stays as it is."""
    watched = Watched(copy.deepcopy(model))  # a forward may keep what it saw
    executed: set[CodeType] = set()
    done: set[nn.Module] = set()
    with _recording(executed):
        _trace_all(watched, [watched.copy], done)
        for module, name in list(_methods_not_called(watched.copy, executed)):
            _trace_all(watched, _trace_method(watched, module, name), done)
    return watched


def _trace_all(watched: Watched, entries: list[nn.Module], done: set[nn.Module]) -> None:
    """Trace `entries` and what turns out to need a trace of its own."""
    while entries:
        entry = entries.pop()
        if entry not in done:
            done.add(entry)
            entries += _trace_entry(watched, entry)


def _trace_entry(watched: Watched, entry: nn.Module) -> list[nn.Module]:
    """Take the calls of one module's forward; returns modules to be traced on their own."""
    if (held := WRAPPERS.get(type(entry).__name__)) is not None and isinstance(getattr(entry, held, None), nn.Module):
        return [getattr(entry, held)]
    if isinstance(entry, MATTER):
        return []
    more = []
    for training in (False, True):
        watched.copy.train(training)
        for alternatives in _argument_choices(type(entry).forward):
            more += _trace_first_that_can_be(watched, entry, training, alternatives)
    watched.copy.eval()
    return more


def _trace_first_that_can_be(watched: Watched, entry: nn.Module, training: bool, alternatives: list) -> list[nn.Module]:
    """Each alternative is a list of arguments that are all to be traced; one is enough."""
    failure, root = None, _calling_with_hooks(entry)
    for together in alternatives:
        to_trace: list[nn.Module] = []
        failures = [_trace_paths(watched, root, "forward", given, training, to_trace) for given in together]
        failure = failure or next(filter(None, failures), None)
        if not any(failures):
            return to_trace
    tracer = Tracer(watched, training)
    tracer.give_up(entry, failure, "forward")
    return tracer.to_trace


def _trace_paths(
    watched: Watched, root: nn.Module, method: str, given: dict, training: bool, to_trace: list[nn.Module]
) -> Exception | None:
    """Trace a method once for every way that its branches on values may go; returns why that cannot be done."""
    ways: list[list[bool]] = [[]]
    for _ in range(_MOST_PATHS):
        if not ways:
            return None
        start = ways.pop()
        tracer = Tracer(watched, training, start)
        if failure := tracer.run(root, method, given):
            return failure
        to_trace += tracer.to_trace
        ways += [[*tracer.decided[:i], True] for i in range(len(start), len(tracer.decided))]
    return ValueError(f"more than {_MOST_PATHS} ways through its branches")


def _calling_with_hooks(entry: nn.Module) -> nn.Module:
    """A module whose forward takes what that of `entry` does and calls it: so hooks of `entry` are traced, too."""
    if not (entry._forward_hooks or entry._forward_pre_hooks):
        return entry
    taken, passed = ["self"], []
    for p in _parameters(type(entry).forward)[1:]:
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        if p.kind == p.KEYWORD_ONLY and "*" not in "".join(taken):
            taken.append("*")
        taken.append(star + p.name)
        passed.append(f"{p.name}={p.name}" if p.kind == p.KEYWORD_ONLY else star + p.name)
    space: dict = {}
    exec(f"def forward({', '.join(taken)}): return self.entry({', '.join(passed)})", space)
    caller = type(type(entry).__name__, (nn.Module,), {"forward": space["forward"]})()
    caller.entry = entry
    return caller


def _trace_method(watched: Watched, module: nn.Module, name: str) -> list[nn.Module]:
    """Take the calls of a method that forward does not use but somebody may, with its optional arguments left out."""
    defaults = {p.name: p.default for p in _parameters(getattr(type(module), name)) if p.default is not p.empty}
    watched.copy.eval()
    to_trace: list[nn.Module] = []
    if failure := _trace_paths(watched, module, name, defaults, False, to_trace):
        tracer = Tracer(watched, False)
        tracer.give_up(module, failure, name)
        to_trace += tracer.to_trace
    return to_trace


def _argument_choices(forward: FunctionType) -> list[list[list[dict]]]:
    """Values of optional arguments to trace with: all left out, and each flag, and each None, the other way.

    In the place of None stands a tensor or, where the code cannot take one, a flag.
    """
    defaults = {p.name: p.default for p in _parameters(forward) if p.default is not p.empty}
    choices = [[[defaults]]]
    for name, value in defaults.items():
        if isinstance(value, bool):
            choices.append([[defaults | {name: not value}]])
        elif value is None:
            tensor = {n: v for n, v in defaults.items() if n != name}
            choices.append([[tensor], [defaults | {name: True}, defaults | {name: False}]])
    return choices


def _parameters(function) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(inspect.unwrap(function)).parameters.values())
    except (TypeError, ValueError):
        return []


def _methods_not_called(model: nn.Module, executed: set[CodeType]) -> Iterator[tuple[nn.Module, str]]:
    """Methods of the user's own modules that name one of their children and that forward never came to."""
    for module in model.modules():
        if type(module).__module__.startswith(("torch.nn.", "torch.ao.nn.", "mxexport.")):
            continue
        for name in dir(type(module)):
            function = inspect.getattr_static(type(module), name)
            if not isinstance(function, FunctionType) or _NO_COMPUTATION.search(name):
                continue
            code = inspect.unwrap(function).__code__
            foreign = code in executed or function.__module__.startswith("torch.")
            if not foreign and _names(code) & {*module._modules}:
                yield module, name


def _names(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return {*code.co_names}.union(*map(_names, inner))


class _recording:
    """Within it, code objects that are called are added to a set."""

    def __init__(self, executed: set[CodeType]):
        self.executed = executed

    def __enter__(self) -> None:
        self.before = sys.getprofile()
        sys.setprofile(lambda frame, event, arg: self.executed.add(frame.f_code) if event == "call" else None)

    def __exit__(self, *failure) -> None:
        sys.setprofile(self.before)
