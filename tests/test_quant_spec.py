"""Layers whose quantizers say more than a format name: sources of scales, granularity, signs, integer biases."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import FormatError, UnsupportedError
from mxexport.model import graph
from mxexport.numbers import bits
from mxexport.quant import QuantSpec, freeze_scales
from mxexport.quant.kernels.fake_quantization import Quantizer
from mxexport.quant.layers.bias import product_step
from mxexport.running import executors, verification


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))


STATIC = QuantSpec("int8", source="static", scaling_per_output="tensor")


def calibrated(**options) -> tuple[nn.Module, torch.Tensor]:
    model, x = mx.quantize_model(net(), **options), torch.randn(3, 4, 6, 6)
    model(x)
    freeze_scales(model)
    return model.eval(), x


@pytest.mark.parametrize("source", ["static", "mse", "learned"])
def test_weight_scales_come_from_the_source(source):
    model, x = calibrated(weight=QuantSpec("mxint8", source=source), activation=None)
    assert model[0].weight_quant.source == source and model(x).shape == (3, 5)
    assert mx.conversion_report(model).converted[0].weight == f"mxint8 {source}"
    learned = {name for name, _ in model.named_parameters() if name.endswith("raw_scale")}
    assert len(learned) == (2 if source == "learned" else 0)


def test_a_table_says_the_same_as_a_spec():
    spec = {"format": "uint8", "source": "static", "scaling_per_output": "tensor", "signed": False}
    model = mx.quantize_model(net(), None, STATIC, formats={"3": {"activation": spec, "bias_format": "float"}})
    q = model[3].input_quant
    assert (q.source, q.scaling_per_output, q.core.signed) == ("static", "tensor", False)
    assert model[0].input_quant.format.name == "int8"


def test_attention_takes_specs_for_all_of_its_products():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(32, 2, batch_first=True)
    model = mx.quantize_model(attention, QuantSpec("mxint8", source="mse"), STATIC)
    x = torch.randn(2, 5, 32)
    model(x, x, x)
    observed = [m for m in model.modules() if getattr(m, "low", None) is not None]
    assert len(observed) == 6  # input, out_proj's input, two operands of two products; keys and values are the input
    freeze_scales(model)
    assert all(m.calibrated for m in observed) and not model.key_quant.calibrated
    assert model(x, x, x)[0].isfinite().all()


def test_scales_of_layers_that_never_ran_are_named():
    model = nn.ModuleDict({"run": mx.QuantIdentity(STATIC), "idle": mx.QuantIdentity(STATIC)})
    model["run"](torch.randn(3, 8))
    with pytest.raises(
        UnsupportedError, match="run data through the model first\n  idle.output_quant: nothing was observed"
    ):
        freeze_scales(model)
    assert not model["run"].output_quant.calibrated
    model["idle"](torch.randn(2, 3, 4, 4))
    freeze_scales(model)
    assert model["run"].output_quant.calibrated and model["idle"].output_channel_quant.calibrated


def test_static_models_export_constant_scales(tmp_path):
    model, x = calibrated(weight="mxint8", activation=STATIC, bias_format="int32")
    mx.export(model, (x,), tmp_path / "m.onnx")
    loaded = graph.load(tmp_path / "m.onnx")
    assert not [n for n in loaded.graph if graph.is_ours(n, {"MXScale", "GroupwiseScale"})]
    differences = verification.count_quantizer_differences(loaded, x.numpy())
    assert len(differences) == 4 and not any(differences.values())
    (y,) = executors.run(loaded, x.numpy()).values()
    np.testing.assert_allclose(y, model(x).detach().numpy(), rtol=1e-4, atol=1e-4)  # order of float32 sums


def test_a_static_scale_that_is_not_frozen_is_refused_by_name(tmp_path):
    model = mx.quantize_model(net(), "mxint8", STATIC)
    with pytest.raises(UnsupportedError, match="not frozen.*freeze_scales"):
        mx.export(model, (torch.randn(1, 4, 6, 6),), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("weight", "activation"),
    [
        ("mxint8", QuantSpec("mxint8", source="static")),
        (QuantSpec("int4", scaling_per_output="channel"), STATIC),
        ("mxint4", QuantSpec("uint8", source="static", scaling_per_output="tensor")),
        ("mxint8", QuantSpec("mxint8", source="learned", scaling_per_output="tensor")),
    ],
)
def test_integer_biases_are_multiples_of_every_product_step(weight, activation):
    model, x = calibrated(weight=weight, activation=activation, bias_format="int32")
    for layer in (model[0], model[3]):
        bias = layer.quant_bias().detach()
        multiples = bias.double() / product_step(layer).double()
        assert torch.equal(multiples.float().round() * product_step(layer), bias)
        assert (bias - layer.bias).abs().max() <= product_step(layer).max() / 2 * 1.001
        assert not torch.equal(bias, layer.bias)


def test_integer_bias_passes_the_gradient_and_waits_for_the_scale():
    model = mx.quantize_model(net(), "mxint8", STATIC, bias_format="int32")
    assert model[3].quant_bias() is model[3].bias
    model, x = calibrated(weight="mxint8", activation=STATIC, bias_format="int32")
    model.train()(x).sum().backward()
    assert torch.equal(model[3].bias.grad, torch.full((5,), 3.0))


def test_transposed_and_depthwise_layers_take_integer_biases():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Conv2d(6, 6, 3, groups=6))
    quantized = mx.quantize_model(model, "mxint8", STATIC, bias_format="int32")
    x = torch.randn(2, 4, 5, 5)
    quantized(x)
    freeze_scales(quantized)
    assert quantized(x).isfinite().all() and product_step(quantized[0]).shape == (6,)


def test_copies_and_state_dicts_keep_stored_scales():
    model, x = calibrated(weight=QuantSpec("mxint8", source="mse"), activation=STATIC)
    again = mx.quantize_model(net(), QuantSpec("mxint8", source="mse"), STATIC)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), model(x)) and torch.equal(copy.deepcopy(model)(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bias_format": "int32"}, "needs a quantized weight and constant input scales, found dynamic"),
        ({"bias_format": "int16"}, "unknown bias format 'int16'"),
        ({"activation": STATIC, "weight": "mxfp4_e2m1", "bias_format": "int32"}, "integer elements"),
        ({"activation": STATIC, "weight": "int8_g32", "bias_format": "int32"}, "differ from group to group"),
        ({"activation": {"source": "static"}}, "without 'format'"),
        ({"activation": {"format": "int8", "scale": "static"}}, "unknown key 'scale'"),
        ({"weight": {"format": "uint8", "signed": False}}, "weights are signed"),
        ({"activation": {"format": "int8", "source": "best"}}, "unknown scale source 'best'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(FormatError, match=message):
        mx.quantize_model(net(), **{"weight": "mxint8", **options})


@pytest.mark.parametrize("spec", [QuantSpec("mxint8"), QuantSpec("mxfp8_e4m3", scale_rule="rceil")], ids=str)
def test_a_spec_with_dynamic_scales_takes_the_road_of_its_format(spec, monkeypatch, tmp_path):
    calls, fused = [], Quantizer._fused
    monkeypatch.setattr(Quantizer, "_fused", lambda self, x: calls.append(tuple(x.shape)) or fused(self, x))
    x, found = torch.randn(3, 4, 6, 6), []
    for fmt in (spec, spec.format):
        model = mx.quantize_model(net(), fmt, fmt, scale_rule=spec.scale_rule or "floor").eval()
        calls.clear()
        values = [model(x), model[0].quant_weight().value, model[3].quant_weight().scale]
        mx.export(model, (x,), tmp_path / "m.onnx")
        nodes = [(node.op_type, node.name) for node in graph.load(tmp_path / "m.onnx").graph]
        found.append((list(calls), nodes, [value.detach().numpy() for value in values]))
    assert len(found[0][0]) == 6  # inputs and weights of two layers, and two weights once more
    assert found[0][:2] == found[1][:2]
    assert all(bits.equal_bits(a, b).all() for a, b in zip(found[0][2], found[1][2], strict=True))
