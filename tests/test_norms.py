"""LayerNorm and RMSNorm in hardware: how exact they are, rows that are hard, and networks that hold them."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import FormatError, UnsupportedError
from mxexport.fpga.lowering import norm_patterns
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Refused
from mxexport.fpga.units import Norm
from mxexport.fpga.units.norm import variance_bits
from mxexport.numbers import normalization, quantized
from mxexport.numbers.formats import get_format
from mxexport.passes.clean.infer_shapes import infer_shapes
from tests import hardware_networks as networks
from tests.helpers import every
from tests.test_hardware_units import build, folding_of, golden

WIDTH, LSB = 22, -14


def rows(length: int) -> dict[str, np.ndarray]:
    """Kind -> int64 [20, length] of 22 bits in units of 2**-14."""
    rng = np.random.default_rng(length)
    top = 2 ** (WIDTH - 1) - 1
    normal = rng.normal(0, 1, (20, length)) * 2.0**14
    outlier = normal.copy()
    outlier[:, 3] = 60 * 2.0**14
    found = {
        "normal": normal,
        "outlier": outlier,
        "large mean": normal / 8 + 100 * 2.0**14,
        "tiny variance": normal / 2**8,
        "below epsilon": normal / 2**10,
        "full scale": rng.choice([-top - 1, top], (20, length)),
        "steps of one": rng.integers(-1, 2, (20, length)),
    }
    return {kind: np.clip(np.rint(x), -top - 1, top).astype(np.int64) for kind, x in found.items()}


def exact(unit: Norm, x: np.ndarray, epsilon: float, gain: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """float64, by the definition of ONNX."""
    real = np.ldexp(x.astype(np.float64), unit.source.lsb_exp)
    mean = real.mean(-1, keepdims=True) * unit.center
    variance = ((real - mean) ** 2).mean(-1, keepdims=True)
    return (real - mean) / np.sqrt(variance + epsilon) * gain + offset


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    power = [float((v.astype(np.float64) ** 2).sum()) for v in (signal, noise)]
    return 10 * np.log10(power[0] / max(power[1], 1e-300))


@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("length", [48, 64, 384])
def test_noise_is_20_db_below_that_of_mx_int8(length, center):
    rng, epsilon = np.random.default_rng(1), 1e-5
    gain, offset = rng.normal(1, 0.3, length), rng.normal(0, 0.5, length)
    unit = Norm.of(Wide((length,), WIDTH, LSB), center, epsilon, gain, offset)
    for kind, x in rows(length).items():
        wanted = exact(unit, x, epsilon, gain, offset)
        found = np.ldexp(golden(unit, [x])[0].astype(np.float64), unit.lsb_exp)
        codes = quantized.quantize(wanted.astype(np.float32), get_format("mxint8"), axis=1).dequantize()
        ours, theirs = decibels(wanted, found - wanted), decibels(wanted, codes - wanted)
        assert ours >= 70 and ours >= theirs + 20, (kind, ours, theirs)


@pytest.mark.parametrize("value", [0, 1, -1, 2 ** (WIDTH - 1) - 1, -(2 ** (WIDTH - 1))])
def test_equal_channels_have_no_deviation(value):
    """The mean of 48 equal values is exact, so what comes out is the offset, to its rounding."""
    offset = np.linspace(-2, 2, 48)
    unit = Norm.of(Wide((48,), WIDTH, LSB), True, 1e-5, np.ones(48), offset)
    found = golden(unit, [np.full((1, 48), value)])[0]
    assert np.abs(np.ldexp(found.astype(np.float64), unit.lsb_exp) - offset).max() <= 2.0 ** (unit.lsb_exp - 1)


@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("length, lanes", [(48, 4), (64, 1)])
def test_hard_rows_are_equal_in_rtl_and_within_the_width_that_the_unit_claims(length, lanes, center, tmp_path):
    unit = Norm.of(Wide((length,), WIDTH, LSB), center, 0.0, np.full(length, -1.5), np.full(length, 3.0))
    top = 2 ** (WIDTH - 1)
    alone = np.zeros((4, length), np.int64)
    alone[0, 0], alone[1, -1], alone[2, 5], alone[3, 0] = top - 1, -top, 1, -1
    equal = np.full((3, length), 7) * np.array([[0], [1], [-(top // 7)]])
    x = np.concatenate([*(r[:3] for r in rows(length).values()), alone, equal, np.full((1, length), -top)])
    expected, folding = golden(unit, [x])[0], folding_of(lanes)
    assert np.abs(expected).max() < 2 ** (unit.result.width - 1)
    beats, last = unit.source.pack(x, lanes)
    count = unit.result.beats(lanes)
    run = build(unit, folding, tmp_path).run(beats, len(x) * count, last=last, stall_in=0.2, stall_out=0.2)
    np.testing.assert_array_equal(unit.result.unpack(run.beats, lanes), expected)


def test_the_inverse_root_is_within_a_14_bit_of_every_variance():
    tables = normalization.root_table(5, 16)
    powers = np.concatenate([2 ** np.arange(62), 2 ** np.arange(1, 63) - 1, 3 * 2 ** np.arange(60)])
    variance = np.concatenate([np.arange(1, 2**18), powers, np.random.default_rng(0).integers(1, 2**62, 10_000)])
    half, root = normalization.inverse_root(variance, *tables, 5, 16)
    error = np.ldexp(root.astype(np.float64), -(half + 16)) * np.sqrt(variance.astype(np.float64)) - 1
    assert np.abs(error).max() < 2.0**-13.9
    assert root.max() <= 2**16 and root.min() >= 2**15


def test_a_segment_of_one_step_is_refused():
    unit = Norm.of(Wide((4,), 10, 0), True, 1e-5, np.ones(4), np.zeros(4))
    odd = dataclasses.replace(unit, root_bits=5)
    with pytest.raises(FormatError, match="root_bits is 5; expected more than segment_bits"):
        golden(odd, [np.zeros((1, 4), np.int64)])


# --- networks ---------------------------------------------------------------------------------------------------------


def mlp(norm: nn.Module, width: int = 48) -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, width), norm, nn.ReLU(), nn.Linear(width, 5))


NETWORKS = {
    "layer": (lambda: nn.LayerNorm(48), ("mxint8", "mxint8")),
    "layer e4m3": (lambda: nn.LayerNorm(48), ("mxfp4_e2m1", "mxfp8_e4m3")),
    "layer plain": (lambda: nn.LayerNorm(48, elementwise_affine=False), ("mxint8", "mxfp6_e2m3")),
    "rms": (lambda: nn.RMSNorm(48, eps=1e-6), ("mxint8", "mxint8")),
    "rms plain": (lambda: nn.RMSNorm(48, elementwise_affine=False), ("mxfp6_e2m3", "mxint8")),
}


@pytest.mark.parametrize("name", every(3, NETWORKS))
def test_a_network_with_a_norm_is_equal_in_rtl_and_close_to_torch(name, tmp_path):
    make, formats = NETWORKS[name]
    torch.manual_seed(1)
    norm = make()
    for parameter in norm.parameters():
        nn.init.normal_(parameter, 1.0, 0.3)
    design, quantized_model, x = networks.compiled(mlp(norm), (20,), formats, tmp_path)
    assert [type(i.unit) for i in design.network.instances].count(Norm) == 1
    expected = design.run_dataflow(x)
    with torch.no_grad():
        wanted = quantized_model(torch.from_numpy(x)).numpy()
    assert decibels(wanted, expected.values - wanted) > 30  # codes that turn on the border of two
    for stalls in ({}, {"stall_in": 0.3, "stall_out": 0.3, "seed": 7}):
        np.testing.assert_array_equal(design.simulate(x[:8], **stalls).raw, expected.raw[:8])
    one, many = (design.simulate(x[:n]).cycles for n in (1, 8))
    assert abs((many - one) / 7 - design.report["cycles_per_frame"]) <= 0.01 * design.report["cycles_per_frame"] + 2
    assert abs(one - design.report["latency_cycles"]) <= 0.02 * one + 10


class PreNorm(nn.Module):
    """A feed-forward block as transformers have it: what is added waits as long as the norm and both layers take."""

    def __init__(self):
        super().__init__()
        self.enter, self.norm1, self.norm2 = nn.Linear(20, 48), nn.LayerNorm(48), nn.RMSNorm(48)
        self.up, self.down, self.head = nn.Linear(48, 64), nn.Linear(64, 48), nn.Linear(48, 5)

    def forward(self, x):
        x = self.enter(x)
        x = x + self.down(torch.relu(self.up(self.norm1(x))))
        return self.head(self.norm2(x))


def test_a_residual_block_before_and_behind_norms_keeps_its_rate(tmp_path):
    torch.manual_seed(3)
    design, quantized_model, x = networks.compiled(PreNorm(), (20,), ("mxint8", "mxint8"), tmp_path)
    expected, report = design.run_dataflow(x), design.report
    with torch.no_grad():
        wanted = quantized_model(torch.from_numpy(x)).numpy()
    assert decibels(wanted, expected.values - wanted) > 30
    one, many = design.simulate(x[:1]), design.simulate(x[:12])
    np.testing.assert_array_equal(many.raw, expected.raw[:12])
    np.testing.assert_array_equal(design.simulate(x[:12], stall_in=0.3, stall_out=0.3).raw, expected.raw[:12])
    cycles = report["cycles_per_frame"]
    assert abs((many.cycles - one.cycles) / 11 - cycles) <= 0.01 * cycles + 2
    assert abs(one.cycles - report["latency_cycles"]) <= 0.02 * one.cycles + 10


class ChannelsLast(nn.Module):
    """As ConvNeXt has it in torchvision: channels go behind and come back."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(12)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelsFirst(nn.Module):
    """As ConvNeXt has it in its authors' own code."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.linspace(0.5, 2, 12)), nn.Parameter(torch.linspace(-1, 1, 12))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


@pytest.mark.parametrize("norm, cycles, pixels", every(2, [(ChannelsLast, 400, 1), (ChannelsFirst, 16, 2)]))
def test_the_channels_of_images(norm, cycles, pixels, tmp_path):
    """A few channels at once, and all those of two pixels."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(2, 12, 3, padding=1), norm(), nn.ReLU(), nn.Conv2d(12, 4, 1))
    formats, rate = ("mxint8", "mxfp4_e2m1"), 200e6 / cycles
    design, quantized_model, x = networks.compiled(model, (2, 4, 8), formats, tmp_path, target_fps=rate)
    ((name, unit),) = ((i.name, i.unit) for i in design.network.instances if isinstance(i.unit, Norm))
    assert unit.source.shape == (4, 8, 12) and unit.center
    assert design.foldings[name].pixels == pixels and design.report["cycles_per_frame"] <= cycles
    expected = design.run_dataflow(x)
    with torch.no_grad():
        wanted = quantized_model(torch.from_numpy(x)).numpy()
    assert decibels(wanted, expected.values - wanted) > 30
    np.testing.assert_array_equal(design.simulate(x[:4], stall_in=0.2, stall_out=0.3).raw, expected.raw[:4])


