"""hls4ml and FINN take packed weights, and make of them what they make of the same weights in float."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.model import graph
from mxexport.quant import freeze_scales
from mxexport.running import executors
from mxexport.targets.check import require as check
from tests.pass_helpers import model

STATIC = mx.QuantSpec("mxint8", source="static", scaling_per_output="tensor")
LINEAR = ("mxint8", "mxfp4_e2m1", "mxfp8_e4m3", "int4_g16", "uint4_g16", "nvfp4")
WEIGHTS = {"conv0": "mxfp4_e2m1", "conv1": "int4_g16", "tied": "mxfp6_e3m2", "again": "mxfp6_e3m2"} | {
    f"fc_{f}": f for f in LINEAR
}


class Net(nn.Module):
    """Convolutions whose groups run over input channels, a linear layer of every kind, and two with one weight."""

    def __init__(self):
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(40, 20, 3), nn.Conv2d(20, 5, 2)
        self.tied, self.again = nn.Linear(20, 20), nn.Linear(20, 20)
        self.again.weight = self.tied.weight
        for name in LINEAR:
            self.add_module(f"fc_{name}", nn.Linear(20, 20))

    def forward(self, x):
        x = self.conv1(torch.relu(self.conv0(x))).flatten(1)
        for layer in (self.tied, self.again, *(self.get_submodule(f"fc_{name}") for name in LINEAR)):
            x = layer(torch.relu(x))
        return x


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Input, and the files of both roads with float and with packed weights: as exported, and cleaned."""
    torch.manual_seed(0)
    formats = {name: {"weight": weight} for name, weight in WEIGHTS.items()}
    qmodel, x = mx.quantize_model(Net(), "mxint8", STATIC, formats=formats), torch.randn(1, 40, 5, 5)
    qmodel(torch.randn(16, 40, 5, 5))
    freeze_scales(qmodel)
    folder = tmp_path_factory.mktemp("packed")
    paths = {name: folder / f"{name}.onnx" for name in ("exported", "exported_packed", "cleaned", "cleaned_packed")}
    mx.export(qmodel.eval(), (x,), paths["exported"])
    mx.export(qmodel, (x,), paths["exported_packed"], weights="packed")
    mx.clean(paths["exported"], paths["cleaned"])
    mx.clean(paths["exported"], paths["cleaned_packed"], pack=True)
    for name in ("exported_packed", "cleaned_packed"):
        nodes = [n.op_type for n in onnx.load(paths[name]).graph.node]
        assert sum(n in graph.DEQUANTIZERS for n in nodes) == len(WEIGHTS) - 1  # two layers share one
        assert {*nodes} >= graph.DEQUANTIZERS | graph.STORED_SCALES
    return x.numpy(), paths


def converted(path, to, tmp_path, **options) -> tuple[onnx.ModelProto, list]:
    report = mx.convert(path, tmp_path / "o.onnx", to=to, **options)
    return onnx.load(report.path), report.notes


@pytest.mark.parametrize("road", ["exported", "cleaned"])
@pytest.mark.parametrize("to", ["hls4ml", "finn"])
def test_packed_and_float_weights_become_the_same_model(files, to, road, tmp_path):
    x, paths = files
    expected, notes = converted(paths[road], to, tmp_path, max_weight_bits=60)
    actual, same_notes = converted(paths[f"{road}_packed"], to, tmp_path, max_weight_bits=60)
    assert actual.SerializeToString() == expected.SerializeToString() and same_notes == notes
    assert {name for name, why in notes if why.startswith("weights are")} == set(WEIGHTS)
    (want,), (got,) = (executors.run(m, x).values() for m in (paths[f"{road}_packed"], actual))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)  # sums of floats in another order


@pytest.mark.parametrize("name", ["exported", "exported_packed", "cleaned_packed"])
def test_check_agrees_with_the_conversion(files, name, tmp_path):
    path = files[1][name]
    with pytest.raises(UnsupportedError) as refused:
        converted(path, "hls4ml", tmp_path)
    with pytest.raises(UnsupportedError) as caught:
        check(graph.load(path), "hls4ml")
    assert caught.value.problems == refused.value.problems
    assert {where for where, _ in caught.value.problems} == {"conv1", "fc_int4_g16", "fc_uint4_g16", "fc_nvfp4"}
    converted(path, "finn", tmp_path)
    check(graph.load(path), "finn")


def test_groups_of_packed_codes_stay_apart(tmp_path):
    torch.manual_seed(0)
    layer = nn.Linear(64, 6, bias=False)
    layer.weight.data[:, :32] *= 64
    qmodel = mx.quantize_model(nn.Sequential(layer), "mxint4", STATIC)
    qmodel(torch.randn(16, 64))
    freeze_scales(qmodel)
    outcomes = []
    for weights in ("float", "packed"):
        mx.export(qmodel.eval(), (torch.randn(1, 64),), tmp_path / "m.onnx", weights=weights)
        made, notes = converted(tmp_path / "m.onnx", "hls4ml", tmp_path, fold="groups")
        outcomes.append((made.SerializeToString(), notes))
        check(graph.load(tmp_path / "m.onnx"), "hls4ml")
    assert outcomes[0] == outcomes[1] and "4-bit codes" in notes[0][1]


@pytest.mark.parametrize("to", ["hls4ml", "finn"])
def test_a_scale_found_in_the_graph_from_the_weight_is_a_constant(to, tmp_path):
    scale = "mxexport.ops.MXScale<axis=0, group_size=32, emax=0, round_bias=0, frac_bits=6, code_min=0, code_max=254>"
    ours = "mxexport.ops.GroupwiseQuant<axis=0, group_size=32, bit_width=8, signed=1, narrow=1>"
    quant = 'qonnx.custom_op.general.Quant<signed=1, narrow=1, rounding_mode="ROUND">'
    body = f"[s] s = {scale}(w) [w] qw = {ours}(w, s) [q] q = {quant}(x, step, zero, eight) [fc] y = MatMul(q, qw)"
    constants = {"step": np.float32(0.125), "zero": np.float32(0), "eight": np.float32(8)}
    w = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    given = model(body, "float[1,40] x", "float[1,4] y", w=w, **constants)
    graph.attach_standard_functions(given)
    graph.save(given, tmp_path / "m.onnx")
    made, _ = converted(tmp_path / "m.onnx", to, tmp_path)
    assert [n.op_type for n in made.graph.node] == ["Quant", "Quant", "MatMul"]
    x = np.random.default_rng(1).standard_normal((1, 40)).astype(np.float32)
    (want,), (got,) = (executors.run(m, x).values() for m in (tmp_path / "m.onnx", made))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
