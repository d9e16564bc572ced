"""PyTorch side: equal bits with numpy, contracted storage, gradients, layers, model conversion."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import mxexport as mx
from mxexport.errors import FormatError, ShapeError, UnsupportedError
from mxexport.numbers import quantized
from mxexport.numbers.formats import SCALE_RULES, get_format
from mxexport.quant import fake_quantize
from tests.helpers import ALL_FORMATS, assert_equal_bits, edge_values

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

CASES = [(n, r) for n in (*ALL_FORMATS, "nvfp4") for r in SCALE_RULES if r == "floor" or get_format(n).is_mx]


@pytest.mark.parametrize("name, rule", CASES)
def test_quantize_equals_numpy_in_values_codes_and_scales(name, rule):
    x = np.stack([edge_values((64, 70), seed) for seed in range(2)], axis=2)
    expected = quantized.quantize(x, name, axis=1, rule=rule)
    q = mx.quantize(torch.from_numpy(x), name, axis=1, scale_rule=rule)
    assert_equal_bits(q.value.numpy(), expected.dequantize())
    assert_equal_bits(q.scale_.squeeze(2).numpy(), expected.scale)
    representable = ~np.isinf(q.value_.numpy())  # a code whose value overflows float32 cannot be read back from it
    np.testing.assert_array_equal(q.codes.numpy()[representable], expected.codes[representable])
    assert q.codes.numpy().dtype == expected.codes.dtype
    if expected.scale_codes is None:
        assert q.scale_codes is None
    else:
        np.testing.assert_array_equal(q.scale_codes.squeeze(2).numpy(), expected.scale_codes)
    if expected.zero_point is not None:
        assert_equal_bits(q.zero_point_.squeeze(2).numpy(), expected.zero_point)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_shapes_are_contracted_on_any_axis(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    group = data.draw(st.integers(1, 12))
    q = mx.quantize(torch.randn(shape), f"mxfp6_e2m3_g{group}", axis=axis)
    at, count = axis % len(shape), -(-shape[axis] // group)
    assert q.value_.shape == (*shape[:at], count, group, *shape[at + 1 :])
    assert q.scale_.shape == (*shape[:at], count, 1, *shape[at + 1 :])
    assert q.shape == q.value.shape == q.scale.shape == shape
    assert (q.axis, q.group_size, q.format.name) == (at, group, f"mxfp6_e2m3_g{group}")
    padded = q.value_.flatten(at, at + 1)
    assert not padded.narrow(at, shape[at], count * group - shape[at]).any()


def test_linear_and_conv_weights_have_the_documented_shapes():
    linear = mx.quantize(torch.randn(5, 70), "mxint8", axis=1)
    assert linear.value_.shape == (5, 3, 32) and linear.scale_.shape == (5, 3, 1)
    conv = mx.quantize(torch.randn(8, 40, 3, 3), "mxfp4_e2m1", axis=1)
    assert conv.value_.shape == (8, 2, 32, 3, 3) and conv.scale_.shape == (8, 2, 1, 3, 3)


def test_quant_tensor_computes_like_its_values():
    q = mx.quantize(torch.randn(4, 40), "mxfp8_e4m3")
    assert isinstance(q, mx.GroupwiseFloatQuantTensor) and isinstance(q, torch.Tensor)
    for result in (q + 1, 3 * q, q @ torch.eye(40), torch.tanh(q), q.sum(), q[:, 1:3], q.flatten()):
        assert type(result) is torch.Tensor
    assert torch.equal(q + 1, q.value + 1)
    assert torch.equal(nn.functional.linear(torch.eye(40), q), q.value.T)
    assert "mxfp8_e4m3" in repr(q)


def test_quantize_passes_the_gradient_straight_through_where_not_clipped():
    x = torch.tensor([[1.0, 0.3, -1.9999, 0.0]], requires_grad=True)
    (mx.quantize(x, "mxint8_g4") * 3).sum().backward()
    assert x.grad.tolist() == [[3.0, 3.0, 0.0, 3.0]]  # -1.9999 lies over half a step beyond -127/64


@pytest.mark.parametrize("name", ["mxfp8_e5m2", "int4_g16", "uint4_g16", "nvfp4"])
def test_fake_quantize_is_quantize_without_the_codes(name):
    x = torch.randn(3, 50)
    assert torch.equal(fake_quantize(x, name), mx.quantize(x, name).value)


def test_half_precision_keeps_its_dtype_and_float32_scales():
    for dtype in (torch.bfloat16, torch.float16):
        q = mx.quantize(torch.randn(2, 64).to(dtype), "mxfp6_e3m2")
        assert q.value_.dtype == q.dtype == dtype and q.scale_.dtype == torch.float32


def test_zero_groups_survive_flush_to_zero():
    script = """