def test_opset_23_has_one_node_for_an_rms_norm(tmp_path):
    torch.manual_seed(0)
    quantized_model = mx.quantize_model(mlp(nn.RMSNorm(48)).eval(), "mxint8", "mxint8")
    x = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32)
    path = tmp_path / "m.onnx"
    mx.export(quantized_model, (torch.from_numpy(x),), path, opset=23)
    assert "RMSNormalization" in [n.op_type for n in ir.load(path).graph]
    design = mx.compile(path, tmp_path / "fpga", calibration=x)
    assert [i.unit.center for i in design.network.instances if isinstance(i.unit, Norm)] == [False]
    np.testing.assert_array_equal(design.simulate(x[:3]).raw, design.run_dataflow(x[:3]).raw)


def parsed(nodes: str) -> ir.Graph:
    text = f"""<ir_version: 10, opset_import: ["": 18]>
    g (float[2, 8] x) => (float[2, 8] y) <int64[1] axes = {{-1}}, float two = {{2}}, float e = {{0.5}},
       float[8] one = {{1, 2, 3, 4, 5, 6, 7, 8}}> {{ {nodes} }}"""
    model = ir.from_onnx_text(text)
    infer_shapes(model)
    return model.graph


_CENTERED = "m = ReduceMean(x, axes) d = Sub(x, m) s = Pow(d, two) v = ReduceMean(s, axes) a = Add(v, e) r = Sqrt(a) "
_PLAIN = "s = Pow(x, two) v = ReduceMean(s, axes) a = Add(e, v) r = Sqrt(a) "


