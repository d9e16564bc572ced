"""What a quantized network takes as hardware, by the estimates of the design that `compile` makes of it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mxexport.exporting.exporter import export
from mxexport.fpga.compiling import compile as compile_design
from mxexport.passes.driver.cleaning import clean
from mxexport.quant.calling import calls

AREAS = ("lut", "ff", "dsp", "bram36", "uram")
_FRAMES = 64
"""Of the inputs that a design is calibrated with."""


def designed(
    model: nn.Module, inputs: object, target: Mapping[str, Any], costs: Mapping[str, float], layers: Sequence[str]
) -> dict[str, Any]:
    """`costs` with the area and frames a second of the design, its folding, and the area of every layer.

    Raises:
        UnsupportedError: what hardware does not take.
        OptionError: a target that asks for what no design can be.
    """
    args, keywords = calls(inputs)[0]
    given = keywords or args
    few = _cut(given, 2)
    how = {"kwargs": few} if keywords else {}
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one candidate among many: its figures say the same
        folder = Path(name)
        export(model, () if keywords else few, folder / "model.onnx", **how)
        clean(folder / "model.onnx", folder / "clean.onnx")
        calibration = _arrays(_cut(given, _FRAMES))
        design = compile_design(folder / "clean.onnx", folder / "design", calibration=calibration, **target)
        estimate, report = design.estimate(), design.report
    total = {**costs, **{kind: estimate["total"][kind] for kind in AREAS}}
    total["frames_per_second"] = report["frames_per_second"]
    chosen = {p.layer: list(asdict(design.foldings[p.name]).values()) for p in design.network.products()}
    return {"costs": total, "folding": chosen, "layers": _by_layer(report["cells"], layers)}


def _cut(given: tuple | Mapping[str, object], frames: int) -> Any:
    """The same with so many frames, the batch first."""
    if isinstance(given, Mapping):
        return {name: value[:frames] if isinstance(value, Tensor) else value for name, value in given.items()}
    return tuple(value[:frames] if isinstance(value, Tensor) else value for value in given)


def _arrays(given: Any) -> Any:
    """As `compile` takes them."""
    if isinstance(given, Mapping):
        return {name: value.detach().cpu().numpy() for name, value in given.items()}
    arrays = tuple(value.detach().cpu().numpy() for value in given)
    return arrays if len(arrays) > 1 else arrays[0]


def _by_layer(cells: Sequence[Mapping], layers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Layer -> area of the units that belong to it: those named after it or after what it holds."""
    found: dict[str, dict[str, float]] = {}
    for cell in cells:
        of = cell["layer"] or ""
        owners = [name for name in layers if of == name or of.startswith((f"{name}.", f"{name}_"))]
        if owners:
            row = found.setdefault(max(owners, key=len), dict.fromkeys(AREAS, 0.0))
            for kind in AREAS:
                row[kind] += cell["estimate"][kind]
    return found
