"""From an exported file to RTL: every stage equals the one before, at any folding, under random stalls."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import InputFileError, ShapeError, UnsupportedError
from mxexport.fpga import open_design
from mxexport.fpga.checking import framing
from mxexport.fpga.lowering import calibrate
from mxexport.fpga.scheduling import schedule
from mxexport.fpga.streams.types import Wide
from mxexport.model import graph
from mxexport.running import executors
from tests.helpers import assert_equal_up_to_turned_codes, every

FORMATS = ["mxint8", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4_e2m1", ("mxfp4_e2m1", "mxfp8_e4m3"), ("mxint8", "mxfp4_e2m1")]


def network() -> nn.Module:
    """70 inputs: two groups and a short one; 24 outputs: one short group; a layer without bias."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(70, 24), nn.ReLU(), nn.Linear(24, 40, bias=False), nn.ReLU(), nn.Linear(40, 10)
    )


def images(count: int, seed: int = 0) -> np.ndarray:
    """Multiples of 1/256, as 8-bit sensors give them; some frames empty."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (count, 7, 10)) * (rng.random((count, 7, 10)) < 0.4)
    x[0] = 0
    return (x / 256).astype(np.float32)


def export(directory, weight, activation=None, scale_rule="floor"):
    torch.manual_seed(1)
    model = mx.quantize_model(network(), weight, activation or weight, scale_rule=scale_rule)
    mx.export(model, (torch.zeros(1, 7, 10),), directory / "model.onnx")
    return model.eval(), directory / "model.onnx"


@pytest.fixture(scope="module", params=every(4, FORMATS), ids=str)
def compiled(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("compile")
    formats = request.param if isinstance(request.param, tuple) else (request.param,)
    model, path = export(directory, *formats)
    foldings = {"1": (4, 8), "3": (2, 4), "5": (1, 16)}
    return model, path, mx.compile(path, directory / "fpga", calibration=images(200), folding=foldings)


def test_the_dataflow_graph_is_opened_once_and_again_when_its_file_is_another(compiled, tmp_path, monkeypatch):
    _, _, built = compiled
    copied, x, opened = tmp_path / "fpga", images(3, seed=6), []
    shutil.copytree(built.path, copied)
    design, opens = open_design(copied), executors.Session
    monkeypatch.setattr(executors, "Session", lambda *args, **named: opened.append(args) or opens(*args, **named))
    first = design.run_dataflow(x).raw
    np.testing.assert_array_equal(design.run_dataflow(x).raw, first)
    assert len(opened) == 1
    again = pickle.loads(pickle.dumps(design))
    np.testing.assert_array_equal(again.run_dataflow(x).raw, first)
    assert len(opened) == 2
    (copied / "dataflow.onnx").write_bytes(b"another file")
    with pytest.raises(InputFileError):
        design.run_dataflow(x)


def test_rtl_equals_the_dataflow_graph_under_random_stalls(compiled):
    _, _, built = compiled
    x = images(40, seed=5)
    expected = built.run_dataflow(x).raw
    for stalls in ({}, {"stall_in": 0.4}, {"stall_out": 0.5}, {"stall_in": 0.3, "stall_out": 0.3, "seed": 7}):
        np.testing.assert_array_equal(built.simulate(x, **stalls).raw, expected)


def test_dataflow_graph_runs_in_qonnx_with_the_same_integers(compiled):
    _, _, built = compiled
    fixed = framing.to_fixed(images(20), built.network.source)
    path = built.files()["dataflow"]
    onnx.checker.check_model(path, full_check=True)
    first, second = executors.run(path, fixed), executors.run_qonnx(path, fixed)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_stages_agree_layer_by_layer(compiled):
    _, _, built = compiled
    comparison = built.compare_stages(images(200, seed=2))
    assert comparison.flip_rate <= 1e-4 and comparison.same_predictions >= 0.99
    assert all(layer.error <= 1 for layer in comparison.layers)


def test_outputs_are_those_of_the_torch_model(compiled):
    """Equal up to float32 rounding in torch's products; a flipped code (rare) moves an output by one code's worth."""
    model, _, built = compiled
    x = images(100, seed=3)
    expected = model(torch.from_numpy(x)).detach().numpy()
    assert_equal_up_to_turned_codes(built.run_dataflow(x).values, expected)


def test_calibrated_range_is_in_both_graphs(compiled):
    _, _, built = compiled
    scales = [n for n in graph.load(built.path / "calibrated.onnx").graph if n.op_type == "MXScale"]
    units = [n for n in graph.load(built.path / "dataflow.onnx").graph if n.op_type == "MXQuantize"]
    assert len(scales) == len(units) == 3
    for scale, unit in zip(scales, units, strict=True):
        for key in ("code_min", "code_max"):
            assert scale.attributes[key].value == unit.attributes[key].value
        assert 0 < scale.attributes["code_min"].value < scale.attributes["code_max"].value < 254


def test_two_foldings_give_the_same_words(tmp_path):
    _, path = export(tmp_path, "mxint8")
    x, words = images(30, seed=4), []
    for name, choice in (("small", {"1": (1, 4), "3": (1, 4), "5": (1, 4)}), ("large", {"1": (8, 32), "5": (16, 16)})):
        built = mx.compile(path, tmp_path / name, calibration=images(100), folding=choice)
        words.append(built.simulate(x, stall_out=0.2).raw)
    np.testing.assert_array_equal(*words)
    np.testing.assert_array_equal(words[0], built.run_dataflow(x).raw)


@pytest.mark.parametrize("rule", every(3, ["even", "ceil", "rceil"]))
def test_other_scale_rules_reach_the_hardware(tmp_path, rule):
    _, path = export(tmp_path, "mxfp6_e2m3", scale_rule=rule)
    built = mx.compile(path, tmp_path / "fpga", calibration=images(100))
    x = images(20, seed=6)
    np.testing.assert_array_equal(built.simulate(x).raw, built.run_dataflow(x).raw)


def test_blocks_outside_the_calibrated_range_are_clamped_and_counted(tmp_path):
    _, path = export(tmp_path, "mxint8")
    built = mx.compile(path, tmp_path / "fpga", calibration=np.maximum(images(100), 0.5), margin=0)
    x = images(10, seed=8) / 32
    result = built.simulate(x)
    assert result.clamped["1"] > 0
    np.testing.assert_array_equal(result.raw, built.run_dataflow(x).raw)


def test_a_design_is_read_back_and_replaced_whole(tmp_path):
    _, path = export(tmp_path, "mxfp4_e2m1")
    out = tmp_path / "fpga"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    built = mx.compile(path, out, calibration=images(50), target_fps=100_000)
    again = open_design(out)
    assert again.report == built.report == json.loads((out / "report.json").read_text())
    assert again.report["frames_per_second"] >= 100_000
    mx.compile(path, out, calibration=images(50), target_fps=1000)
    assert (out / "notes.txt").read_text() == "mine"
    assert open_design(out).report["layers"][0]["pe"] <= built.report["layers"][0]["pe"]
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "fpga"}


def test_folding_meets_the_cycles_asked_for(tmp_path):
    _, path = export(tmp_path, "mxint8")
    network = mx.compile(path, tmp_path / "fpga", calibration=images(50)).network
    for cycles in (1, 10, 100, 1000, 10**6):
        slowest = max(min(i.unit.cycles(f) for f in i.unit.foldings()) for i in network.instances)
        found = schedule.fold(network, cycles)
        for product in network.products():
            unit, choice = product.unit, found[product.name]
            assert unit.cycles(choice) <= max(cycles, slowest)  # no unit is faster than the slowest can be
    with pytest.raises(ValueError, match="no layer called fc9; layers: 1, 3, 5"):
        schedule.fold(network, None, {"fc9": (1, 1)})
    with pytest.raises(
        ValueError, match="folding of 1: pe=3, simd=8; expected pe of 1, 2, 4, .*, simd of 1, 2, 4, 8, 16, 32, 96"
    ):
        schedule.fold(network, None, {"1": (3, 8)})


@pytest.mark.parametrize(
    "x, expected",
    [
        ([0.5, 0.25], Wide((2,), 4, -2)),
        ([255 / 256, 1 / 256], Wide((2,), 10, -8)),
        ([3.0, 1.0], Wide((2,), 4, 0)),
        ([1.0, 2.0**-40], Wide((2,), 24, -21)),
        ([0.0, 0.0], Wide((2,), 3, 0)),
    ],
)
def test_input_type_is_exact_where_24_bits_allow_it(x, expected):
    width, lsb_exp = calibrate.fixed_point_input(np.array([x]), margin=1)
    assert (width, lsb_exp) == (expected.width, expected.lsb_exp)
    assert max(x) * 2.0**-lsb_exp < 2 ** (width - 1)


@pytest.mark.parametrize(
    "model, formats, message",
    [
        (
            nn.Sequential(nn.Conv2d(96, 4, 3, groups=2), nn.Flatten(), nn.Linear(160, 4)),
            ("mxint8",) * 2,
            "'0' \\(Conv\\): its 2 groups of 48",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(70, 4)), ("int8_g32",) * 2, "has float scales"),
        (nn.Sequential(nn.Flatten(), nn.Linear(70, 4)), ("mxint8", None), "input is not quantized"),
        (nn.Sequential(nn.Flatten(), nn.Linear(70, 4)), (None, "mxint8"), "weight is not a quantized"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(70, 4), nn.PReLU(4)),
            ("mxint8",) * 2,
            "'2' \\(PRelu\\): no hardware",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(70, 4)), ("mxint8", "mxint8_g16"), "groups of 32 and activation groups"),
        (nn.Sequential(nn.Flatten(), nn.Linear(70, 4)), ("mxfp8_e5m2",) * 2, "needs .* bits, at most 63"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(tmp_path, model, formats, message):
    example = torch.zeros(1, 96, 7, 10) if isinstance(model[0], nn.Conv2d) else torch.zeros(1, 7, 10)
    mx.export(mx.quantize_model(model, *formats), (example,), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((20, *example.shape[1:])).astype(np.float32)
    with pytest.raises(UnsupportedError, match=message):
        mx.compile(
            tmp_path / "m.onnx",
            tmp_path / "fpga",
            calibration=x * 2.0 ** np.arange(-10, 10).reshape(-1, *[1] * (x.ndim - 1)).astype(np.float32),
        )
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx"}


def test_every_unsupported_node_is_listed_at_once(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(70, 4), nn.LogSoftmax(1), nn.Linear(4, 4), nn.PReLU(4))
    mx.export(mx.quantize_model(model), (torch.zeros(1, 7, 10),), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as caught:
        mx.compile(tmp_path / "m.onnx", tmp_path / "fpga", calibration=images(4))
    assert [where for where, _ in caught.value.problems] == ["node '2' (LogSoftmax)", "node '4' (PRelu)"]


def test_bad_calls_are_named(tmp_path):
    _, path = export(tmp_path, "mxint8")
    with pytest.raises(InputFileError, match="no such file"):
        mx.compile(tmp_path / "absent.onnx", tmp_path / "fpga", calibration=images(4))
    with pytest.raises(ShapeError, match="the graph takes"):
        mx.compile(path, tmp_path / "fpga", calibration=np.zeros((4, 9), np.float32))
    with pytest.raises(ShapeError, match="no inputs given"):
        mx.compile(path, tmp_path / "fpga", calibration=images(0 + 1)[:0])
    with pytest.raises(InputFileError, match="no compiled design"):
        open_design(tmp_path)
    built = mx.compile(path, tmp_path / "fpga", calibration=images(50))
    with pytest.raises(ShapeError, match="9 features; the design takes 70"):
        built.simulate(np.zeros((4, 9), np.float32))
    with pytest.raises(ShapeError, match="NaN or Inf"):
        built.run_dataflow(np.full((1, 7, 10), np.nan))