@pytest.mark.parametrize(
    "nodes, center, gain, offset",
    [
        (_CENTERED + "n = Div(d, r) g = Mul(n, one) y = Add(g, one)", True, 8, 8),
        (_CENTERED + "i = Reciprocal(r) n = Mul(d, i) g = Mul(one, n) y = Identity(g)", True, 8, 0),
        (_PLAIN + "i = Reciprocal(r) y = Mul(i, x)", False, 1, 0),
        (_PLAIN + "n = Div(x, r) y = Add(n, one)", False, 1, 8),
    ],
)
def test_norms_that_exporters_took_apart_are_found(nodes, center, gain, offset):
    graph = parsed(nodes)
    found = norm_patterns.read(graph[0])
    assert (found.center, found.epsilon, found.gain.max(), found.offset.max()) == (center, 0.5, gain, offset)
    rest = [n for n in graph if n is not graph[0] and n not in found.inner]
    assert found.x.name == "x" and [n.op_type for n in rest] == ["Identity"] * ("Identity" in nodes)


@pytest.mark.parametrize(
    "nodes",
    [
        _CENTERED + "n = Div(x, r) y = Mul(n, d)",  # the mean is not taken off above
        _PLAIN.replace("Pow(x, two)", "Pow(x, e)") + "y = Div(x, r)",
        _PLAIN + "y = Div(r, x)",
        _PLAIN.replace("ReduceMean(s, axes)", "ReduceMean<keepdims = 0>(s, axes)") + "y = Div(x, r)",
        _PLAIN + "z = Abs(r) y = Div(x, z)",
    ],
)
def test_what_only_looks_like_a_norm_is_none(nodes):
    assert norm_patterns.read(parsed(nodes)[0]) is None


