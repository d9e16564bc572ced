"""Weights that a layer's own forward computes, as constants of the file: the values torch computes, bit for bit."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator

import torch
from torch import Tensor

from mxexport.quant.layers.functional import FunctionalLayer


@contextlib.contextmanager
def computed_weights_held(model: torch.nn.Module, bound: inspect.BoundArguments) -> Iterator[None]:
    """Within it (and in eval mode) layers that scale or standardize their weight take what they computed in one run of
    the model on its example inputs: a graph would compute it anew for every input, and with another rounding.

    Where a layer computes another weight from call to call, or the model fails, everything stays as it is.
    """
    layers = [m for m in model.modules() if isinstance(m, FunctionalLayer) and not m.observed.own_weight]
    calls: dict[FunctionalLayer, list[list[Tensor]]] = {layer: [] for layer in layers}
    if layers:
        _run(model, bound, calls)
    held = [layer for layer in layers if calls[layer] and _all_alike(calls[layer])]
    try:
        for layer in held:
            layer.computed = tuple(_free_name(layer, i) for i in range(len(calls[layer][0])))
            for name, weight in zip(layer.computed, calls[layer][0], strict=True):
                layer.register_buffer(name, weight)
        yield
    finally:
        for layer in held:
            for name in layer.__dict__.pop("computed", ()):
                layer._buffers.pop(name, None)


def _free_name(layer: FunctionalLayer, i: int) -> str:
    name = "computed_weight" + (f"_{i}" if i else "")
    return f"{name}_seen" if hasattr(layer, name) else name


def _run(model: torch.nn.Module, bound: inspect.BoundArguments, calls: dict) -> None:
    handles = [layer.register_forward_pre_hook(functools.partial(_next, calls[layer])) for layer in calls]
    try:
        for layer in calls:
            layer.watcher = functools.partial(_keep, calls[layer])
        with torch.no_grad():
            model(*bound.args, **bound.kwargs)
    except Exception:  # whatever forward raises; tracing will say it better
        for layer in calls:
            calls[layer].clear()
    finally:
        for handle in handles:
            handle.remove()
        for layer in calls:
            layer.__dict__.pop("watcher", None)


def _next(calls: list[list[Tensor]], layer, inputs) -> None:
    calls.append([])


def _keep(calls: list[list[Tensor]], weight: Tensor) -> None:
    calls[-1].append(weight.detach().clone())


def _all_alike(calls: list[list[Tensor]]) -> bool:
    return all(
        len(call) == len(calls[0]) and all(torch.equal(a, b) for a, b in zip(call, calls[0], strict=True))
        for call in calls
    )
