"""Scale sources and granularities: equal bits with the reference, stored and restored, trainable, exportable."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import mxexport as mx
from mxexport.errors import FormatError, UnsupportedError
from mxexport.model import graph
from mxexport.model.rewriting import constant
from mxexport.numbers import groups, numerics, quantized, scales
from mxexport.numbers.formats import get_format, with_group_size
from mxexport.quant import (
    Quantizer,
    activation_quantizer,
    fake_quantize,
    freeze_scales,
    load_file,
    quantize_with,
    save_file,
    weight_quantizer,
)
from mxexport.quant.quantizers.sources import SOURCES, search
from mxexport.quant.quantizers.spec import make_weight_quantizer
from mxexport.running import executors
from tests.helpers import ALL_FORMATS, assert_equal_bits, edge_values, every

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

UNGROUPED = ("int8", "uint4", "int4", "float_e4m3", "float_ocp_e4m3", "float_fnuz_e4m3", "float_ocp_e5m2", "mxint8")
NESTED = ("int6_g16_s8x16", "uint4_g32_s6x8", "int3_g8_s4x3")


def expected_granular(x: np.ndarray, name: str, per: str, channel_axis: int, axis: int) -> np.ndarray:
    """From the definition: flatten each channel (or all), one group as long as that, reshape back."""
    fmt = get_format(name)
    moved = np.moveaxis(x, channel_axis, 0) if per == "channel" else x[None]
    rows = moved.reshape(moved.shape[0], -1)
    flat = quantized.quantize(rows, with_group_size(fmt, rows.shape[1]), 1).dequantize().reshape(moved.shape)
    return np.moveaxis(flat, 0, channel_axis) if per == "channel" else flat[0]


# --- granularity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per, channel_axis", [("tensor", 0), ("channel", 0), ("channel", 1), ("channel", 2)])
@pytest.mark.parametrize("name", UNGROUPED)
def test_scale_per_channel_or_tensor_is_that_of_one_group(name, per, channel_axis):
    for x in (edge_values((16, 30)).reshape(16, 5, 6), np.random.default_rng(0).normal(size=(3, 7, 4))):
        x = x.astype(np.float32)
        y = fake_quantize(torch.from_numpy(x), name, 1, scaling_per_output=per, channel_axis=channel_axis)
        assert_equal_bits(y.numpy(), expected_granular(x, name, per, channel_axis, 1))
        scale, zero = scales.granular_scale(x, get_format(name), 1, "floor", channel_axis if per == "channel" else None)
        q = Quantizer(get_format(name), 1, "floor", per, channel_axis)
        actual = q.scale(torch.from_numpy(x))
        sizes = [1, 1, 1]
        if per == "channel":
            sizes[channel_axis] = x.shape[channel_axis]
        assert list(actual.shape) == sizes
        assert_equal_bits(actual.numpy(), scale)
        if zero is not None:
            assert_equal_bits(q.zero_point(torch.from_numpy(x), actual).numpy(), zero)


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_quant_tensor_of_a_channel_scale_has_groups_as_long_as_the_axis(per, tmp_path):
    x = torch.randn(4, 10, 3, 3)
    q = mx.quantize(x, "int8", 1, scaling_per_output=per)
    assert q.format.name == "int8_g10" and q.value_.shape == (4, 1, 10, 3, 3) and q.scale_.shape == (4, 1, 1, 3, 3)
    assert len(q.scale_.unique()) == {"tensor": 1, "channel": 4}[per]
    assert torch.equal(q.value, fake_quantize(x, "int8", 1, scaling_per_output=per))
    save_file({"w": q}, tmp_path / "f")
    assert torch.equal(load_file(tmp_path / "f")["w"], q)


def test_granularity_follows_from_the_format_unless_it_is_given():
    x = torch.randn(4, 64)
    assert torch.equal(fake_quantize(x, "int8"), fake_quantize(x, "int8", scaling_per_output="tensor"))
    assert Quantizer(get_format("mxint8"), 1).scaling_per_output == "group"
    assert Quantizer(get_format("mxint8"), 1, scaling_per_output="channel").scale(x).shape == (4, 1)


@pytest.mark.parametrize("flag, per", [(True, "channel"), (False, "tensor")])
def test_the_old_boolean_warns_and_gives_the_same_bits(flag, per):
    w = torch.randn(6, 40)
    with pytest.warns(DeprecationWarning, match=f"scaling_per_output='{per}'") as caught:
        old = weight_quantizer(w, "int8", scaling_per_output="tensor", scaling_per_output_channel=flag)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = weight_quantizer(w, "int8", scaling_per_output=per)
    assert torch.equal(old(w), new(w)) and torch.equal(old.scale(w), new.scale(w))
    with pytest.warns(DeprecationWarning):
        assert activation_quantizer("int8", scaling_per_output_channel=flag).scaling_per_output == per


def layer_weight(w: torch.Tensor, **options) -> torch.Tensor:
    layer = mx.QuantLinear(40, 6, weight={"format": "int8", "source": "mse", **options}, activation=None)
    layer.load_state_dict({"weight": w, "bias": torch.zeros(6)})
    return layer.quant_weight().value


def model_weight(w: torch.Tensor, path, **options) -> torch.Tensor:
    model = nn.Sequential(nn.Linear(40, 6))
    model[0].weight.data = w
    ((name, value),) = options.items()
    path.write_text(f"'0': {{weight: {{format: int8, source: learned, {name}: {str(value).lower()}}}}}")
    return mx.quantize_model(model, formats=path)[0].quant_weight().value


OLD_BOOLEAN = {
    "quantizer": lambda w, _, **options: Quantizer(get_format("int8"), 1, **options)(w),
    "fake_quantize": lambda w, _, **options: fake_quantize(w, "int8", 1, **options),
    "quantize": lambda w, _, **options: mx.quantize(w, "int8", 1, **options).value,
    "spec": lambda w, _, **options: make_weight_quantizer(mx.QuantSpec("int8", "static", **options), w, 1, 0)(w),
    "layer": lambda w, _, **options: layer_weight(w, **options),
    "yaml": model_weight,
}


@pytest.mark.parametrize("flag, per", [(True, "channel"), (False, "tensor")])
@pytest.mark.parametrize("where", OLD_BOOLEAN)
def test_the_old_boolean_is_taken_wherever_the_new_word_is(where, flag, per, tmp_path):
    w, quantized = torch.randn(6, 40), OLD_BOOLEAN[where]
    with pytest.warns(DeprecationWarning, match=f"scaling_per_output='{per}'") as caught:
        old = quantized(w, tmp_path / "f.yaml", scaling_per_output_channel=flag)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = quantized(w, tmp_path / "f.yaml", scaling_per_output=per)
    assert torch.equal(old, new) and not torch.equal(old, w)


def test_an_old_boolean_that_is_none_is_named():
    with pytest.raises(FormatError, match="scaling_per_output_channel 'yes': expected True or False"):
        mx.QuantSpec("int8", scaling_per_output_channel="yes")


def test_specials_follow_from_the_bit_widths_alone():
    assert [get_format(f"float_ocp_{e}").element.specials for e in ("e4m3", "e5m2", "e3m2", "e2m1")] == [
        "nan", "ieee", "none", "none",
    ]  # fmt: skip
    assert get_format("float_e4m3").element.specials == "none"
    assert get_format("float_fnuz_e4m3").element.specials == "fnuz"


# --- unsigned, asymmetric, nested -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mxfp8_e4m3_g8", "uint8_g8", "uint4", "float_e3m2_g8"])
def test_unsigned_takes_negative_values_to_zero_and_leaves_relu_outputs_alone(name):
    x = torch.randn(4, 24)
    unsigned, signed = Quantizer(get_format(name), 1, signed=False), Quantizer(get_format(name), 1)
    assert torch.equal(unsigned(x), unsigned(x.relu())) and (unsigned(x) >= 0).all()
    assert torch.equal(unsigned(x.relu()), signed(x.relu()))
    q = quantize_with(unsigned, x)
    assert torch.equal(q.value, unsigned(x)) and (q.zero_point_ is None or not q.zero_point_.any())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=9))
def test_zero_is_exact_in_asymmetric_formats(values):
    x = torch.tensor([[*values, 0.0]])
    y = fake_quantize(x, "uint4", scaling_per_output="tensor")
    assert y[0, -1] == 0


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", NESTED)
def test_nested_scales_equal_the_reference(name, axis):
    x = np.ascontiguousarray(edge_values((70, 300)))
    expected = quantized.quantize(x, name, axis)
    q = mx.quantize(torch.from_numpy(x), name, axis)
    assert_equal_bits(q.scale_.squeeze(axis + 1).numpy(), expected.scale)
    assert_equal_bits(q.value.numpy(), expected.dequantize())


@pytest.mark.parametrize("name", NESTED)
def test_nested_scales_are_integers_times_one_float_per_super_group(name):
    fmt = get_format(name)
    x = np.random.default_rng(0).normal(size=(5, 200)).astype(np.float32)
    x[0] = 0
    scale = quantized.quantize(x, name, 1).scale
    levels = 2**fmt.scale_bits - 1
    for row in scale[1:]:
        for start in range(0, len(row), fmt.super_size):
            part = row[start : start + fmt.super_size].astype(np.float64)
            codes = part / (part.max() / levels)
            np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
            assert codes.min() > 0.5
    assert (scale[0] == 1).all()
    wanted = numerics.group_amax(x[1:], 1, fmt.group_size) / fmt.element.max_val
    if fmt.element.signed:
        assert np.abs(scale[1:] / wanted - 1).max() < 0.5 + 1 / levels * (wanted.max() / wanted.min())


def test_one_bad_group_leaves_its_super_group_alone():
    x = np.ones((1, 64), np.float32)
    y = x.copy()
    y[0, 3] = np.nan
    a, b = (quantized.quantize(v, "int4_g8_s6x8", 1).dequantize() for v in (x, y))
    assert np.isnan(b[0, :8]).all() and np.array_equal(a[0, 8:], b[0, 8:])


# --- searched scales --------------------------------------------------------------------------------------------

SEARCHED = [n for n in ALL_FORMATS if get_format(n).scale in ("e8m0", "float32")]


@pytest.mark.parametrize("name", SEARCHED)
def test_searched_scale_equals_the_reference(name):
    rng = np.random.default_rng(1)
    for x in (edge_values((40, 70)), rng.standard_t(3, size=(40, 70)).astype(np.float32)):
        expected = scales.mse_scale(x, get_format(name), 1)
        assert_equal_bits(search(Quantizer(get_format(name), 1), torch.from_numpy(x)).numpy(), expected)


@pytest.mark.parametrize("per", ["group", "channel", "tensor"])
@pytest.mark.parametrize("name", ["mxfp4_e2m1", "mxint4", "int4_g32", "uint4_g32"])
def test_searched_scale_is_never_worse(name, per):
    torch.manual_seed(0)
    w = torch.distributions.StudentT(3.0).sample((32, 96))
    plain, searched = (weight_quantizer(w, name, source=s, scaling_per_output=per) for s in ("dynamic", "mse"))
    errors = [((q(w) - w).double() ** 2).sum().item() for q in (plain, searched)]
    assert errors[1] < errors[0]
    if get_format(name).is_mx:
        assert (searched.scale(w).frexp().mantissa == 0.5).all()


# --- sources ----------------------------------------------------------------------------------------------------

CASES = [
    (name, source, per)
    for name in ("mxfp8_e4m3", "mxint8", "int8_g16", "uint4_g16", "float_e2m1_g16", "nvfp4", "int6_g16_s8x16")
    for source in SOURCES
    for per in ("group", "channel", "tensor")
    if get_format(name).scale in ("e8m0", "float32") or (per == "group" and source in ("dynamic", "static"))
]


@pytest.mark.parametrize("name, source, per", CASES)
def test_weight_sources_start_from_the_scale_of_the_weight_and_restore(name, source, per):
    torch.manual_seed(0)
    w, other = torch.randn(6, 40), torch.randn(6, 40)
    q = weight_quantizer(w, name, source=source, scaling_per_output=per)
    if source != "mse":
        assert torch.equal(q(w), Quantizer(get_format(name), 1, "floor", per)(w))
    restored = weight_quantizer(other, name, source=source, scaling_per_output=per)
    restored.load_state_dict(q.state_dict())
    for x in (w, w / 2):
        assert torch.equal(restored(x), q(x)) and torch.equal(copy.deepcopy(q)(x), q(x))
    tensor = quantize_with(q, w)
    assert torch.equal(tensor.value, q(w)) and tensor.scale_codes is None or tensor.scale_codes.dtype == torch.uint8
    assert torch.equal(tensor.scale_.squeeze(2), q.expand_scale(q.scale(w), w))


@pytest.mark.parametrize("name, source, per", [c for c in CASES if c[1] in ("static", "learned") and c[0] != "nvfp4"])
@pytest.mark.parametrize("shape, axis", [((5, 48), -1), ((2, 3, 48), -1), ((2, 48, 3, 5), -3)])
def test_activation_sources_share_one_scale_across_the_batch(name, source, per, shape, axis):
    torch.manual_seed(0)
    channel_axis = axis if per == "channel" else 1
    batches = [torch.randn(shape) * k for k in (1, 3)]
    q = activation_quantizer(
        name, axis, source=source, scaling_per_output=per, channel_axis=channel_axis, length=48
    ).train()
    for x in batches:
        q(x)
    freeze_scales(q)
    q.eval()
    x = batches[1]
    scale = q.scale(x)
    size = get_format(name).group_size if per == "group" else 1
    sizes = [1] * len(shape)
    if per != "tensor":
        sizes[axis] = -(-48 // size)
    assert list(scale.shape) == sizes
    if source == "static":  # nothing is clipped: the range covers all that was observed
        everything = torch.cat([b.movedim(axis, -1).reshape(-1, 48) for b in batches])
        top = everything.amax(0).clamp(min=0) if q.format.asymmetric else everything.abs().amax(0)
        fine = (q(x) - x).abs().max() <= top.max()
        assert fine and torch.equal(q(x[:1]), q(x)[:1])
        if get_format(name).scale == "float32" and per == "tensor" and not q.format.asymmetric:
            assert torch.equal(scale.flatten(), top.max().reshape(1) / q.format.element.max_val)
    restored = activation_quantizer(
        name, axis, source=source, scaling_per_output=per, channel_axis=channel_axis, length=48
    ).eval()
    restored.load_state_dict(q.state_dict())
    assert torch.equal(restored(x), q(x))


def test_static_scale_is_dynamic_while_it_observes_and_constant_afterwards():
    x = torch.randn(8, 32)
    q = activation_quantizer("mxint8", source="static")
    assert torch.equal(q(x), fake_quantize(x, "mxint8")) and not q.calibrated
    freeze_scales(nn.Sequential(q))
    assert q.calibrated and q.scale(x).shape == (1, 1)
    assert torch.equal(q(x * 100).abs().amax(), 127 * q.scale(x).amax())  # saturates


def test_module_apply_still_walks_modules():
    model, seen = nn.Sequential(activation_quantizer("mxint8", source="static")), []
    model.apply(seen.append)
    assert [type(m).__name__ for m in seen] == ["StaticScale", "Sequential"]


LEARNED = ["mxfp4_e2m1-group", "mxint4-channel", "int4_g16-group", "int4-tensor", "uint4_g16-group"]


@pytest.mark.parametrize("case", LEARNED)
def test_learned_scale_descends_from_a_bad_start(case):
    name, per = case.split("-")
    torch.manual_seed(0)
    w = torch.randn(8, 64)
    q = weight_quantizer(w * 8, name, source="learned", scaling_per_output=per)

    def loss():
        return ((q(w) - w) ** 2).sum()

    optimizer, first = torch.optim.Adam(q.parameters(), 0.05), loss().item()
    for _ in range(300):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        if get_format(name).is_mx:
            assert (q.scale(w).frexp().mantissa == 0.5).all()
    assert loss().item() < 0.3 * first


def test_learned_gradient_is_that_of_lsq():
    w = torch.tensor([[0.3, 5.0, -5.0, 0.0]], requires_grad=True)
    q = weight_quantizer(torch.tensor([[1.0, 1, 1, 1]]) * 3, "int3_g4", source="learned")  # step 1, codes -3 .. 3
    assert q.scale(w).item() == 1
    (q(w) * torch.tensor([1.0, 2, 4, 8])).sum().backward()
    expected = (0 - 0.3) * 1 + 3 * 2 - 3 * 4 + 0
    torch.testing.assert_close(q.raw_scale.grad, torch.tensor([[expected / (4 * 3) ** 0.5]]))
    assert w.grad.tolist() == [[1, 0, 0, 8]]


@pytest.mark.parametrize("source", ["static", "mse", "learned"])
@pytest.mark.parametrize(
    "name, per", every(3, [("mxfp4_e2m1", "group"), ("int8", "channel"), ("int8", "tensor"), ("uint4_g16", "group")])
)
def test_stored_weight_scales_run_in_onnxruntime_with_the_same_bits(tmp_path, source, name, per):
    torch.manual_seed(0)
    model = nn.Sequential(mx.QuantLinear(40, 4, bias=False, weight="mxint8", activation="mxint8"))
    model[0].weight_quant = weight_quantizer(model[0].weight, name, source=source, scaling_per_output=per)
    model[0].input_quant = activation_quantizer("int8", source="static")
    x = torch.randn(6, 40)
    model(x)
    freeze_scales(model)
    model.eval()
    expected = model(x).detach().numpy()
    mx.export(model, (x,), tmp_path / "m.onnx")
    (actual,) = executors.run(tmp_path / "m.onnx", x.numpy()).values()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    exported = graph.load(tmp_path / "m.onnx").graph
    nodes = [n for n in exported if graph.is_ours(n, graph.QUANTIZERS)]
    assert len(nodes) == 2 and not any(graph.is_ours(n, graph.SCALES) for n in exported)
    weight = next(n for n in nodes if constant(n.inputs[0]) is not None)
    a = graph.attributes(weight)
    assert constant(weight.inputs[1]).shape == groups.contracted_shape((4, 40), a["axis"], a["group_size"])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["float_e3m3_g16", "int8_g16"])  # the first is used here only: nothing is cached yet
def test_sources_compile_whole_and_train(name, source):
    torch._dynamo.reset()
    w = torch.randn(4, 48, requires_grad=True)
    q = weight_quantizer(w, name, source=source)
    y = torch.compile(q, fullgraph=True, backend="aot_eager")(w)
    y.sum().backward()
    assert torch.equal(y, q(w)) and w.grad.abs().sum() > 0
    assert all(p.grad is not None for p in q.parameters())


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: weight_quantizer(torch.ones(2, 2), "int8", scaling_per_output="group"), FormatError, "int8_g32"),
        (lambda: weight_quantizer(torch.ones(2, 2), "int8", scaling_per_output="row"), FormatError, "expected one of"),
        (lambda: weight_quantizer(torch.ones(2, 2), "int8", source="best"), FormatError, "unknown scale source 'best'"),
        (lambda: weight_quantizer(torch.ones(2, 2), "nvfp4", scaling_per_output="tensor"), FormatError, "has none"),
        (lambda: weight_quantizer(torch.ones(2, 2), "nvfp4", source="learned"), FormatError, "two levels"),
        (lambda: activation_quantizer("int8", source="mse"), FormatError, "weights only"),
        (lambda: activation_quantizer("int8_g4", source="learned"), FormatError, "needs `length`"),
        (lambda: activation_quantizer("int8", signed=False), FormatError, "unsigned integer format"),
        (lambda: activation_quantizer("int8", source="static").scale(torch.ones(2, 2)), UnsupportedError, "no scale"),
        (lambda: activation_quantizer("int8", source="static").freeze(), UnsupportedError, "nothing was observed"),
        (lambda: quantized.quantize(np.ones((2, 2)), "int8"), FormatError, "no group size"),
    ],
)
def test_combinations_that_do_not_exist_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "name, per", [("int8", "tensor"), ("mxfp8_e4m3", "channel"), ("uint8", "channel"), ("uint4_g32_s6x8", None)]
)
def test_scales_found_at_run_time_keep_nan_in_files(name, per, tmp_path):
    model, x = mx.QuantIdentity(mx.QuantSpec(name, scaling_per_output=per), axis=-1).eval(), torch.randn(4, 70)
    x[1, 3] = x[2, 60] = torch.nan
    mx.export(model, (x,), tmp_path / "m.onnx")
    for execute in (executors.run, executors.run_qonnx, executors.run_reference):
        (y,) = execute(tmp_path / "m.onnx", x.numpy()).values()
        assert np.isnan(y).any()
        assert_equal_bits(y, model(x).numpy())


EMPTY = {
    "tensor": mx.QuantSpec("int8"),
    "channel": mx.QuantSpec("int8", scaling_per_output="channel"),
    "range": mx.QuantSpec("uint8", scaling_per_output="tensor"),
    "groups": mx.QuantSpec("uint4_g32"),
    **{source: mx.QuantSpec("uint4_g32", source=source) for source in ("static", "learned")},
    "learned_tensor": mx.QuantSpec("int8", source="learned", scaling_per_output="tensor"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_batches_pass_and_say_nothing_of_scales(name):
    layer = mx.QuantLinear(70, 3, activation=EMPTY[name])
    x, empty = torch.randn(4, 70), torch.randn(0, 70, requires_grad=True)
    alone = copy.deepcopy(layer)
    layer(empty).sum().backward()
    assert empty.grad.shape == empty.shape
    for trained in (alone, layer):
        trained(x)
        freeze_scales(trained)
        assert trained(empty).shape == (0, 3)
    assert torch.equal(layer.eval()(x), alone.eval()(x))


def test_averages_of_models_take_learned_scales_with_their_buffers():
    layer = mx.QuantLinear(70, 3, activation=mx.QuantSpec("mxint8", source="learned"))
    average = torch.optim.swa_utils.AveragedModel(layer, use_buffers=True)
    for _ in range(3):
        layer(torch.randn(4, 70))
        average.update_parameters(layer)
    assert average.train()(torch.randn(4, 70)).shape == (4, 3)
