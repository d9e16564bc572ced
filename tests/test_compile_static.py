"""Activations with one constant power of two as their scale: quantizers with one code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.quant import QuantSpec, freeze_scales
from tests.helpers import every


def exported(directory, spec: QuantSpec, weight: str = "mxint8", batch: str = "open"):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    model = mx.quantize_model(net, weight=weight, activation=spec)
    x = torch.rand(24, 3, 6, 6) * 2 - 1
    model(x)
    freeze_scales(model)
    options = {} if batch == "open" else {"dynamic_batch": False}
    mx.export(model.eval(), (x if batch == "fixed" else x[:2],), directory / "m.onnx", **options)
    mx.clean(directory / "m.onnx", directory / "clean.onnx")
    return model, x.numpy()


@pytest.mark.parametrize("activation", every(3, ["mxfp8_e4m3", "mxfp4_e2m1", "mxint4", "mxint8"]))
def test_one_power_of_two_for_the_tensor(tmp_path, activation):
    spec = QuantSpec(activation, source="static", scaling_per_output="tensor")
    model, x = exported(tmp_path, spec)
    assert mx.check(tmp_path / "clean.onnx", target="fpga") == []
    design = mx.compile(tmp_path / "clean.onnx", tmp_path / "fpga", calibration=x)
    codes = [layer["scale_codes"] for layer in design.report["layers"]]
    assert len(codes) == 3 and all(low == high for low, high in codes)
    x = x * 1.5  # beyond what the scales were found on: saturates alike
    result = design.simulate(x, stall_out=0.3)
    np.testing.assert_array_equal(result.raw, design.run_dataflow(x).raw)
    assert result.clamped == {} and design.compare_stages(x).flip_rate <= 1e-3
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    assert np.median(np.abs(result.values - wanted)) <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize(
    "spec, words",
    [
        (QuantSpec("float_e4m3", source="static", scaling_per_output="tensor"), "expected one power of two for the"),
        (QuantSpec("int8", source="static", scaling_per_output="channel"), "different scales, expected one"),
        (QuantSpec("uint8", source="static", scaling_per_output="tensor"), "zero point"),
    ],
    ids=["minifloat", "channels", "zero point"],
)
def test_other_static_scales_are_refused_by_name(tmp_path, spec, words):
    exported(tmp_path, spec)
    found = mx.check(tmp_path / "clean.onnx", target="fpga")
    assert found and all("_quant'" in where and words in why for where, why in found)
