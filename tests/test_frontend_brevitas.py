"""Brevitas models are taken in as they are: equal bits per layer, exported quantizers equal to the reference."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.model import graph
from mxexport.running import executors, verification

qnn = pytest.importorskip("brevitas.nn", reason="brevitas is not installed")
ocp = pytest.importorskip("brevitas.quant.experimental.mx_quant_ocp")

PAIRS = [
    ("MXFloat8e4m3Weight", "MXFloat8e4m3Act"),
    ("MXInt8Weight", "MXInt8Act"),
    ("ShiftedMXUInt8Weight", None),
]


def network(weight: str, activation: str | None) -> nn.Sequential:
    torch.manual_seed(0)
    quantizers = {"weight_quant": getattr(ocp, weight), "input_quant": activation and getattr(ocp, activation)}
    return nn.Sequential(
        qnn.QuantConv2d(32, 8, 3, **quantizers), nn.ReLU(), nn.Flatten(), qnn.QuantLinear(288, 10, **quantizers)
    ).eval()


def values(y) -> torch.Tensor:
    return getattr(y, "value", y).detach()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weight, activation", PAIRS)
def test_layers_keep_their_bits_and_the_model_stays(weight, activation, tmp_path):
    model, x = network(weight, activation), torch.randn(4, 32, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = values(model(x))
    taken = mx.from_brevitas(model, (x,))
    assert torch.equal(taken(x).detach(), expected)
    for name in ("0", "3"):
        assert torch.equal(
            taken.get_submodule(name).quant_weight().value, model.get_submodule(name).quant_weight().value
        )
    mx.export(model, (x,), tmp_path / "m.onnx")
    assert torch.equal(values(model(x)), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    loaded = graph.load(tmp_path / "m.onnx")
    for execute in (executors.run, executors.run_qonnx):
        differences = verification.count_quantizer_differences(loaded, x.numpy(), execute)
        assert len(differences) >= 2 and not any(differences.values()), differences
    (out,) = executors.run(tmp_path / "m.onnx", x.numpy()).values()
    # Float32 sums in another order; every quantizer above is bit-exact.
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_saturating_int8_of_brevitas_is_named(tmp_path):
    model, x = network("MXInt8Weight", "MXInt8Act"), torch.randn(4, 32, 8, 8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mx.export(model, (x,), tmp_path / "m.onnx")
    text = "\n".join(str(w.message) for w in caught)
    assert "satur" in text.lower() and "%" in text, text
