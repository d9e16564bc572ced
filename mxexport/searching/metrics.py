"""How well a quantized network does: a number, higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor, nn

from mxexport.errors import OptionError, ShapeError
from mxexport.quant.calling import call_in_eval

Metric = str | Callable[[nn.Module, object], float]
METRICS = ("accuracy", "agreement")
_AT_A_TIME = 256


def check_metric(metric: object, data: object) -> None:
    """Raise OptionError where `metric` is none, or needs labels that `data` lacks."""
    if callable(metric):
        return
    if metric not in METRICS:
        raise OptionError(
            f"metric is {metric!r}; expected a function (model, data) -> number, or {' or '.join(METRICS)}"
        )
    if metric == "accuracy" and not labelled(data):
        raise OptionError("metric accuracy: expected data=(inputs, labels) with a label for every frame")


def labelled(data: object) -> bool:
    """Whether it is (inputs, labels)."""
    return (
        isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor) and not data[1].is_floating_point()
    )


def inputs_of(data: object) -> object:
    """What the model runs on: all of the data but the labels."""
    return data[0] if labelled(data) else data


def score(metric: Metric, exact: nn.Module, quantized: nn.Module, data: object) -> float:
    """Raises OptionError for what is no finite number."""
    if callable(metric):
        with torch.no_grad():
            found = metric(quantized, data)
        found = found.item() if isinstance(found, Tensor) and found.numel() == 1 else found
        if not isinstance(found, Real) or not math.isfinite(found):
            raise OptionError(f"metric gave {found!r}; expected a finite number, higher where the network is better")
        return float(found)
    answers = _answers(quantized, data)
    right = data[1].reshape(-1) if metric == "accuracy" else _answers(exact, data)
    if answers.shape != right.shape:
        raise ShapeError(f"metric {metric}: {right.numel():,} labels for {answers.numel():,} answers of the model")
    return 100 * float((answers == right).double().mean())


def _answers(model: nn.Module, data: object) -> Tensor:
    """Of every frame (and token), the index of the largest value of the first output; int64 [answers]."""
    inputs = inputs_of(data)
    batches = list(inputs.split(_AT_A_TIME)) if isinstance(inputs, Tensor) else inputs
    outputs = call_in_eval(model, batches)
    if not all(call and call[0].ndim > 1 for call in outputs):
        raise ShapeError("metric: expected a model whose first output has values of classes along its last axis")
    return torch.cat([call[0].argmax(-1).reshape(-1) for call in outputs])
