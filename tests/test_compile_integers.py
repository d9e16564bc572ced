"""Ordinary integer networks, as Brevitas trains them: one float scale for activations, one for each output of a weight,
unsigned codes behind a ReLU, codes down to -2**(bits - 1)."""

from __future__ import annotations

from itertools import product

import brevitas.nn as qnn
import numpy as np
import pytest
import torch
from brevitas.quant import Int8WeightPerChannelFloat, Int8WeightPerTensorFloat, Int16Bias, Uint8ActPerTensorFloat
from torch import nn

import mxexport as mx
from mxexport.errors import VerificationError
from mxexport.fpga.checking import verify
from mxexport.fpga.lowering.static_scales import take_out_scales
from mxexport.model import graph
from mxexport.quant import QuantSpec, freeze_scales
from tests.helpers import every


class Plain(nn.Module):
    """Signed full-range codes in, unsigned ones behind ReLUs, a norm, a pool of codes, an image that is flattened."""

    shape = (1, 14, 14)

    def __init__(self, bits: int = 8, weight=Int8WeightPerChannelFloat):
        super().__init__()
        kind = {"weight_quant": weight, "weight_bit_width": bits}
        self.body = nn.Sequential(
            qnn.QuantIdentity(bit_width=bits),
            qnn.QuantConv2d(1, 8, 3, padding=1, **kind),
            nn.BatchNorm2d(8),
            qnn.QuantReLU(bit_width=bits),
            nn.MaxPool2d(2),
            qnn.QuantConv2d(8, 40, 3, stride=2, **kind),
            qnn.QuantReLU(bit_width=max(bits - 1, 2), return_quant_tensor=True),
            nn.Flatten(),
            qnn.QuantLinear(360, 10, bias=True, bias_quant=Int16Bias, **kind),
        )

    def forward(self, x):
        return self.body(x)


class Residual(nn.Module):
    """A sum of two branches under one shared scale, quantized again; depthwise; a pool of all pixels; signed codes."""

    shape = (4, 9, 9)

    def __init__(self):
        super().__init__()
        kind = {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": 8}
        self.start = qnn.QuantIdentity(bit_width=8, return_quant_tensor=True)
        self.conv = qnn.QuantConv2d(4, 4, 3, padding=1, bias=True, **kind)
        self.shared = qnn.QuantIdentity(bit_width=6, return_quant_tensor=True)
        self.after = qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=5)
        self.depthwise = qnn.QuantConv2d(4, 4, 3, padding=1, groups=4, bias=False, **kind)
        self.act = qnn.QuantIdentity(bit_width=4)
        self.point = qnn.QuantConv2d(4, 12, 1, **kind)
        self.last = qnn.QuantIdentity(bit_width=8)
        self.out = qnn.QuantLinear(12, 5, bias=True, weight_bit_width=3)

    def forward(self, x):
        x = self.start(x)
        x = self.shared(self.conv(x)) + self.shared(x)
        x = self.act(self.depthwise(self.after(x)))
        x = torch.relu(self.point(x)).mean((2, 3))
        return self.out(self.last(x))


class Sequence(nn.Module):
    """One dimension, and a branch that is an output of its own."""

    shape = (3, 20)

    def __init__(self):
        super().__init__()
        self.start = qnn.QuantIdentity(bit_width=7)
        self.conv = qnn.QuantConv1d(3, 6, 5, stride=2, padding=2, bias=True, weight_bit_width=5)
        self.act = qnn.QuantReLU(bit_width=8)
        self.conv2 = qnn.QuantConv1d(6, 4, 3, weight_bit_width=8)

    def forward(self, x):
        y = self.act(self.conv(self.start(x)))
        return self.conv2(y), y * 0.5


NETWORKS = {
    "plain": Plain,
    "4 bits": lambda: Plain(4),
    "2 bits": lambda: Plain(2),
    "per tensor": lambda: Plain(8, Int8WeightPerTensorFloat),
    "residual": Residual,
    "sequence": Sequence,
}


def trained(build, frames: int = 32) -> tuple[nn.Module, np.ndarray]:
    """With scales, norms and weights as they are after some batches; the inputs reach the ends of every range."""
    torch.manual_seed(3)
    net = build()
    shape = net.shape
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(40):
        out = net(torch.randn(16, *shape))
        first = out[0] if isinstance(out, tuple) else out
        optimizer.zero_grad()
        getattr(first, "value", first).square().mean().backward()
        optimizer.step()
    x = torch.randn(frames, *shape) * 1.2
    x[0], x[1], x[2] = 50, -50, 0
    return net.eval(), x.numpy()


