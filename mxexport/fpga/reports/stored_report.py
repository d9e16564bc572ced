"""report.json of a compiled design, read without the compiler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mxexport.errors import InputFileError

REPORT = "report.json"
AREA = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram36": "BRAM36"}
"""Kinds of area that tables show, and what they are called there."""
SYNTHESIS = "report/synthesis.json"
"""What `Design.record_synthesis` keeps: unit -> area, clock and longest path."""
_UNIT = {"lut": int, "ff": int, "dsp": int, "bram36": float, "fmax_mhz": float, "longest_path": str}
_END = {"length": int, "width": int, "lsb_exp": int, "lanes": int, "beats": int, "slot_bits": int, "bus_bits": int}
_LAYER = {
    **dict.fromkeys(("name", "activation", "weight"), str),
    **dict.fromkeys(("inputs", "outputs", "accumulator_bits", "pe", "simd", "cycles", "macs", "weights"), int),
    "padding_percent": float,
}
_CELL = {"name": str, "module": str, "sources": [str], "bits": [int], "estimate": {str: float}}
_HELD = {"layer": str, "kind": str, "tile": int, "beats": int, "loads_per_frame": int, "bits": int, "bits_sent": int}
_COMPARED = {"layer": str, "codes": int, "flipped_codes": int, "error": float}
_SHAPE = {
    **dict.fromkeys(("path", "part", "version", "limited_by"), str),
    **dict.fromkeys(("clock_mhz", "frames_per_second", "latency_us"), float),
    **dict.fromkeys(("cycles_per_frame", "latency_cycles"), int),
    "model": {"path": str, "sha256": str},
    "layers": [_LAYER],
    "cells": [_CELL],
    "inputs": {str: _END},
    "outputs": {str: _END},
    "tensors": {str: str},
    "foldings": {str: {str: int}},
    "fifos": {str: int},
    "estimate": {str: float},
    "calibration": {"frames": int, "margin": int, "saturated_inputs": int},
    "comparison": {"layers": [_COMPARED], "flip_rate": float, "same_predictions": float, "frames": int},
}
"""What must be there: a type, a list of what each entry is, a table of names (`str`: any name) and what each is."""
_RATES = ("clock_mhz", "frames_per_second", "cycles_per_frame")
_MAY_BE_MISSING = {
    "views": {str: str},
    "memory": {"bus_bits": int, "layers": [_HELD]},
    "limit": str,
    "target_fps": float,
    "clock_limit_mhz": float,
    "utilization_percent": {str: float},
    "next_step": {"layer_cycles": int, "layer_frames_per_second": float, "more": {str: float}},
}


def read_report(directory: Path) -> dict[str, Any]:
    """What `compile` wrote there; with "synthesis" where that was recorded. Raises InputFileError where there is
    nothing, or what they cannot have written."""
    if not (directory / REPORT).is_file():
        raise InputFileError(f"{directory} holds no compiled design (no {REPORT}); run mxexport compile first")
    found = _read(directory / REPORT, _SHAPE, _MAY_BE_MISSING)
    if (directory / SYNTHESIS).is_file():
        found["synthesis"] = _read(directory / SYNTHESIS, {str: _UNIT}, {})
    return found


def _read(file: Path, needed: Any, others: dict[str, Any]) -> dict[str, Any]:
    try:
        found: Any = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(f"{file} is no report of a compiled design ({error}); compile it again") from None
    wrong = _misfit(found, needed, "")
    if not wrong:
        given = {key: shape for key, shape in others.items() if found.get(key) is not None}
        wrong = _misfit(found, given, "")
    if not wrong and needed is _SHAPE:
        stopped = (f"{key} is {found[key]!r}, expected a number above 0" for key in _RATES if not found[key] > 0)
        wrong = next(stopped, "")
    if wrong:
        raise InputFileError(
            f"{file} is no report of a compiled design, or of an older version ({wrong}); compile it again"
        )
    return dict(found)


def _misfit(found: Any, shape: Any, where: str) -> str:
    """In words, the first place where `found` is not as `shape` says; empty where it is."""
    place = where or "it"
    if isinstance(shape, type):
        fits = type(found) is shape or (shape is float and type(found) is int and abs(found) < 1 << 63)
        if shape is int and fits and abs(found) >= 1 << 63:
            return f"{place} is out of all range"
        return "" if fits else f"{place} is {type(found).__name__}, expected {shape.__name__}"
    if isinstance(shape, list):
        if not isinstance(found, list):
            return f"{place} is {type(found).__name__}, expected a list"
        return next(filter(None, (_misfit(item, shape[0], f"{where}[{i}]") for i, item in enumerate(found))), "")
    if not isinstance(found, dict):
        return f"{place} is {type(found).__name__}, expected a table"
    if str in shape:
        return next(filter(None, (_misfit(item, shape[str], f"{where}.{name}") for name, item in found.items())), "")
    if missing := sorted(set(shape) - set(found)):
        return f"{place} lacks {missing[0]!r}"
    return next(filter(None, (_misfit(found[name], inner, f"{where}.{name}") for name, inner in shape.items())), "")
