"""One measurement: a network with formats by layer to its metric and what it costs. Runs on any worker."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mxexport.errors import MXExportError, OptionError
from mxexport.quant.calling import calls
from mxexport.quant.convert import quantize_model
from mxexport.quant.post_training.sensitivity import sensitivity
from mxexport.searching import sizes
from mxexport.searching.choices import FLOAT, Assignment, Choice, format_table
from mxexport.searching.metrics import Metric, score

Finetune = Callable[[nn.Module], object]
"""Trains a quantized network in place."""

_FEW = 128
"""Frames that sensitivities are found on."""
_MOST_NOISE = 1e9
"""Of an output that is nothing but noise; JSON has no infinities."""


@dataclass(frozen=True)
class Problem:
    """`inputs`: what the model runs on, as `quantize_model` takes them; `data`: what the metric gets; `options`: of
    `quantize_model`; `target`: options of `compile`, None where nothing is compiled; `finetune`: trains a network on
    before it is measured."""

    model: nn.Module
    inputs: object
    data: object
    metric: Metric
    options: Mapping[str, Any]
    target: Mapping[str, Any] | None
    finetune: Finetune | None = None

    def quantized(self, assignment: Assignment) -> nn.Module:
        """In eval mode, trained on where that is asked for."""
        made = _quietly(quantize_model, self.model, **self._options(), formats=format_table(assignment)).eval()
        if self.finetune is not None:
            finetuned(made, self.finetune)
        return made

    def layers(self, choice: Choice) -> list[str]:
        """Names of what is quantized, in the model's order."""
        given = self._options() | {"weight": choice.weight, "activation": choice.activation}
        _, report = _quietly(quantize_model, self.model, **given, return_report=True)
        return [entry.name for entry in report.converted]

    def _options(self) -> dict[str, Any]:
        """With inputs where products or biases ask for them."""
        given = dict(self.options)
        if given.get("attention"):
            args, keywords = calls(self.inputs)[0]
            given["example_inputs"] = keywords or args
        if given.get("recipe") is not None:
            given["calibration"] = first_frames(self.inputs, _FEW)
        return given


def finetuned(model: nn.Module, finetune: Finetune) -> nn.Module:
    """`model` after `finetune(model)` in training mode, in eval mode again.

    torch's random numbers start from 0 and stay what they were outside, and one thread computes: the same network comes
    out wherever it is trained.
    """
    with torch.random.fork_rng(devices=[]), one_thread(), torch.enable_grad():
        torch.manual_seed(0)
        finetune(model.train())
    return model.eval()


def measure(problem: Problem, assignment: Assignment) -> dict[str, Any]:
    """metric (None with the reason in `refused` where the network cannot be made so), costs, layers (costs of each,
    where it was compiled), folding (of a compiled design), seconds."""
    start = time.perf_counter()
    found: dict[str, Any] = {"metric": None, "costs": {}, "layers": {}, "folding": None, "refused": None}
    with one_thread():
        try:
            quantized = problem.quantized(assignment)
            found["costs"] = {"bytes": sizes.stored(quantized)}
            found["layer_bytes"] = sizes.of_layers(quantized, list(assignment))
            if problem.target is not None:
                from mxexport.searching import hardware

                found |= hardware.designed(quantized, problem.inputs, problem.target, found["costs"], list(assignment))
            found["metric"] = score(problem.metric, problem.model, quantized, problem.data)
        except OptionError:  # of the caller, whatever is measured
            raise
        except MXExportError as error:
            found["refused"] = str(error)
    return found | {"seconds": round(time.perf_counter() - start, 3)}


def noises(problem: Problem, text: str) -> dict[str, float]:
    """Layer -> noise of the model's output with that layer alone given a choice, relative to the signal."""
    choice, options = Choice.of(text), problem.options
    if text == FLOAT:
        return {}
    how = {key: options[key] for key in ("exclude", "scale_rule", "attention") if options.get(key)}
    how["fold_batch_norm"] = bool(options.get("fold_batch_norm") or options.get("recipe"))
    sides = (choice.weight, choice.activation)
    with one_thread():
        found = _quietly(sensitivity, problem.model, first_frames(problem.inputs, _FEW), *sides, **how)
    ran = {layer.name: layer.output_sqnr for layer in found.layers}
    return {name: 0.0 if math.isnan(db) else min(10 ** (-db / 10), _MOST_NOISE) for name, db in ran.items()}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums have one order, and so equal bits, wherever a task runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def first_frames(inputs: object, count: int) -> object:
    """The first call of `inputs`, cut to so many frames."""
    args, keywords = calls(inputs)[0]
    cut = [
        value[:count] if isinstance(value, Tensor) and value.ndim else value for value in (*args, *keywords.values())
    ]
    return dict(zip(keywords, cut[len(args) :], strict=True)) if keywords else tuple(cut)


def _quietly(function: Callable, *args: Any, **keywords: Any) -> Any:
    """What is said of formats is said of every one that is tried: here it is asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **keywords)