def values(out) -> tuple[np.ndarray, ...]:
    out = out if isinstance(out, tuple) and not hasattr(out, "value") else (out,)
    return tuple(getattr(o, "value", o).detach().numpy() for o in out)


def _each(outputs) -> list[np.ndarray]:
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@pytest.mark.parametrize("name, clean", [(n, c) for c in (True, False) for n in every(2 if c else 5, NETWORKS)])
def test_equals_the_trained_network(tmp_path, name, clean):
    net, x = trained(NETWORKS[name])
    path = tmp_path / "net.onnx"
    mx.export(net, torch.from_numpy(x[:2]), path)
    if clean:
        mx.clean(path, tmp_path / "clean.onnx")
        path = tmp_path / "clean.onnx"
    assert mx.check(path, target="fpga") == []
    design = mx.compile(path, tmp_path / "fpga", calibration=x)
    with torch.no_grad():
        wanted = values(net(torch.from_numpy(x)))
    computed = _each(design.run_dataflow(x).values)
    for theirs, ours in zip(wanted, computed, strict=True):
        far = np.abs(ours.reshape(theirs.shape) - theirs) > 1e-5 * np.abs(theirs).max()
        turned = far.reshape(len(far), -1).any(1)
        assert turned.mean() <= 0.1  # frames with a code on a border, where factors were rounded another way
    if clean:
        result, again = design.simulate(x[:6], stall_out=0.3, stall_in=0.2), design.run_dataflow(x[:6])
        for ours, golden in zip(_each(result.raw), _each(again.raw), strict=True):
            np.testing.assert_array_equal(ours, golden)
        one, many = (design.simulate(x[:n]).cycles for n in (1, 5))
        cycles, latency = (design.report[key] for key in ("cycles_per_frame", "latency_cycles"))
        assert abs((many - one) / 4 - cycles) <= 0.01 * cycles + 2
        assert abs(one - latency) <= 0.02 * latency + 10


@pytest.mark.parametrize(
    "weight, activation", every(4, product(("channel", "tensor", "mxint8"), ("int8", "int4", "uint6")))
)
def test_our_own_formats_with_one_float_scale(tmp_path, activation, weight):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 40, 1), nn.ReLU(), nn.Conv2d(40, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)]
    spec = QuantSpec(activation, source="static", scaling_per_output="tensor", signed=not activation.startswith("u"))
    weights = "mxint8" if weight == "mxint8" else QuantSpec("int8", scaling_per_output=weight)
    model = mx.quantize_model(nn.Sequential(*body), weight=weights, activation=spec)
    x = torch.rand(24, 3, 6, 6)
    model(x)
    freeze_scales(model)
    mx.export(model.eval(), (x[:2],), tmp_path / "m.onnx")
    mx.clean(tmp_path / "m.onnx", tmp_path / "clean.onnx")
    design = mx.compile(tmp_path / "clean.onnx", tmp_path / "fpga", calibration=x.numpy())
    with torch.no_grad():
        wanted = model(x).numpy()
    far = np.abs(design.run_dataflow(x.numpy()).values - wanted) > 1e-5 * np.abs(wanted).max()
    assert far.mean() <= 0.02
    result = design.simulate(x[:8].numpy(), stall_out=0.3)
    np.testing.assert_array_equal(result.raw, design.run_dataflow(x[:8].numpy()).raw)


def test_a_wrong_rewriting_would_be_found(tmp_path):
    net, x = trained(Plain)
    mx.export(net, torch.from_numpy(x[:2]), tmp_path / "net.onnx")
    given = graph.load(tmp_path / "net.onnx")
    rewritten = given.clone()
    assert take_out_scales(rewritten)
    verify.check_rewritten(given, rewritten, {"x": x})
    factor = next(n for n in rewritten.graph if n.name == "body.8_scale")
    value = factor.inputs[1]
    value.const_value = graph.ir.tensor(value.const_value.numpy() * np.float32(1.01), name=value.name)
    with pytest.raises(VerificationError, match="scales taken out"):
        verify.check_rewritten(given, rewritten, {"x": x})


def test_files_without_such_scales_stay_as_they_are(tmp_path):
    model = mx.quantize_model(nn.Sequential(nn.Linear(8, 4)), weight="mxint8", activation="mxfp8_e4m3")
    mx.export(model, (torch.randn(2, 8),), tmp_path / "m.onnx")
    loaded = graph.load(tmp_path / "m.onnx")
    before = graph.to_proto(loaded).SerializeToString()
    assert not take_out_scales(loaded)
    assert graph.to_proto(loaded).SerializeToString() == before
