"""Whatever happens while a model is traced, it is the same model afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """The model in eval mode; training flags, hooks, parameters, buffers and attributes come back on leaving.

    Attributes come back, too, so that a cache a model keeps in `forward` holds no tensor of the tracer.
    """
    saved = [(module, _copy(module)) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, attributes in saved:
            _restore(module.__dict__, attributes)


def _copy(module: torch.nn.Module) -> dict:
    """Attribute -> (the object, a copy of its contents where it is a container)."""
    return {
        name: (value, value.copy() if isinstance(value, (dict, list, set)) else None)
        for name, value in module.__dict__.items()
    }


def _restore(attributes: dict, saved: dict) -> None:
    for name in [name for name in attributes if name not in saved]:
        del attributes[name]
    for name, (value, contents) in saved.items():
        attributes[name] = value
        if isinstance(value, list):
            value[:] = contents
        elif contents is not None and not _same(value, contents):
            value.clear()
            value.update(contents)


def _same(value: dict | set, contents: dict | set) -> bool:
    if isinstance(value, set):
        return value == contents
    return list(value) == list(contents) and all(value[key] is contents[key] for key in contents)
