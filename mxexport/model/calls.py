"""What executors are asked for, checked before any of them sees it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mxexport.errors import InputFileError, OptionError


def as_path(model) -> Path:
    """The path of a model file. Raises InputFileError for what is no path."""
    if not isinstance(model, (str, os.PathLike)):
        module = hasattr(model, "state_dict")
        remedy = "write it with mxexport.export first" if module else "expected a path or an ONNX model"
        raise InputFileError(f"{type(model).__name__} is no ONNX file: {remedy}")
    try:
        return Path(model)
    except TypeError:
        raise InputFileError(f"{model!r} is no path of a file: expected text") from None


def output_names(outputs: Iterable[str] | None, name: str = "outputs") -> list[str] | None:
    """Names of tensors as a list, each once; None, which asks for the outputs of the graph, stays None.

    Raises:
        OptionError: a single string, no name at all, or what is no name.
    """
    if outputs is None:
        return None
    if isinstance(outputs, (str, bytes)):
        raise OptionError(f"{name} is the string {outputs!r}; expected a list of names: [{outputs!r}]")
    if not isinstance(outputs, Iterable):
        raise OptionError(f"{name} is {outputs!r}; expected a list of names, or None for the outputs of the graph")
    names = list(outputs)
    if not names:
        raise OptionError(f"{name} is empty, so nothing would run; name a tensor, or give None for the graph's outputs")
    if wrong := [n for n in names if not isinstance(n, str) or not n]:
        raise OptionError(f"{name} holds {wrong[0]!r}; expected names of tensors")
    return list(dict.fromkeys(names))
