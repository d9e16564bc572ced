"""Conversions to what other tools take: one module per target, found by its name.

A target module has `convert(model: ir.Model, **options) -> Converted`. It does not touch the model it is given.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from mxexport import graph
from mxexport.errors import OptionError

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
    try:
        converted = target.convert(graph.load(source), **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise OptionError(f"convert --to {to}: {str(error).split('() ')[-1]}") from error
    graph.save(converted.model, Path(path))
    return ConvertReport(str(path), to, converted.model.opset_imports[""], converted.notes)
