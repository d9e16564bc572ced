"""One ONNX file in, a file for another tool out: found by name, checked and compared before it is written.

A target module has `convert(model: ir.Model, **options) -> Converted`. It does not touch the model it is given.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import onnx_ir as ir

from mxexport.errors import OptionError, UnsupportedError, foreign_errors
from mxexport.model import graph, qonnx_domains
from mxexport.model.writer import writable
from mxexport.ops import qonnx_general
from mxexport.running import acceptance
from mxexport.targets.verifying import EQUAL_BITS, ROUNDED, Verify, verify_conversion

TARGETS = ("qdq", "mxexport", "hls4ml", "finn")
"""`mxexport` is the way back: blocked QuantizeLinear and DequantizeLinear become our operators."""


_INTEGERS = (*acceptance.STANDARD, qonnx_general.DOMAIN)
_DOMAINS = {"qdq": acceptance.STANDARD, "mxexport": acceptance.EVERY, "hls4ml": _INTEGERS, "finn": _INTEGERS}
"""The domains of operators that a file of each target holds."""
_TOLERANCES = {"qdq": EQUAL_BITS, "mxexport": EQUAL_BITS, "hls4ml": ROUNDED, "finn": ROUNDED}


@dataclass(frozen=True)
class Converted:
    """A converted model, and (node name, what the reader should know about it).

    `runs`: in onnxruntime. `changes`: why its values are not those of the source, as an option asked for.
    `input_step`: its inputs are taken for multiples of it. `functions`: operators of ours stay where they have a body.
    """

    model: ir.Model
    notes: list[tuple[str, str]] = field(default_factory=list)
    runs: bool = True
    changes: str = ""
    input_step: float | None = None
    functions: bool = False

    def on_grid(self, array: np.ndarray) -> np.ndarray:
        """Inputs as the model takes them for."""
        if self.input_step is None or array.dtype.kind != "f":
            return array
        return (np.rint(array / self.input_step) * self.input_step).astype(array.dtype)


@dataclass(frozen=True)
class ConvertReport:
    """What `convert` wrote. `verified`: how its outputs agreed with those of the source, or why nobody looked."""

    path: str
    target: str
    opset: int
    notes: list[tuple[str, str]]
    verified: str = ""


def convert(
    source: str | os.PathLike, path: str | os.PathLike, *, to: str, verify: Verify = None, **options
) -> ConvertReport:
    """Write the ONNX file `source` for the target `to` at `path`; options are those of the target's `convert`.

    The folder of a compiled design becomes, for `finn`, a folder of units that FINN can build with (`finn_units`).

    verify: source and result are executed and must agree (`verifying`). None: on inputs drawn with a seed, where the
        weights are no more than 256 MB and the source runs on such inputs; True: the same, whatever the size; inputs by
        name, in order or one array: on those; False: not at all. `report.verified` says what was done.

    What is written passes ONNX's checker, loads in onnxruntime (but for `qdq` with types that it does not run) and
    holds only the domains that the target stands for.

    Raises:
        OptionError: unknown target or option.
        InputFileError: `source` is missing or unreadable, or the directory of `path` does not exist.
        UnsupportedError: what the target cannot express, every node listed; nothing is written.
        VerificationError: the result computes something else; nothing is written.
    """
    if to == "finn" and os.path.isdir(source):
        return _convert_design(source, path, verify, options)
    target = _find(to, options)
    path = writable(path)
    model = graph.load(source)
    where = f"convert --to {to}: {source}"
    with _own_errors(where):
        converted = convert_model(model, to, where, **options)
        domains = acceptance.EVERY if converted.functions else _DOMAINS[to]
        acceptance.check_result(converted.model, where, domains, loads=converted.runs)
        verified = verify_conversion(model, converted, verify, _TOLERANCES[to], where)
        graph.save(converted.model, path)
        notes = converted.notes + getattr(target, "after_writing", lambda path: [])(path)
    return ConvertReport(str(path), to, converted.model.opset_imports[""], notes, verified)


def _convert_design(source: str | os.PathLike, out: str | os.PathLike, verify: Verify, options: Mapping):
    from mxexport.targets import finn_units  # the compiler, which files do not need

    finn_units.check_options(options)
    notes, verified = finn_units.convert_design(source, out, verify)
    return ConvertReport(str(out), "finn", finn_units.OPSET, notes, verified)


def convert_model(model: ir.Model, to: str, where: str = "convert", **options) -> Converted:
    """The same of a model in memory, which is left as it is; QONNX's operators may have the domains of former years.

    Raises:
        OptionError: unknown target or option.
        UnsupportedError: an opset or operators nobody knows; what the target cannot express, every node listed.
    """
    target, known = _find(to, options), model.clone()
    qonnx_domains.unify(known)
    acceptance.check_source(known, where)
    with _own_errors(where):
        return target.convert(known, **options)


def _own_errors(where: str) -> contextlib.AbstractContextManager[None]:
    """A graph that makes no sense, such as a cycle, fails anywhere."""

    def ours(error: Exception) -> UnsupportedError:
        reason = (str(error).splitlines() or [""])[0]
        return UnsupportedError(f"{where}: {type(error).__name__}: {reason[:300]}")

    return foreign_errors(ours)


def _find(to: str, options: Mapping) -> ModuleType:
    """The module of a target, if it has such options."""
    if to not in TARGETS:
        raise OptionError(f"convert: unknown target {to!r}; expected one of {', '.join(TARGETS)}")
    target = importlib.import_module(f"mxexport.targets.{'from_qdq' if to == 'mxexport' else to}")
    unknown = set(options) - set(inspect.signature(target.convert).parameters)
    if unknown:
        raise OptionError(f"convert --to {to}: unexpected options {', '.join(sorted(unknown))}")
    return target
