"""What a user's own code looks like to a strict type checker (`test_typing.py`); it is checked, not run."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
import torch

import mxexport as mx
from mxexport.exporting.report import ExportReport
from mxexport.fpga import Design, Outputs, Simulation, UnitSimulation
from mxexport.passes.driver.cleaning import CleanReport
from mxexport.running.verification import Verification
from mxexport.targets import ConvertReport


def whole_road(model: torch.nn.Module, inputs: torch.Tensor, folder: Path) -> bool:
    static = mx.QuantSpec("int8", source="static", scaling_per_output="tensor")
    quantized = mx.quantize_model(model, weight="mxfp4_e2m1", activation=static, exclude=["head"])
    mx.freeze_scales(quantized if isinstance(quantized, torch.nn.Module) else quantized[0])
    report = mx.export(model, (inputs[:1],), folder / "model.onnx", opset=20)
    assert_type(report, ExportReport)
    assert_type(mx.clean(report.path, folder / "clean.onnx"), CleanReport)
    assert_type(mx.convert(folder / "clean.onnx", folder / "qdq.onnx", to="qdq"), ConvertReport)
    assert_type(mx.verify(report.path, folder / "clean.onnx"), Verification)
    found = mx.run(folder / "clean.onnx", inputs.numpy())
    assert_type(found, dict[str, np.ndarray])
    session = mx.Session(folder / "clean.onnx", threads=1)
    assert_type(session.run(inputs.numpy()), dict[str, np.ndarray])
    problems: list[tuple[str, str]] = mx.check(folder / "clean.onnx", target="fpga")
    design = mx.compile(folder / "clean.onnx", folder / "build", calibration=inputs.numpy(), budget=0.5)
    assert_type(design, Design)
    assert_type(design.run_dataflow(inputs.numpy()), Outputs)
    simulated = design.simulate(inputs.numpy(), stall_in=0.1)
    assert_type(simulated, Simulation)
    assert_type(simulated.cycles, int)
    assert_type(design.simulate_units(inputs.numpy(), units="layer3"), dict[str, UnitSimulation])
    areas: dict[str, dict[str, float]] = design.estimate()
    return not problems and bool(areas) and mx.get_format("mxint8").is_mx
