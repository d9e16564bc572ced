"""hls4ml's C simulation of networks whose values are read twice, on inputs on ties; and what it cannot take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import mxexport as mx
from mxexport import graph, passes, runtime
from mxexport.errors import UnsupportedError
from mxexport.quant import activation_quantizer
from mxexport.quant.layer import QuantLayer
from mxexport.targets import convert
from mxexport.targets.hls4ml_project import project
from tests.test_hls4ml import needs_hls4ml

STATIC = mx.QuantSpec("mxint8", source="static", scaling_per_output="tensor")
PER_CHANNEL = mx.QuantSpec("mxint4", scaling_per_output="channel")


class Images(nn.Module):
    """Residuals around a convolution with groups and dilations and a depthwise one; a padded pool, a constant image."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.shift = nn.Parameter(torch.tensor([0.5, -0.25, 1, 2]).reshape(1, 4, 1, 1))
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        y = torch.relu(self.first(x))
        z = functional.max_pool2d(torch.relu(self.grouped(y) + y), 3, 2, 1) + self.shift
        w = self.depthwise(z) + z
        return self.fc(w.flatten(1)), w


class Vectors(nn.Module):
    """Two layers read one value, each by a quantizer of its own, and so do a residual and the reader of the model."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        y = torch.relu(self.first(x))
        z = self.second(y) + self.third(y)
        return self.last(z + z + y), y


def quantized(model, weight, x):
    """Calibrated, with biases on a grid that products share; scales are powers of two."""
    model = mx.quantize_model(model, weight=weight, activation=STATIC)
    for layer in (m for m in model.modules() if isinstance(m, QuantLayer)):
        layer.bias.data = (layer.bias.data * 16).round() / 16
    model.train()(x)
    mx.freeze_scales(model)
    return model.eval()


def on_ties(model, shape, count=256):
    """Inputs halfway between two codes of the first quantizer, some beyond the last; and ties in each quantizer."""
    step = model.first.input_quant.stored_scale
    x, ties = (torch.randint(-131, 131, (count, *shape)) + 0.5) * step, {}

    def watch(quantizer, inputs):
        ties[quantizer] = int(((inputs[0] / quantizer.stored_scale.reshape(-1)[0]) % 1 == 0.5).sum())

    sources = [m.input_quant for m in model.modules() if isinstance(m, QuantLayer)]
    handles = [source.register_forward_pre_hook(watch) for source in sources]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return x, [ties[source] for source in sources]


def exported(tmp_path, model, x, **options):
    mx.export(model, (x,), tmp_path / "m.onnx")
    return convert(tmp_path / "m.onnx", tmp_path / "h.onnx", to="hls4ml", **options)


def simulated(tmp_path, x):
    made = project(tmp_path / "h.onnx", tmp_path / "hls", input_type=(24, 12))
    made.compile()
    return made.predict(np.ascontiguousarray(x))


def assert_simulation_equals(tmp_path, x):
    expected = list(runtime.run_qonnx(tmp_path / "m.onnx", x).values())
    found = simulated(tmp_path, x)
    for name, (wanted, got) in enumerate(zip(expected, found, strict=True)):
        assert np.array_equal(got.reshape(wanted.shape), wanted + 0.0), f"output {name}"


@needs_hls4ml
def test_a_residual_network_of_images_is_simulated_with_the_same_bits(tmp_path):
    torch.manual_seed(0)
    model = quantized(Images(), PER_CHANNEL, (torch.randn(32, 3, 4, 4) * 64).round() / 64)
    x, ties = on_ties(model, (3, 4, 4))
    report = exported(tmp_path, model, x)
    assert (
        "grouped",
        "kernel (4, 2, 3, 3) filled up with zeros to (4, 4, 5, 5): hls4ml takes no groups and dilations",
    ) in report.notes
    assert min(ties) > 0 and ties[0] == x.numel()
    assert_simulation_equals(tmp_path, x.numpy())


@needs_hls4ml
def test_a_residual_network_of_vectors_is_simulated_with_the_same_bits(tmp_path):
    torch.manual_seed(0)
    model = Vectors()
    for layer in (model.first, model.second):
        layer.weight.data *= torch.exp2(-(torch.arange(layer.weight.shape[1]) // 4 % 3))
    model = quantized(model, "mxint4_g4", (torch.randn(32, 16) * 64).round() / 64)
    unsigned = activation_quantizer("uint8", -1, source="static", scaling_per_output="tensor", signed=False)
    unsigned.stored_scale = model.third.input_quant.stored_scale / 2
    model.third._hold(input_quant=unsigned)
    x, ties = on_ties(model, (16,))
    exported(tmp_path, model, x, fold="groups")
    assert min(ties) > 0 and ties[0] == x.numel()
    assert_simulation_equals(tmp_path, x.numpy())
