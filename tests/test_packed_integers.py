"""hls4ml and FINN take packed weights, and make of them what they make of the same weights in float."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport import graph, runtime
from mxexport.passes import check
from mxexport.quant import freeze_scales
from tests.passes_helpers import model

STATIC = mx.QuantSpec("mxint8", source="static", scaling_per_output="tensor")
WEIGHTS = ("mxint8", "mxfp4_e2m1", "mxfp8_e4m3", "int4_g16", "uint4_g16", "nvfp4")
EXACT = {"hls4ml": {"max_weight_bits": 60}, "finn": {"max_weight_bits": 60}}


class Net(nn.Module):
    """A convolution whose groups run over input channels, two layers with one weight, short last groups."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(40, 3, 3), nn.Linear(12, 12), nn.Linear(12, 12)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(torch.relu(self.one(torch.relu(self.conv(x)).flatten(1))))


@pytest.fixture(scope="module", params=WEIGHTS)
def files(request, tmp_path_factory):
    """(weight format, input, float file, packed file) of both roads: as exported, and cleaned."""
    torch.manual_seed(0)
    qmodel, x = mx.quantize_model(Net(), request.param, STATIC), torch.randn(1, 40, 4, 4)
    qmodel(torch.randn(16, 40, 4, 4))
    freeze_scales(qmodel)
    folder = tmp_path_factory.mktemp("packed")
    paths = {name: folder / f"{name}.onnx" for name in ("float", "packed", "clean", "clean_packed")}
    mx.export(qmodel.eval(), (x,), paths["float"])
    mx.export(qmodel, (x,), paths["packed"], weights="packed")
    mx.clean(paths["float"], paths["clean"])
    mx.clean(paths["float"], paths["clean_packed"], pack=True)
    for name in ("packed", "clean_packed"):
        kinds = {n.op_type for n in onnx.load(paths[name]).graph.node}
        assert kinds & graph.DEQUANTIZERS and not any(n.endswith("weight_quant") for n in kinds)
    return request.param, x.numpy(), paths


def converted(path, to, tmp_path, **options) -> tuple[onnx.ModelProto, list]:
    report = mx.convert(path, tmp_path / "o.onnx", to=to, **options)
    return onnx.load(report.path), report.notes


@pytest.mark.parametrize("to", ["hls4ml", "finn"])
def test_packed_and_float_weights_become_the_same_model(files, to, tmp_path):
    weight, x, paths = files
    for plain, packed in (("float", "packed"), ("clean", "clean_packed")):
        expected, notes = converted(paths[plain], to, tmp_path, **EXACT[to])
        actual, same_notes = converted(paths[packed], to, tmp_path, **EXACT[to])
        assert actual.SerializeToString() == expected.SerializeToString() and same_notes == notes
        assert {name for name, why in notes if why.startswith("weights are")} == {"conv", "one", "two"}
    if to == "hls4ml":
        (want,), (got,) = (runtime.run_qonnx(m, x).values() for m in (graph.to_proto(graph.load(paths[plain])), actual))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)  # sums of floats, in another order


@pytest.mark.parametrize("to", ["hls4ml", "finn"])
def test_check_agrees_with_the_conversion(files, to, tmp_path):
    for path in files[2].values():
        try:
            converted(path, to, tmp_path)
        except mx.errors.UnsupportedError as error:
            refused = {where for where, _ in error.problems}
            with pytest.raises(mx.errors.UnsupportedError) as caught:
                check(graph.load(path), to)
            assert refused <= {where for where, _ in caught.value.problems}
        else:
            check(graph.load(path), to)


def test_groups_of_packed_codes_stay_apart(tmp_path):
    torch.manual_seed(0)
    layer = nn.Linear(64, 6)
    layer.weight.data[:, :32] *= 64
    qmodel = mx.quantize_model(nn.Sequential(layer), "mxint4", STATIC)
    qmodel(torch.randn(16, 64))
    freeze_scales(qmodel)
    outcomes = []
    for weights in ("float", "packed"):
        mx.export(qmodel.eval(), (torch.randn(1, 64),), tmp_path / "m.onnx", weights=weights)
        made, notes = converted(tmp_path / "m.onnx", "hls4ml", tmp_path, fold="groups", max_bias_bits=60)
        outcomes.append((made.SerializeToString(), notes))
    assert outcomes[0] == outcomes[1] and "4-bit codes" in notes[0][1]


def test_a_scale_found_from_the_weight_in_the_graph_is_a_constant(tmp_path):
    """What quantizers of other exporters look like: MXScale on an initializer."""
    scale = "mxexport.ops.MXScale<axis=0, group_size=32, emax=0, round_bias=0, frac_bits=6, code_min=0, code_max=254>"
    ours = "mxexport.ops.GroupwiseQuant<axis=0, group_size=32, bit_width=8, signed=1, narrow=1>"
    quant = 'qonnx.custom_op.general.Quant<signed=1, narrow=1, rounding_mode="ROUND">'
    body = f"[s] s = {scale}(w) [w] qw = {ours}(w, s) [q] q = {quant}(x, step, zero, eight) [fc] y = MatMul(q, qw)"
    w = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    step, zero, eight = np.float32(0.125), np.float32(0), np.float32(8)
    graph.save(
        model(body, "float[1,40] x", "float[1,4] y", w=w, step=step, zero=zero, eight=eight), tmp_path / "m.onnx"
    )
    for to in ("hls4ml", "finn"):
        made, _ = converted(tmp_path / "m.onnx", to, tmp_path)
        assert [n.op_type for n in made.graph.node].count("Quant") == 2
