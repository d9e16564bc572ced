"""`mx.search`: which formats and exclusions by layer are worth their cost, by sensitivity and then by measuring."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

import mxexport
from mxexport import cluster as clusters
from mxexport.cache import digest
from mxexport.cluster import Runner
from mxexport.cluster.runner import Work
from mxexport.errors import OptionError, UnsupportedError
from mxexport.searching import contents
from mxexport.searching.choices import Assignment, Choice, choices_of
from mxexport.searching.journal import Journal
from mxexport.searching.ladder import Space, spread
from mxexport.searching.metrics import Metric, check_metric, inputs_of
from mxexport.searching.problem import Finetune, Problem, measure, noises
from mxexport.searching.result import OBJECTIVES, Evaluation, SearchResult, front

FORMATS = ("mxint8", "mxint6", "mxint5", "mxint4")
_NONE_LEFT = 8
"""Rounds of random changes without anything new, after which a search ends."""


def search(
    model: nn.Module,
    data: object,
    metric: Metric = "accuracy",
    formats: Sequence[str | tuple[str | None, str | None] | None] = FORMATS,
    *,
    objective: str | None = None,
    target: Mapping[str, Any] | None = None,
    within: float = 0.5,
    evaluations: int = 64,
    exclude: str | Sequence[str] = (),
    scale_rule: str | None = None,
    fold_batch_norm: bool = False,
    recipe: str | None = None,
    attention: bool = False,
    finetune: Finetune | None = None,
    journal: str | os.PathLike | None = None,
    cluster: object = None,
    at_once: int = 4,
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
) -> SearchResult:
    """Formats for every layer of a trained float model: the cheapest networks at every value of a metric.

    First all layers get the same choice, one after the other of `formats`. Then the sensitivity of every layer orders
    steps from the finest to the cheapest network by noise for the cost saved, and bisection finds the last step of
    these that stays `within`. From there on single layers are made cheaper, the most promising first, and each is
    kept that measures well; what is left of `evaluations` goes into random changes of the best. Every figure of the
    result is measured on the whole network.

    Args:
        data: `(inputs, labels)`, or inputs alone for metrics without labels. Inputs are a tensor, a tuple of arguments,
            a dict of them by name, or a list of these (several calls); arrays of numpy do as well.
        metric: "accuracy" in percent, "agreement" with the answers of the float model in percent, or a function
            `(model, data) -> number`, higher where the model is better, which gets the data as given.
        formats: what a layer may get: a format name, a pair (weight, activation), or None, which keeps it in float. The
            first is the reference.
        objective: what is to be small: "bytes" (the default), or of the compiled design, by `design.estimate()`, "lut",
            "ff", "dsp", "bram36" or "uram"; "frames_per_second" is to be large.
        target: options of `compile` (part, target_fps, clock_mhz, budget, resources); with it, or with an objective of
            hardware, every network is compiled, in a few seconds each.
        within: how much less than the reference's metric the best network may have.
        evaluations: most networks that are measured.
        exclude: as in `quantize_model`, as are the next four.
        scale_rule: likewise.
        fold_batch_norm: likewise.
        recipe: likewise.
        attention: likewise.
        finetune: a function that trains a quantized network on in place, for as many steps as it likes; every network
            is measured after it, the reference too. Its weights are not kept: those that were measured come from
            `mxexport.searching.finetuned(qmodel, finetune)`.
        journal: a file that keeps what is measured; a search that was ended goes on with it. Measurements of another
            model, other data, metric or options in it are not used.
        cluster: where networks are measured, see `mxexport.cluster.connected`: None for here, a number of processes, a
            scheduler's address or a `distributed.Client`.
        at_once: how many are chosen before the next are measured. Results depend on it, not on where they are measured.
        seed: of the random changes. Equal arguments give equal results.
        progress: called with what is done, in words.

    Raises:
        FormatError: unknown formats, or fewer than two.
        OptionError: a metric, an objective, a number or a cluster that is none.
        UnsupportedError: no layer to quantize, or the reference cannot be made.
        InputFileError: a journal that is none or cannot be written.
    """
    choices, objective = choices_of(formats), _objective(objective, target)
    target = dict(target or {}) if target is not None or objective != "bytes" else None
    counts = {"evaluations": evaluations, "at_once": at_once}
    evaluations, at_once = (_whole(name, value) for name, value in counts.items())
    within = _not_negative("within", within)
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"search: expected a torch.nn.Module, found {type(model).__name__}")
    data = tree_map(_tensor, data)
    check_metric(metric, data)
    options = {
        "exclude": exclude, "scale_rule": scale_rule, "fold_batch_norm": fold_batch_norm, "recipe": recipe,
        "attention": attention,
    }  # fmt: skip
    if finetune is not None and not callable(finetune):
        raise OptionError(f"finetune is {finetune!r}; expected a function that trains the network it is given")
    problem = Problem(model, inputs_of(data), data, metric, options, target, finetune)
    layers = problem.layers(choices[0])
    if "" in layers:
        raise UnsupportedError("search: the model itself is one layer; put it into an nn.Sequential, which names it")
    with clusters.connected(cluster) as runner:
        measured = _Measured(problem, runner, Journal(journal), evaluations, progress)
        return _Search(measured, choices, layers, objective, within, at_once, random.Random(seed)).run()


class _Measured:
    """Measurements by assignment: from the journal, else made by the runner. Counts what is asked for."""

    def __init__(self, problem: Problem, runner: Runner, journal: Journal, most: int, progress: Callable[[str], None]):
        self.problem, self.runner, self.journal, self.most, self.tell = problem, runner, journal, most, progress
        self.found: dict[str, Evaluation] = {}
        parts = [
            contents.model_key(problem.model),
            contents.data_key(problem.data),
            contents.metric_key(problem.metric),
        ]
        how = [repr(sorted(problem.options.items())), repr(problem.target and sorted(problem.target.items()))]
        trained = [] if problem.finetune is None else [contents.metric_key(problem.finetune)]
        self.key = digest([mxexport.__version__, *parts, *how, *trained])

    @property
    def room(self) -> int:
        return self.most - len(self.found)

    def knows(self, assignment: Assignment) -> bool:
        return _name(assignment) in self.found

    def all_of(self, assignments: Sequence[Assignment]) -> list[Evaluation]:
        """Measured, in order and each once; as many as there is room for."""
        new = {_name(a): a for a in assignments if not self.knows(a)}
        wanted = dict(list(new.items())[: max(self.room, 0)])
        rows = self._rows(measure, "evaluation", wanted)
        self.found |= {name: Evaluation(formats=dict(wanted[name]), **rows[name]) for name in wanted}
        return [self.found[_name(a)] for a in assignments if self.knows(a)]

    def noises(self, choices: Sequence[Choice]) -> dict[str, dict[str, float]]:
        """Choice -> layer -> noise."""
        self.tell("sensitivity of every layer")
        return self._rows(noises, "sensitivity", {choice.text: choice.text for choice in choices})

    def _rows(self, function: Callable, kind: str, wanted: Mapping[str, Any]) -> dict[str, dict]:
        keys = {name: digest([self.key, kind, name]) for name in wanted}
        rows = {name: row for name in wanted if (row := self.journal.get(keys[name])) is not None}
        left = [name for name in wanted if name not in rows]
        work = Work(function, [wanted[name] for name in left], (self.problem,))
        for i, row in self.runner.completed(work):
            rows[left[i]] = row
            self.journal.put(keys[left[i]], row)
            if kind == "evaluation":
                self.tell(f"measured {len(self.found) + len(rows)} of at most {self.most} networks")
        return rows


@dataclass
class _Search:
    measured: _Measured
    choices: tuple[Choice, ...]
    layers: list[str]
    objective: str
    within: float
    at_once: int
    random: random.Random
    least: float = field(init=False, default=0.0)
    """Of the metric, for a network that is good enough."""

    def run(self) -> SearchResult:
        uniform = self.measured.all_of([dict.fromkeys(self.layers, c.text) for c in self.choices])
        reference = uniform[0]
        if reference.metric is None:
            raise UnsupportedError(f"search: the reference, {self.choices[0].text} in all layers: {reference.refused}")
        self.least = reference.metric - self.within
        space = self._space(uniform)
        self._climb_down(space)
        self._cheaper_layers(space)
        self._random_changes()
        every = list(self.measured.found.values())
        return SearchResult(self.objective, self.within, reference, self._best(), every, self.measured.journal.kept)

    def _space(self, uniform: Sequence[Evaluation]) -> Space:
        """Of the choices that all layers can have."""
        made = {c.text: e for c, e in zip(self.choices, uniform, strict=False) if e.metric is not None}
        noise = self.measured.noises([c for c in self.choices if c.text in made])
        return Space(
            {layer: {text: noise[text].get(layer, 0.0) for text in made} for layer in self.layers},
            {layer: {text: self._cost(made, text, layer) for text in made} for layer in self.layers},
        )

    def _cost(self, made: Mapping[str, Evaluation], text: str, layer: str) -> float:
        """Of one layer: its bytes, or its part of a design in which all layers have that choice."""
        if self.objective == "bytes":
            return made[text].layer_bytes[layer]
        kind = "lut" if self.objective == "frames_per_second" else self.objective
        return made[text].layers.get(layer, {}).get(kind, 0.0)

    def _good(self, found: Evaluation) -> bool:
        return found.metric is not None and found.metric >= self.least

    def _best(self) -> Evaluation:
        good = [e for e in self.measured.found.values() if self._good(e)]
        return min(good, key=lambda e: (e.cost(self.objective), -e.metric, e.costs["bytes"]))

    def _climb_down(self, space: Space) -> None:
        """Some rungs of the ladder over its whole length, then those between the last that is good and the next."""
        ladder = space.ladder()
        marks = sorted({0, len(ladder) - 1, *spread(0, len(ladder) - 1, self.at_once)})
        known = dict(zip(marks, self.measured.all_of([ladder[i] for i in marks]), strict=False))
        while self.measured.room > 0:
            low = max((i for i, e in known.items() if self._good(e)), default=0)
            high = min((i for i in known if i > low), default=low)
            if not (between := spread(low, high, self.at_once)):
                return
            known |= dict(zip(between, self.measured.all_of([ladder[i] for i in between]), strict=False))

    def _cheaper_layers(self, space: Space) -> None:
        while self.measured.room > 0:
            new = [a for a in space.lower(self._within(space)) if not self.measured.knows(a)]
            if not new:
                return
            self.measured.all_of(new[: self.at_once])

    def _within(self, space: Space) -> dict[str, str]:
        """The best network of choices that the space has."""
        return {layer: text for layer, text in self._best().formats.items() if text in space.cost[layer]}

    def _random_changes(self) -> None:
        """One or two layers of a network of the front."""
        texts, idle = [choice.text for choice in self.choices], 0
        while self.measured.room > 0 and idle < _NONE_LEFT:
            parents, new = front(self.measured.found.values(), self.objective), []
            for _ in range(self.at_once):
                child = dict(self.random.choice(parents).formats)
                for layer in self.random.sample(self.layers, min(self.random.choice((1, 2)), len(self.layers))):
                    child[layer] = self.random.choice(texts)
                if not self.measured.knows(child):
                    new.append(child)
            idle = 0 if new else idle + 1
            self.measured.all_of(new)


def _name(assignment: Assignment) -> str:
    return "\n".join(f"{layer}: {text}" for layer, text in assignment.items())


def _tensor(leaf: Any) -> Any:
    """Arrays of numpy as tensors."""
    if type(leaf).__module__ == "numpy" and hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        return torch.as_tensor(leaf)
    return leaf


def _objective(value: str | None, target: Mapping[str, Any] | None) -> str:
    if value is None:
        return "bytes" if target is None else "lut"
    if value not in OBJECTIVES:
        raise OptionError(f"objective is {value!r}; expected one of {', '.join(OBJECTIVES)}")
    return value


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} is {value!r}; expected a whole number, 1 or more")
    return int(value)


def _not_negative(name: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not value >= 0:
        raise OptionError(f"{name} is {value!r}; expected a number, 0 or more")
    return float(value)
