"""What torch does otherwise while a model is traced: the same values, by ways that a graph can hold."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode

_AXES = {
    torch.nn.functional.adaptive_avg_pool2d: (-1, -2),
    torch.nn.functional.adaptive_avg_pool3d: (-1, -2, -3),
}


@contextlib.contextmanager
def as_graphs_hold(model: torch.nn.Module) -> Iterator[None]:
    """Within it forward of `model` runs in the mode `AsGraphsHold`. Torch's own code does not: its exporter calls tens
    of thousands of functions, and each would take the way through the mode."""
    forward, own = model.forward, "forward" in vars(model)

    @functools.wraps(forward)
    def within(*args, **kwargs):
        with AsGraphsHold():  # hooks would leave torch's own modes behind where its exporter fails
            return forward(*args, **kwargs)

    model.forward = within
    try:
        yield
    finally:
        if own:
            model.forward = forward
        else:
            del model.forward


class AsGraphsHold(TorchFunctionMode):
    """Within it `adaptive_avg_pool2d(x, 1)` and its sister in 3d call the mean themselves; other sizes as before.
    `batch_norm` that takes the statistics of the batch does not see the running ones.

    For a global pool torch computes that mean and then restores the strides of a channels-last `x` (one that was
    permuted) with `as_strided`. A graph has no strides: exported, that is a Gather of indices made at run time, which
    says nothing about shapes to whoever reads the file. And torch's exporter writes a batch norm that has running
    statistics as if it used them.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        axes = _AXES.get(function)
        if axes and _all_one(*args[1:], **{name: value for name, value in kwargs.items() if name != "input"}):
            return (args[0] if args else kwargs["input"]).mean(axes, keepdim=True)
        if function is torch.nn.functional.batch_norm:
            return _batch_norm(*args, **kwargs)
        return function(*args, **kwargs)


def _batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, *rest, **others):
    if training:
        running_mean = running_var = None
    return torch.nn.functional.batch_norm(input, running_mean, running_var, weight, bias, training, *rest, **others)


def _all_one(output_size) -> bool:
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,)
    return all(size == 1 for size in sizes)


_HINTS = {
    torch.nn.TransformerEncoder: ("is_causal", 3),
    torch.nn.TransformerDecoder: ("tgt_is_causal", 6),
}
"""The argument that hints at a causal mask, and its place."""


@contextlib.contextmanager
def masks_not_looked_into(model: torch.nn.Module) -> Iterator[None]:
    """Within it torch's encoders and decoders take masks as they are. Unless told whether a mask is causal they compare
    its values with a causal one, which no graph can hold; the answer chooses a kernel and changes no result."""
    handles = [
        module.register_forward_pre_hook(functools.partial(_answer, *hint), with_kwargs=True)
        for module in model.modules()
        for kind, hint in _HINTS.items()
        if isinstance(module, kind)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _answer(name: str, place: int, module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    if len(args) > place:
        return (*args[:place], bool(args[place]), *args[place + 1 :]), kwargs
    return args, kwargs | {name: bool(kwargs.get(name))}
