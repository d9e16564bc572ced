"""Models that other tools have quantized, taken as they are: values bit for bit those that the tools computed.

tests/data/live holds what the tools themselves computed (see tests/data/make_live_*.py). Without the tools their
modules are stand-ins: classes of the recorded names, with the recorded attributes. Where a tool is installed, the last
tests run it.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.frontends.live import is_fake_quantized
from mxexport.frontends.live.layers import weight_source
from mxexport.quant import Quantizer
from tests.checkpoint_network import edge_inputs
from tests.helpers import assert_equal_bits
from tests.live_network import FOLDER, inputs, network, stand_in

NAMES = sorted(path.stem for path in FOLDER.glob("*.npz"))
QUARK = [name for name in NAMES if name.startswith("quark")]
WITH_ZEROS = ("quark",)
"""Tools whose signs of zero are known and kept."""


@pytest.fixture(scope="module")
def taken():
    """Name -> (our model with exact zeros, what the tool computed)."""
    made: dict[str, tuple[nn.Module, dict[str, np.ndarray]]] = {}

    def get(name: str):
        if name not in made:
            model, arrays = stand_in(name)
            made[name] = mx.from_fake_quantized(model, exact_zeros=True), arrays
        return made[name]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_weights_inputs_and_outputs_are_the_tools_own(name, taken):
    model, expected = taken(name)
    same = assert_equal_bits if name.startswith(WITH_ZEROS) else np.testing.assert_array_equal
    layers = [key for key in expected if key.endswith(".weight")]
    for key in layers:
        layer = model.get_submodule(key.removesuffix(".weight"))
        same(layer.weight_quant(layer.weight).numpy(), expected[key])
    assert (model.wide.input_quant is not None) == ("edges" in expected)
    if "edges" in expected:
        same(model.wide.input_quant(edge_inputs()).numpy(), expected["edges"])
    if "conv.edges" in expected:
        same(model.conv.input_quant(edge_inputs()[None, None]).numpy(), expected["conv.edges"])
    assert hasattr(model.conv, "output_quant") == ("conv.output_edges" in expected)
    if "conv.output_edges" in expected:
        rows = torch.from_numpy(expected["conv.output_edges"])
        same(model.conv.output_quant(edge_inputs()[:, : rows.shape[1], None, None]).numpy(), rows.numpy())
        y = model.conv(inputs())
        same(model.conv.output_quant(y).numpy(), y.numpy())
    # Another machine may sum products in another order.
    np.testing.assert_allclose(model(inputs()).numpy(), expected["output"], rtol=2e-5, atol=1e-4)
    assert layers and type(model.last) is nn.Linear


@pytest.mark.parametrize("name", ["quark-mxint8", "quark-mxfp4-frozen-outputs", "modelopt-nvfp4", "aimet-int4"])
def test_a_file_computes_what_the_tool_computed(name, taken, tmp_path):
    expected, path = taken(name)[1], tmp_path / "model.onnx"
    report = mx.export(stand_in(name)[0], (inputs(),), path)
    found = next(iter(mx.run(path, inputs().numpy()).values()))
    np.testing.assert_allclose(found, expected["output"], rtol=2e-5, atol=1e-4)
    assert [layer.name for layer in report.layers] != []


def test_int8_of_quark_follows_none_of_the_four_rules(taken):
    model, expected = taken("quark-mxint8")
    assert model.wide.input_quant.scale_rule == 0x4000
    for rule in ("floor", "ceil", "even", "rceil"):
        assert (Quantizer(model.wide.input_quant.format, -1, rule)(edge_inputs()).numpy() != expected["edges"]).any()


def test_the_model_stays_and_the_report_names_every_layer():
    model, _ = stand_in("quark-mxfp4")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = mx.from_fake_quantized(model)
    assert is_fake_quantized(model) and not is_fake_quantized(found) and not is_fake_quantized(network())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    told = str(mx.conversion_report(found))
    assert "conv: QuantConv2d weight=mxfp4_e2m1 activation=mxfp4_e2m1 (even)" in told
    assert "last: Linear left as it is: float in the tool's model" in told
    assert not any(p.requires_grad for p in found.parameters()) and not found.training
    assert_equal_bits(found(inputs()).numpy(), mx.from_fake_quantized(model, exact_zeros=True)(inputs()).numpy())


def test_rules_that_a_rounded_logarithm_finds_are_noted(taken):
    (layer, what), *_ = taken("quark-mxfp4-ceil-frozen")[0].wide.notes
    assert layer == "wide" and "float32 logarithm" in what and taken("quark-mxfp4")[0].wide.notes == []


def test_scales_beside_the_rules_are_found_from_the_values():
    quantizer, floor = (Quantizer(mx.get_format("mxfp4_e2m1"), 1, rule) for rule in ("ceil", "floor"))
    x = torch.randn(6, 70, generator=torch.Generator().manual_seed(5))
    scale = floor.scale(x)
    values = floor.apply(x, scale)
    assert (quantizer(values) != values).any()
    source = weight_source(values, quantizer)
    assert_equal_bits(source(values).numpy(), values.numpy())
    with pytest.raises(UnsupportedError, match=r"\d+ values of its weight are no numbers of mxfp4_e2m1"):
        weight_source(torch.nn.functional.pad(values, (0, 1), value=1 / 3), quantizer)


def test_convolutions_of_modelopt_keep_their_groups_along_the_width(taken, tmp_path):
    model, path = taken("modelopt-mxfp4-conv")[0], tmp_path / "model.onnx"
    assert model.conv.weight_quant.axis % 4 == model.conv.input_quant.axis % 4 == 3
    x = torch.randn(2, 40, 4, 4, generator=torch.Generator().manual_seed(7))
    mx.export(model.conv, (x,), path, weights="packed")
    np.testing.assert_allclose(mx.run(path, x.numpy()).popitem()[1], model.conv(x).numpy(), rtol=1e-5, atol=1e-5)
    assert "groups run along axis 3; expected" in str(mx.check(path, target="fpga"))


# --- what is not carried --------------------------------------------------------------------------------------------


def change(model: nn.Module, path: str, value: object) -> nn.Module:
    """Set the attribute at `path` of a stand-in."""
    *home, last = path.split(".")
    for name in home:
        model = getattr(model, name)
    model.__dict__[last] = value
    return model


@pytest.mark.parametrize(
    ("name", "path", "value", "told"),
    [
        ("quark-mxfp4", "wide._input_quantizer.quant_spec.dtype", "mx9", r"wide: its input has a \w+ with dtype 'mx9'"),
        ("quark-mxfp4", "wide._input_quantizer.quant_spec.qscheme", "per_tensor", "qscheme 'per_tensor'"),
        ("quark-mxint8", "wide._weight_quantizer.quant_spec.mx_element_dtype", "int4", "mx_element_dtype 'int4'"),
        ("quark-mxfp4", "wide._input_quantizer.quant_spec.ch_axis", 1, "wide: groups of its input run along axis 1"),
        ("quark-mxfp4", "conv._weight_quantizer.quant_spec.ch_axis", 3, "conv: groups of its weight run along axis 3"),
        ("quark-mxfp4", "wide._weight_quantizer.is_fake_quant_enabled", False, "weight is switched off"),
        ("quark-mxfp4", "wide._weight_quantizer_inv", "fp8", "quantized by another tool"),
        ("modelopt-mxfp4", "wide.input_quantizer.num_bits", (1, 2), r"input is quantized with num_bits \(1, 2\)"),
        ("modelopt-mxfp4", "wide.input_quantizer.rotate_is_enabled", True, "rotate_is_enabled True"),
        ("modelopt-mxfp4-conv", "conv.weight_quantizer.block_sizes", {1: 32, "type": "dynamic", "scale_bits": (8, 0)},
         "conv: its weight is quantized with .* carried are dynamic groups along the last axis"),
        ("modelopt-nvfp4", "conv.weight_quantizer.is_enabled", True, "conv: the weight of its convolution .* NVFP4"),
        ("modelopt-mxfp4", "wide.output_quantizer.is_enabled", True, "wide: output_quantizer is switched on"),
        ("modelopt-nvfp4", "wide.input_quantizer._amax", None, "never calibrated"),
        ("aimet-int4", "wide.input_quantizers.0.block_size", None, r"wide: its input .*multiplies by 1 / scale"),
        ("aimet-int4", "wide.input_quantizers.0.get_offset", lambda: torch.ones(2), "quantized asymmetrically"),
        ("aimet-int4", "wide.get_kernel", lambda: print, r"wide: it computes in a kernel of its own \(set_kernel\)"),
        ("aimet-int4", "wide.input_quantizers.0.get_scale", lambda: None, r"run compute_encodings\(\) first"),
        ("aimet-int4", "wide.param_quantizers.weight.qmax", 32767, "integers of -8 to 32767; carried are 2 to 8 bits"),
        ("aimet-int4", "wide.param_quantizers.weight.zero_point_shift", 0.5, "zero_point_shift 0.5; carried is 0"),
        ("aimet-e4m3", "wide.param_quantizers.weight._finfo", (3, 2, False, False), r"unsigned zero\) \(3, 2, False"),
    ],
)  # fmt: skip
def test_what_is_not_carried_is_named(name, path, value, told):
    model, _ = stand_in(name)
    change(model, path, value)
    with pytest.raises(UnsupportedError, match=told):
        mx.from_fake_quantized(model)


def test_what_is_no_model_of_a_tool_is_refused():
    for wrong, found in ((network(), "no layer of these tools"), ("model", "a str")):
        with pytest.raises(UnsupportedError, match=rf"quantized with Quark, .*, found {found}"):
            mx.from_fake_quantized(wrong)


def test_inputs_of_modelopt_are_multiplied_before_they_are_quantized(taken):
    model, _ = stand_in("modelopt-mxfp8-e4m3")
    factor = torch.linspace(0.5, 3, 64)
    change(model, "wide.input_quantizer.pre_quant_scale", factor)
    found, plain = mx.from_fake_quantized(model).wide.input_quant, taken("modelopt-mxfp8-e4m3")[0].wide.input_quant
    np.testing.assert_array_equal(found(edge_inputs()).numpy(), plain(edge_inputs() * factor).numpy())
    change(model, "wide.input_quantizer.is_enabled", False)
    alone = mx.from_fake_quantized(model).wide.input_quant
    assert_equal_bits(alone(edge_inputs()).numpy(), (edge_inputs() * factor).numpy())


# --- microxcaling, which is not on PyPI, and AIMET --------------------------------------------------------------------


SPECS = {
    "w_elem_format": "int8", "a_elem_format": "fp6_e2m3", "block_size": 32, "scale_bits": 8, "bfloat": 0, "fp": 0,
    "round_mx_output": "even", "shared_exp_method": "max", "mx_flush_fp32_subnorms": False,
}  # fmt: skip


def of_microxcaling(monkeypatch, layer: nn.Module, **changed) -> nn.Module:
    """A stand-in: the class and attributes of microxcaling's layer, and a function in the place of its own, which
    rounds int8 ties away from zero (as it does where "nearest" is asked for)."""

    def quantize_mx_op(x, specs, elem_format, axes, round):
        shape = x.shape
        groups = x.movedim(axes[0], -1).reshape(*x.movedim(axes[0], -1).shape[:-1], -1, 32)
        step = torch.exp2(torch.floor(torch.log2(groups.abs().amax(-1, keepdim=True))) - 6)
        codes = (groups.abs() / step + (0.5 if round == "nearest" else 0.49)).floor().clamp(max=127)
        return (groups.sign() * codes * step).reshape(x.movedim(axes[0], -1).shape).movedim(-1, axes[0]).view(shape)

    module = types.ModuleType("mx.mx_ops")
    module.quantize_mx_op = quantize_mx_op
    monkeypatch.setitem(sys.modules, "mx.mx_ops", module)
    kind = type(layer)
    layer.__class__ = type(kind.__name__, (kind,), {"__module__": "mx.linear"})
    layer.mx_specs, layer.mx_none, layer.name = SPECS | changed, False, None
    return layer.requires_grad_(False)


def test_weights_of_microxcaling_are_what_its_own_function_makes(monkeypatch):
    torch.manual_seed(6)
    conv, linear = nn.Conv2d(64, 4, 3), nn.Linear(64, 8)
    linear.weight.data[:] = (torch.arange(512).reshape(8, 64) % 129 - 64) / 32 + 1 / 64  # ties of int8
    ties = linear.weight.data.clone()
    model = nn.Sequential(of_microxcaling(monkeypatch, conv, a_elem_format=None), nn.Flatten(), nn.Linear(4, 64))
    found = mx.from_fake_quantized(model)
    assert type(found[0]) is mx.QuantConv2d and found[0].input_quant is None
    assert (found[0].weight - conv.weight).abs().max() < 0.01
    rounded = of_microxcaling(monkeypatch, linear)
    found = mx.from_fake_quantized(nn.Sequential(rounded, of_microxcaling(monkeypatch, nn.ReLU())), exact_zeros=True)
    assert_equal_bits(found[0].weight_quant(found[0].weight).numpy(), found[0].weight.numpy())
    assert (found[0].weight - ties).abs().max() <= 2.0**-6 and type(found[1]) is nn.ReLU
    x = edge_inputs()
    expected = Quantizer(mx.get_format("mxfp6_e2m3"), -1, "floor")(x + 0.0)
    np.testing.assert_array_equal(found[0].input_quant(x).numpy(), expected.numpy())
    assert "float32 logarithm" in found[0].notes[0][1] and not is_fake_quantized(found)


@pytest.mark.parametrize(
    ("layer", "changed", "told"),
    [
        (nn.Linear(64, 4), {"round_mx_output": "nearest"}, "rounded 'nearest'.*round_mx_output=\"even\""),
        (nn.Conv2d(64, 4, 1), {}, "leave a_elem_format out for convolutions"),
        (nn.Linear(64, 4), {"bfloat": 16}, r"mx_specs\['bfloat'\] is 16; carried is 0 or 32"),
        (nn.Linear(64, 4), {"block_size": 0}, "block_size 0"),
        (nn.LayerNorm(64), {}, "its LayerNorm has arithmetic of its own"),
    ],
)
def test_what_microxcaling_computes_otherwise_is_named(monkeypatch, layer, changed, told):
    with pytest.raises(UnsupportedError, match=told):
        mx.from_fake_quantized(nn.Sequential(of_microxcaling(monkeypatch, layer, **changed)))


def test_a_package_of_that_short_name_is_left_alone(monkeypatch):
    layer = of_microxcaling(monkeypatch, nn.Linear(64, 4))
    del layer.mx_specs
    assert not is_fake_quantized(layer)


def test_aimet_without_quantizers_is_a_float_layer():
    layer = nn.Linear(64, 4)
    layer.__class__ = type("QuantizedLinear", (nn.Linear,), {"__module__": "aimet_torch.nn.true_quant"})
    layer.param_quantizers, layer.input_quantizers = nn.ModuleDict({"weight": None}), nn.ModuleList([None])
    found = mx.from_fake_quantized(nn.Sequential(layer))[0]
    assert type(found) is nn.Linear and list(found._modules) == []


@pytest.mark.parametrize(("table", "key"), [("param_quantizers", "bias"), ("input_quantizers", "1")])
def test_other_quantizers_of_aimet_are_named(table, key):
    model, _ = stand_in("aimet-int4")
    held = model.wide._modules[table]
    held.add_module(key, next(iter(held.values())))
    told = {"bias": r"param_quantizers\['bias'\] of a Linear is switched on", "1": "quantizers 0, 1 of its inputs"}[key]
    with pytest.raises(UnsupportedError, match=told):
        mx.from_fake_quantized(model)


def test_modules_of_aimet_without_weights_are_carried_without_quantizers():
    layer = nn.ReLU()
    layer.__class__ = type("QuantizedReLU", (nn.ReLU,), {"__module__": "aimet_torch.nn.true_quant"})
    layer.output_quantizers = nn.ModuleList([None])
    model = nn.Sequential(layer, nn.Linear(4, 4))
    assert type(mx.from_fake_quantized(model)[0]) is nn.ReLU
    layer.output_quantizers[0] = nn.Identity()
    lstm = nn.LSTM(4, 4)
    lstm.__class__ = type("QuantizedLSTM", (nn.LSTM,), {"__module__": "aimet_torch.nn.true_quant"})
    lstm.input_quantizers = nn.ModuleList([nn.Identity()])
    with pytest.raises(UnsupportedError, match=r"input_quantizers\['0'\] of a LSTM is switched on"):
        mx.from_fake_quantized(nn.Sequential(lstm))
    with pytest.raises(UnsupportedError, match=r"output_quantizers\['0'\] of a ReLU is switched on; carried are"):
        mx.from_fake_quantized(model)


def test_all_codes_of_aimet_are_taken(taken):
    """Its symmetric integers have one code more below 0 than above, which is there in weights and in inputs."""
    model, strict = taken("aimet-int4")[0], taken("aimet-int4-strict")[0]
    weight, scale = (t.unflatten(1, (2, -1)) for t in (model.wide.weight, model.wide.weight_quant.stored_scale))
    assert (weight / scale).round().min() == -8 and model.wide.weight_quant.format.name == "uint4_g32"
    assert strict.wide.weight_quant.format.name == "int4_g32"
    low = model.wide.input_quant(torch.full((1, 64), -1e9)) / model.wide.input_quant.stored_scale.repeat_interleave(32)
    assert (low.round() == -128).all()


# --- the tools themselves -------------------------------------------------------------------------------------------


def installed(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed here; tests/data/live holds what it computed")


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8-e4m3", "mxint8"])
@pytest.mark.parametrize(("frozen", "outputs"), [(False, False), (True, False), (True, True)])
def test_quark_itself(name, frozen, outputs):
    installed("quark")
    logging.disable(logging.INFO)
    from tests.data.make_live_quark import SPECS, quantized

    model = quantized(SPECS[name], "even", frozen, outputs)
    found = mx.from_fake_quantized(model, exact_zeros=True)
    model.last = found.last = nn.Identity()  # its rows may lie apart here, and float sums take another order then
    assert_equal_bits(found(inputs()).numpy(), model(inputs()).detach().numpy())
    edges = model.wide._input_quantizer(edge_inputs()).detach()
    assert_equal_bits(found.wide.input_quant(edge_inputs()).numpy(), edges.numpy())


@pytest.mark.parametrize("name", ["MXFP8", "MXFP4", "NVFP4"])
def test_weights_that_modelopt_has_compressed_are_read(name):
    installed("modelopt")
    import modelopt.torch.quantization as mtq

    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU())
    weight = model[0].weight.detach().clone()
    model = mtq.quantize(model, getattr(mtq, f"{name}_DEFAULT_CFG"), None)
    model[0].input_quantizer.disable()
    mtq.compress(model)
    found = mx.from_fake_quantized(model)[0]
    quantizer = model[0].weight_quantizer
    np.testing.assert_array_equal(found.weight.numpy(), quantizer(model[0]._parameters["weight"]).float().numpy())
    assert (found.weight - weight).abs().max() < 0.3 * weight.abs().max()


def test_modelopt_itself():
    """Its forward needs a GPU; that its modules are read is what runs here."""
    installed("modelopt")
    import modelopt.torch.quantization as mtq

    model = mtq.quantize(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)), mtq.MXFP8_DEFAULT_CFG, None)
    found = mx.from_fake_quantized(model)
    assert found[0].input_quant.format.name == "mxfp8_e4m3" and found[0].input_quant.scale_rule == "rceil"
    x = torch.randn(3, 64)
    first = Quantizer(found[0].input_quant.format, -1, "rceil")
    expected = first(x) @ first(model[0]._parameters["weight"].detach()).T + model[0].bias
    torch.testing.assert_close(found[0](x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["int4", "int8-channels", "uint4", "lpbq", "e2m1", "mxfp4"])
def test_aimet_itself(name):
    installed("aimet_torch")
    from tests.data.make_live_aimet import quantized

    model = quantized(name)
    found = mx.from_fake_quantized(model)
    model.last = found.last = nn.Identity()
    expected = model(inputs()).as_subclass(torch.Tensor).detach()
    np.testing.assert_array_equal(found(inputs()).numpy(), expected.numpy())
