"""Torch's table of translations, read once per process."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from functools import cache

try:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    _READ = ONNXRegistry.from_torchlib.__func__
except (ImportError, AttributeError):  # a torch that keeps its table elsewhere: exports then take what they took before
    _READ = None


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Within it torch's exporter gets a copy of the table of operators that it otherwise makes anew for every model:
    it parses the source of 500 functions for it, more than a second and half of what a small network takes.

    Only the dict and its lists are copied: the exporter enters our translations there and leaves their entries alone.
    """
    if _READ is None:
        yield
        return
    ONNXRegistry.from_torchlib = classmethod(_copied)
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = classmethod(_READ)


def _copied(cls: type, *args, **kwargs) -> ONNXRegistry:
    table = copy.copy(_read(cls, args, tuple(kwargs.items())))
    table.functions = {target: list(found) for target, found in table.functions.items()}
    return table


@cache
def _read(cls: type, args: tuple, kwargs: tuple) -> ONNXRegistry:
    return _READ(cls, *args, **dict(kwargs))
