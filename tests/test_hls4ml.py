"""Conversion to hls4ml: same values as the exported file, and the same in hls4ml's own C simulation."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import MissingToolError, OptionError, UnsupportedError
from mxexport.model import graph
from mxexport.model.rewriting import constant
from mxexport.quant import activation_quantizer, freeze_scales, weight_quantizer
from mxexport.quant.layers.layer import QuantLayer
from mxexport.running import executors
from mxexport.targets import convert, hls4ml
from mxexport.targets.hls4ml_project import project

needs_hls4ml = pytest.mark.skipif(
    find_spec("hls4ml") is None or shutil.which("g++") is None, reason="hls4ml or g++ is not installed"
)


def static_model(model, x, weight="mxint4", activation="mxint8", per="tensor"):
    """Quantized with constant activation scales; biases on a grid that products share."""
    quantized = mx.quantize_model(model, weight=weight, activation="mxint8")
    for layer in (m for m in quantized.modules() if isinstance(m, QuantLayer)):
        made = activation_quantizer(activation, layer.input_axis, source="static", scaling_per_output=per)
        layer._hold(input_quant=made)
        layer.bias.data = (layer.bias.data * 256).round() / 256
    quantized.train()(x)
    freeze_scales(quantized)
    return quantized.eval()


def mlp(seed=0, spread=True):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, 5))
    if spread:  # scales of many sizes
        for layer in (model[0], model[2]):
            layer.weight.data *= torch.exp2(torch.randint(-3, 3, layer.weight.shape[:1])).unsqueeze(1)
            layer.weight.data[:, ::3] *= 4
    return model, (torch.randn(16, 40) * 1024).round() / 1024


def exported(tmp_path, model, x, name="m.onnx"):
    mx.export(model, (x,), tmp_path / name)
    return tmp_path / name


def run_qonnx(path, x):
    (y,) = executors.run_qonnx(path, x).values()
    return y + 0.0  # fixed point has no -0


@pytest.fixture(scope="module")
def mlps(tmp_path_factory):
    """Weight format -> an exported file and its inputs; each is exported once."""
    folder, known = tmp_path_factory.mktemp("mlps"), {}

    def get(weight: str):
        if weight not in known:
            model, x = mlp()
            known[weight] = exported(folder, static_model(model, x, weight), x, f"{weight}.onnx"), x.numpy()
        return known[weight]

    return get


# --- against the exported file --------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", ["auto", "wide", "groups"])
@pytest.mark.parametrize("weight", ["mxint4", "mxint8_g8", "mxfp4_e2m1_g16", "mxfp6_e2m3", "mxfp6_e3m2_g8"])
def test_converted_file_equals_the_exported_one(mlps, tmp_path, weight, fold):
    source, x = mlps(weight)
    convert(source, tmp_path / "h.onnx", to="hls4ml", batch=len(x), fold=fold)
    expected = run_qonnx(source, x)
    assert np.array_equal(run_qonnx(tmp_path / "h.onnx", x), expected)
    (plain,) = executors.run(tmp_path / "h.onnx", x).values()
    assert np.array_equal(plain + 0.0, expected)


def test_groups_keep_narrow_codes_and_wide_fold_one_product(mlps):
    source = graph.load(mlps("mxint8_g8")[0])
    before = ir.to_proto(source).SerializeToString()
    for fold, products in (("wide", 2), ("groups", 12)):
        converted = hls4ml.convert(source, fold=fold)
        nodes = [n for n in converted.model.graph if n.op_type == "MatMul"]
        assert (len(nodes) == 2) if fold == "wide" else (2 < len(nodes) <= products)
        assert {name for name, _ in converted.notes} >= {"0", "2"}
    bits = {int(constant(n.inputs[1].producer().inputs[3])) for n in nodes}
    assert bits == {8}
    assert ir.to_proto(source).SerializeToString() == before  # left untouched


def test_unquantized_input_is_declared_fixed_point(tmp_path):
    model, x = mlp(spread=False)
    quantized = mx.quantize_model(model, weight="mxint4", activation=None)
    for layer in (quantized[0], quantized[2]):
        layer.bias.data = (layer.bias.data * 256).round() / 256
    source, grid = exported(tmp_path, quantized, x), (x * 8).round().clamp(-31, 31) / 8
    with pytest.raises(UnsupportedError, match=r"0: its input has no fixed-point type.*input_type="):
        convert(source, tmp_path / "h.onnx", to="hls4ml")
    report = convert(source, tmp_path / "h.onnx", to="hls4ml", batch=len(x), input_type=(6, 3))
    assert ("input", "rounded to 6 bits, 3 of them behind the point, as asked") in report.notes
    assert np.array_equal(run_qonnx(tmp_path / "h.onnx", grid.numpy()), run_qonnx(source, grid.numpy()))


def test_rounded_bias_is_reported_and_moves_by_at_most_half_a_step(tmp_path):
    model, x = mlp()
    quantized = static_model(model, x)
    quantized[0].bias.data += 1e-5
    source = exported(tmp_path, quantized, x)
    kept = hls4ml.convert(graph.load(source))
    assert any("hls4ml is exact, float32 executors may round" in why for _, why in kept.notes)
    rounded = hls4ml.convert(graph.load(source), round_bias=True)
    assert any("bias rounded to multiples of 2**-" in why and "by 1e-05" in why for _, why in rounded.notes)


# --- refused --------------------------------------------------------------------------------------------------


def test_dynamic_scales_are_refused_with_every_layer_and_the_way_out(tmp_path):
    model, x = mlp()
    source = exported(tmp_path, mx.quantize_model(model, weight="mxint4", activation="mxint8"), x)
    with pytest.raises(UnsupportedError) as caught:
        convert(source, tmp_path / "h.onnx", to="hls4ml")
    assert {where for where, _ in caught.value.problems} >= {"0.input_quant", "2.input_quant"}
    assert all("source='static'" in why for where, why in caught.value.problems if where.endswith("quant"))
    assert not (tmp_path / "h.onnx").exists()


@pytest.mark.parametrize(
    "activation, per, why",
    [
        ("mxfp8_e4m3", "tensor", "e4m3 activations are not evenly spaced"),
        ("int8", "tensor", "is not a power of two"),
        ("mxint8_g8", "group", "different scales, expected one"),
    ],
)
def test_activations_without_one_power_of_two_step_are_refused(tmp_path, activation, per, why):
    model, x = mlp()
    x[:, :8] *= 16
    source = exported(tmp_path, static_model(model, x, activation=activation, per=per), x)
    with pytest.raises(UnsupportedError, match=f"0.input_quant.*{why}"):
        convert(source, tmp_path / "h.onnx", to="hls4ml")


def test_float_scaled_groups_are_refused_until_their_width_is_allowed(tmp_path):
    model, x = mlp(spread=False)
    source = exported(tmp_path, static_model(model, x, "int4_g8"), x)
    with pytest.raises(
        UnsupportedError, match=r"\n  0: its weight needs \d+-bit integers, more than max_weight_bits=24"
    ):
        convert(source, tmp_path / "h.onnx", to="hls4ml")
    convert(source, tmp_path / "h.onnx", to="hls4ml", max_weight_bits=40)
    assert (tmp_path / "h.onnx").exists()


def test_operators_without_exact_arithmetic_are_refused(tmp_path):
    model, x = mlp()
    source = exported(tmp_path, static_model(nn.Sequential(*model, nn.Softmax(-1)), x), x)
    with pytest.raises(UnsupportedError, match="3: hls4ml does not compute Softmax exactly"):
        convert(source, tmp_path / "h.onnx", to="hls4ml")


def test_impossible_options_are_refused(mlps, tmp_path):
    source, _ = mlps("mxint4")
    for options in ({"fold": "deep"}, {"batch": 0}, {"input_type": (99, 3)}, {"nonsense": 1}):
        with pytest.raises(OptionError):
            convert(source, tmp_path / "h.onnx", to="hls4ml", **options)


# --- hls4ml itself --------------------------------------------------------------------------------------------


def predict(path, x, directory):
    made = project(path, directory, input_type=(24, 12))
    made.compile()
    y = made.predict(np.ascontiguousarray(x))
    return y.reshape(len(x), -1)


def one_by_one(path, x):
    return np.concatenate([run_qonnx(path, row[None]) for row in x])


@needs_hls4ml
def test_hls4ml_computes_the_same_bits(tmp_path):
    """One network, because every C++ build takes seconds: convolution and linear layer folded wide, one by groups."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4 * 9, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip
    model[4].weight.data[:, ::3] *= 64
    model[4].weight.data[:, :8] *= 64
    x = (torch.randn(4, 3, 6, 6) * 1024).round() / 1024
    source = exported(tmp_path, static_model(model, x, "mxfp4_e2m1_g8"), x)
    report = convert(source, tmp_path / "h.onnx", to="hls4ml", max_weight_bits=10)
    folds = {name: why.rpartition("(")[2] for name, why in report.notes if why.startswith("weights are")}
    assert folds == {"0": "wide fold)", "4": "groups)", "6": "wide fold)"}
    expected = run_qonnx(source, x.numpy())
    assert np.array_equal(one_by_one(tmp_path / "h.onnx", x.numpy()), expected)
    assert np.array_equal(predict(tmp_path / "h.onnx", x.numpy(), tmp_path / "hls"), expected)


def test_a_missing_hls4ml_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hls4ml", None)
    with pytest.raises(MissingToolError, match="pip install hls4ml==1.3.0"):
        project(tmp_path / "m.onnx", tmp_path)


def test_weight_scale_per_channel_needs_no_groups(tmp_path):
    model, x = mlp()
    quantized = static_model(model, x)
    for layer in (quantized[0], quantized[2]):
        layer._hold(weight_quant=weight_quantizer(layer.weight, "mxint8", scaling_per_output="channel"))
    source = exported(tmp_path, quantized, x)
    convert(source, tmp_path / "h.onnx", to="hls4ml", batch=len(x))
    assert np.array_equal(run_qonnx(tmp_path / "h.onnx", x.numpy()), run_qonnx(source, x.numpy()))
