"""Keys of what a measurement depends on: a model with its weights, data, a metric; equal contents have equal keys."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from mxexport.cache import digest


def model_key(model: nn.Module) -> str:
    """Of its parameters and buffers, its modules with what they show, and their source where it can be read."""
    kinds = dict.fromkeys(type(module) for module in model.modules())
    own = [kind for kind in kinds if not kind.__module__.startswith("torch.")]
    state = [part for name, tensor in model.state_dict().items() for part in (name, *_leaf(tensor))]
    return digest([repr(model), *(_source(kind) for kind in own), *state])


def data_key(data: object) -> str:
    leaves, shape = tree_flatten(data)
    return digest([str(shape), *(part for leaf in leaves for part in _leaf(leaf))])


def metric_key(metric: str | Callable) -> str:
    """Of a function its code and what it closes over; of a partial or a method also what it is bound to; of an object
    its class and its attributes. Globals that a function reads are not seen."""
    if isinstance(metric, str):
        return metric
    if isinstance(metric, functools.partial):
        return digest([metric_key(metric.func), data_key((metric.args, metric.keywords))])
    if inspect.ismethod(metric):
        return digest([metric_key(metric.__func__), data_key(_attributes(metric.__self__))])
    if hasattr(metric, "__code__"):
        return digest([_source(metric), data_key([cell.cell_contents for cell in metric.__closure__ or ()])])
    return digest([_source(type(metric)), data_key(_attributes(metric))])


def _attributes(thing: object) -> object:
    """All that an object holds; itself where it does not tell."""
    return thing if isinstance(thing, nn.Module) else getattr(thing, "__dict__", thing)


def _leaf(value: object) -> Iterator[str | bytes]:
    if isinstance(value, nn.Module):
        yield model_key(value)
    elif isinstance(value, (Tensor, np.ndarray)):
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        yield f"{tensor.dtype} {tuple(tensor.shape)}"
        yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    else:
        yield repr(value)


def _source(thing: type | Callable) -> str:
    """Its source, else its name and byte code."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)
        return f"{thing.__module__}.{thing.__qualname__} {(code.co_code, code.co_consts) if code else ''}"