import torch, mxexport as mx
from mxexport.numbers.formats import MX_FORMATS
assert torch.set_flush_denormal(True)
for name in MX_FORMATS:
    q = mx.quantize(torch.zeros(2, 40), name)
    assert (q.value == 0).all() and (q.scale_codes == 0).all(), name
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- layers and models ----------------------------------------------------------------------------------------


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 16), nn.ReLU(), nn.Linear(16, 10)
    )


def test_quant_linear_multiplies_quantized_by_quantized():
    layer = mx.QuantLinear(70, 5, weight="mxfp4_e2m1", activation="mxfp8_e4m3")
    x = torch.randn(3, 70)
    expected = nn.functional.linear(fake_quantize(x, "mxfp8_e4m3"), layer.quant_weight().value, layer.bias)
    assert torch.equal(layer(x), expected)
    assert layer.quant_weight().scale_.shape == (5, 3, 1)


def test_quant_conv2d_groups_channels_for_each_tap():
    layer = mx.QuantConv2d(40, 6, 3, padding=1, weight="mxint8", activation="mxint8")
    x = torch.randn(2, 40, 8, 8)
    expected = nn.functional.conv2d(
        fake_quantize(x, "mxint8", axis=1), layer.quant_weight().value, layer.bias, padding=1
    )
    assert torch.equal(layer(x), expected)


def test_quantize_model_leaves_the_model_alone_and_keeps_names():
    model = small_net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    quantized = mx.quantize_model(model, "mxint8", "mxfp8_e4m3", exclude=["6"])
    assert [type(m).__name__ for m in quantized] == [
        "QuantConv2d", "ReLU", "MaxPool2d", "Flatten", "QuantLinear", "ReLU", "Linear",
    ]  # fmt: skip
    assert type(model[0]) is nn.Conv2d and list(quantized.state_dict()) == list(before)
    quantized[0].weight.data.zero_()
    assert torch.equal(model[0].weight, before["0.weight"])


def test_quantized_model_trains():
    torch.manual_seed(0)
    model = mx.quantize_model(small_net(), "mxfp6_e2m3", "mxfp6_e2m3")
    x, y = torch.randn(32, 3, 12, 12), torch.randint(0, 10, (32,))
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_layers_left_in_float_are_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.LSTMCell(4, 4))
    with pytest.warns(UserWarning, match="1: LSTMCell"):
        mx.quantize_model(model)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: mx.quantize(torch.randn(4), "mxfp8_e4m4"), FormatError, "Did you mean 'mxfp8_e4m3'"),
        (lambda: mx.quantize(torch.randn(4), "mxint8", scale_rule="up"), FormatError, "unknown scale rule 'up'"),
        (lambda: mx.quantize(torch.randn(4), "int4_g4", scale_rule="ceil"), FormatError, "needs power-of-two scales"),
        (lambda: mx.quantize(torch.arange(4), "mxint8"), ShapeError, "found torch.int64"),
        (lambda: mx.quantize(torch.randn(4), "mxint8", axis=1), ShapeError, "axis 1 is outside a tensor of rank 1"),
        (lambda: mx.quantize_model(nn.ReLU()), UnsupportedError, "no layer to quantize"),
        (lambda: mx.quantize_model(nn.Linear(4, 4), exclude=["head"]), UnsupportedError, "matches no module"),
        (lambda: mx.quantize_model(nn.Linear(4, 4), "mxfp3"), FormatError, "unknown format 'mxfp3'"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
