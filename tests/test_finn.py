"""`convert --to finn`: the values of the exported file at opset 17, by integers only; what does not fit is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport import runtime
from mxexport.errors import UnsupportedError
from mxexport.quant import freeze_scales

STATIC = mx.QuantSpec("int8", source="static", scaling_per_output="tensor")
MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 6)), (1, 70)),
    "cnn": (
        lambda: nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(360, 5)),
        (1, 3, 8, 8),
    ),
}


def exported(name: str, weight: str, activation, path) -> np.ndarray:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = mx.quantize_model(make(), weight, activation)
    model(torch.randn(64, *shape[1:]))
    freeze_scales(model)
    x = torch.randn(shape)
    mx.export(model.eval(), (x,), path)
    return x.numpy()


@pytest.mark.parametrize("weight", ["mxint4", "mxfp4_e2m1", "mxfp6_e3m2"])
@pytest.mark.parametrize("name", MODELS)
def test_converted_file_gives_the_values_of_the_exported_one(name, weight, tmp_path):
    x = exported(name, weight, STATIC, tmp_path / "m.onnx")
    report = mx.convert(tmp_path / "m.onnx", tmp_path / "finn.onnx", to="finn")
    proto = onnx.load(report.path)
    onnx.checker.check_model(proto)
    assert report.opset == 17 and any("not tested in FINN" in note for _, note in report.notes)
    assert {n.domain for n in proto.graph.node} <= {"", "qonnx.custom_op.general"}
    assert all(d.HasField("dim_value") for i in proto.graph.input for d in i.type.tensor_type.shape.dim)
    for execute in (runtime.run, runtime.run_qonnx):
        (expected,), (actual,) = (execute(p, x).values() for p in (tmp_path / "m.onnx", report.path))
        # Products are sums of other, wider integers times one scale: float32 may round them once more.
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("weight", "activation", "message"),
    [
        ("mxint4", "mxint8", "0.input_quant"),
        ("mxfp8_e5m2", STATIC, "bits"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(weight, activation, message, tmp_path):
    exported("mlp", weight, activation, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=message):
        mx.convert(tmp_path / "m.onnx", tmp_path / "finn.onnx", to="finn")
    assert not (tmp_path / "finn.onnx").exists()