@pytest.mark.parametrize(
    "nodes, words",
    [
        ("y = LayerNormalization<axis = 0>(x, one)", "it normalizes from axis 0 on, of 2; expected the last"),
        ("y = LayerNormalization(x, x)", "its scale or bias is no finite constant"),
        ("y, m = LayerNormalization(x, one) z = Abs(m)", "its mean or inverse deviation is read"),
    ],
)
def test_norms_that_no_unit_computes_are_refused(nodes, words):
    with pytest.raises(Refused, match=words):
        norm_patterns.read(parsed(nodes)[0])


def test_a_norm_over_columns_is_refused_by_name(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(8)).eval()
    quantized_model = mx.quantize_model(model, "mxint8", "mxint8")
    mx.export(quantized_model, (torch.ones(1, 3, 8, 8),), tmp_path / "m.onnx")
    with pytest.raises(
        UnsupportedError, match="output 'layer_norm': has the axes batch x 4 x 8 x 8; expected .* channels first"
    ):
        mx.compile(tmp_path / "m.onnx", tmp_path / "fpga", calibration=np.ones((4, 3, 8, 8), np.float32))


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 1.0])
@pytest.mark.parametrize("width, lsb_exp, length", [(22, -14, 384), (40, -30, 384), (55, -50, 48), (30, 0, 4096)])
def test_the_input_keeps_as_many_bits_as_its_variance_may_have(width, lsb_exp, length, epsilon):
    from mxexport.fpga.units.norm import kept_bits

    source = Wide((length,), width, lsb_exp)
    bits, kind = kept_bits(source, epsilon)
    unit = Norm.of(kind, True, epsilon, np.ones(length), np.zeros(length))
    assert kind.width == bits and variance_bits(kind, unit.epsilon) <= 62
    if bits < width:
        assert kind.lsb_exp == lsb_exp + width + 1 - bits
        finer = Wide((length,), bits + 1, kind.lsb_exp - 1)
        assert variance_bits(finer, Norm.of(finer, True, epsilon, np.ones(length), np.zeros(length)).epsilon) > 62
