"""Conversions to what other tools take: one module per target, found by its name.

A target module has `convert(model: ir.Model, **options) -> Converted`. It does not touch the model it is given.
"""

from __future__ import annotations

import importlib
import inspect
import os
from dataclasses import dataclass, field

import onnx_ir as ir

from mxexport import graph
from mxexport.errors import MXExportError, OptionError, UnsupportedError
from mxexport.model_file import writable

TARGETS = ("qdq", "mxexport", "hls4ml", "finn")
"""`mxexport` is the way back: blocked QuantizeLinear and DequantizeLinear become our operators."""


@dataclass(frozen=True)
class Converted:
    """A converted model, and (node name, what the reader should know about it)."""

    model: ir.Model
    notes: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ConvertReport:
    path: str
    target: str
    opset: int
    notes: list[tuple[str, str]]


def convert(source: str | os.PathLike, path: str | os.PathLike, *, to: str, **options) -> ConvertReport:
    """Write the ONNX file `source` for the target `to` at `path`; options are those of the target's `convert`.

    Raises:
        OptionError: unknown target or option.
        InputFileError: `source` is missing or unreadable, or the directory of `path` does not exist.
        UnsupportedError: what the target cannot express, every node listed.
    """
    if to not in TARGETS:
        raise OptionError(f"convert: unknown target {to!r}; expected one of {', '.join(TARGETS)}")
    target = importlib.import_module(f"mxexport.targets.{'from_qdq' if to == 'mxexport' else to}")
    unknown = set(options) - set(inspect.signature(target.convert).parameters)
    if unknown:
        raise OptionError(f"convert --to {to}: unexpected options {', '.join(sorted(unknown))}")
    path = writable(path)
    model = graph.load(source)
    try:
        converted = target.convert(model, **options)
        graph.save(converted.model, path)
    except MXExportError:
        raise
    except Exception as error:  # a graph that makes no sense, such as a cycle, fails anywhere
        reason = (str(error).splitlines() or [""])[0]
        raise UnsupportedError(f"convert --to {to}: {source}: {type(error).__name__}: {reason[:300]}") from error
    return ConvertReport(str(path), to, converted.model.opset_imports[""], converted.notes)
