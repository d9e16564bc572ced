"""Quantized layers: the float operation on quantized operands, the float layer's names, groups where they belong."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import mxexport as mx
from mxexport.errors import FormatError, ShapeError, UnsupportedError
from mxexport.quant import QUANT_LAYERS, fake_quantize
from mxexport.running import executors

WEIGHT, ACTIVATION = "mxfp4_e2m1_g16", "mxint8"

LAYERS = {
    "linear": (lambda: nn.Linear(40, 6), (3, 40)),
    "linear_of_sequences": (lambda: nn.Linear(40, 6, bias=False), (2, 5, 40)),
    "conv1d": (lambda: nn.Conv1d(40, 6, 3, stride=2), (2, 40, 9)),
    "conv2d": (lambda: nn.Conv2d(40, 6, 3, padding=1), (2, 40, 6, 6)),
    "conv2d_same": (lambda: nn.Conv2d(40, 6, 4, padding="same"), (2, 40, 6, 6)),
    "conv2d_reflect": (lambda: nn.Conv2d(40, 6, 3, padding=1, padding_mode="reflect"), (2, 40, 6, 6)),
    "conv2d_circular": (lambda: nn.Conv2d(40, 6, 3, padding=1, padding_mode="circular"), (2, 40, 6, 6)),
    "conv2d_grouped": (lambda: nn.Conv2d(40, 6, 3, groups=2), (2, 40, 6, 6)),
    "conv2d_depthwise": (lambda: nn.Conv2d(40, 80, 3, groups=40), (2, 40, 6, 6)),
    "conv2d_unbatched": (lambda: nn.Conv2d(40, 6, 3), (40, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(20, 6, 3, dilation=2), (2, 20, 6, 6, 6)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(40, 6, 3, stride=2), (2, 40, 5)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(40, 6, 3, stride=2, output_padding=1), (2, 40, 5, 5)),
    "conv_transpose2d_grouped": (lambda: nn.ConvTranspose2d(40, 6, 3, groups=2), (2, 40, 5, 5)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(20, 6, 2), (2, 20, 4, 4, 4)),
}


def input_axis(layer: nn.Module) -> int:
    return -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)


def made(name: str, weight=WEIGHT, activation=ACTIVATION):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make()
    return layer, QUANT_LAYERS[type(layer)].from_float(layer, weight, activation), torch.randn(shape)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_the_float_operation_on_quantized_operands(name):
    layer, quantized, x = made(name)
    weight_axis = 0 if "transpose" in name else 1
    with torch.no_grad():
        expected_weight = fake_quantize(layer.weight, WEIGHT, weight_axis)
        assert torch.equal(quantized.quant_weight().value, expected_weight)
        actual = quantized(x)
        layer.weight.copy_(expected_weight)  # the two layers share it, and a quantized weight quantizes to itself
        assert torch.equal(actual, layer(fake_quantize(x, ACTIVATION, input_axis(layer))))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_without_formats_is_the_float_layer(name):
    layer, quantized, x = made(name, None, None)
    assert torch.equal(quantized(x), layer(x))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_shares_parameters_and_names_with_the_float_layer(name):
    layer, quantized, _ = made(name)
    assert isinstance(quantized, type(layer)) and list(quantized.state_dict()) == list(layer.state_dict())
    assert all(a is b for a, b in zip(quantized.parameters(), layer.parameters(), strict=True))
    assert "weight_quant" not in layer.__dict__


@pytest.mark.parametrize(
    "layer, scale_shape",
    [
        (mx.QuantLinear(70, 5), (5, 3, 1)),
        (mx.QuantConv1d(70, 5, 3), (5, 3, 1, 3)),
        (mx.QuantConv2d(70, 5, 3), (5, 3, 1, 3, 3)),
        (mx.QuantConv2d(70, 70, 3, groups=70), (70, 1, 1, 3, 3)),
        (mx.QuantConv2d(96, 6, 1, groups=2), (6, 2, 1, 1, 1)),
        (mx.QuantConv3d(70, 5, 2), (5, 3, 1, 2, 2, 2)),
        (mx.QuantConvTranspose1d(70, 5, 3), (3, 1, 5, 3)),
        (mx.QuantConvTranspose2d(70, 6, 3, groups=2), (3, 1, 3, 3, 3)),
        (mx.QuantEmbedding(9, 70), (9, 3, 1)),
        (mx.QuantMultiheadAttention(64, 4), (192, 2, 1)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_weight_scales_are_contracted_along_the_axis_summed_over(layer, scale_shape):
    assert layer.quant_weight().scale_.shape == scale_shape


def test_transposed_convolution_takes_an_output_size():
    layer = mx.QuantConvTranspose2d(40, 6, 3, stride=2)
    assert layer(torch.randn(1, 40, 5, 5), output_size=[12, 12]).shape == (1, 6, 12, 12)


def test_hooks_of_the_float_layer_come_along_and_later_ones_stay_apart():
    layer, seen = nn.Linear(4, 4), []
    layer.register_forward_hook(lambda *_: seen.append("float"))
    quantized = mx.QuantLinear.from_float(layer, "mxint8", "mxint8")
    quantized.register_forward_hook(lambda *_: seen.append("quantized"))
    quantized(torch.randn(1, 4))
    assert seen == ["float", "quantized"]
    layer(torch.randn(1, 4))
    assert seen == ["float", "quantized", "float"]


def test_layers_say_their_formats():
    assert "bias=True, weight=mxfp4_e2m1, activation=None" in repr(mx.QuantLinear(4, 4, weight="mxfp4_e2m1",
                                                                                  activation=None))  # fmt: skip
    layer = mx.QuantLinear(4, 4, activation=None)
    assert list(layer.quantizers()) == ["weight_quant"]


# --- embedding ------------------------------------------------------------------------------------------------


def test_embedding_looks_up_quantized_rows():
    table = mx.QuantEmbedding(9, 40, padding_idx=2, weight=WEIGHT, scale_rule="ceil")  # nothing saturates
    index = torch.tensor([[1, 2, 2], [8, 0, 1]])
    found = table(index)
    assert torch.equal(found, fake_quantize(table.weight, WEIGHT, scale_rule="ceil")[index])
    found.sum().backward()
    assert not table.weight.grad[2].any() and table.weight.grad[1].eq(2).all()


@pytest.mark.parametrize("option, message", [({"max_norm": 1.0}, "rescales the table"), ({"sparse": True}, "sparse")])
def test_embedding_refuses_what_a_quantized_table_cannot_do(option, message):
    with pytest.raises(UnsupportedError, match=message):
        mx.QuantEmbedding(9, 40, **option)


# --- activations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, axis", [((3, 40), -1), ((2, 5, 40), -1), ((2, 40, 5, 5), 1), ((2, 40, 3, 3, 3), 1)])
def test_identity_and_relu_quantize_channels_by_default(shape, axis):
    x = torch.randn(shape)
    assert torch.equal(mx.QuantIdentity("mxfp6_e2m3")(x), fake_quantize(x, "mxfp6_e2m3", axis))
    assert torch.equal(mx.QuantReLU("mxfp6_e2m3")(x), fake_quantize(x.relu(), "mxfp6_e2m3", axis))


def test_identity_and_relu_take_an_axis():
    x = torch.randn(2, 40, 5, 7)
    assert torch.equal(mx.QuantIdentity("mxint8", axis=-1)(x), fake_quantize(x, "mxint8", -1))
    assert torch.equal(
        mx.QuantReLU("mxint8", axis=2, scale_rule="ceil")(x), fake_quantize(x.relu(), "mxint8", 2, "ceil")
    )


def test_add_sums_two_quantized_activations():
    a, b = torch.randn(2, 40, 5, 5), torch.randn(2, 40, 5, 5)
    expected = fake_quantize(a, "mxint4", 1) + fake_quantize(b, "mxint4", 1)
    assert torch.equal(mx.QuantAdd("mxint4")(a, b), expected)


def test_matmul_groups_both_operands_along_the_axis_summed_over():
    a, b = torch.randn(2, 3, 5, 40), torch.randn(2, 3, 40, 6)
    expected = fake_quantize(a, "mxfp8_e4m3", -1) @ fake_quantize(b, "mxfp8_e4m3", -2)
    assert torch.equal(mx.QuantMatMul("mxfp8_e4m3")(a, b), expected)


# --- attention ------------------------------------------------------------------------------------------------

VARIANTS = {
    "sequence_first": {},
    "batch_first": {"batch_first": True},
    "other_widths": {"kdim": 48, "vdim": 40},
    "no_bias": {"bias": False},
    "appended_keys": {"add_bias_kv": True, "add_zero_attn": True},
}
MASKS = {
    "none": {},
    "causal": {"attn_mask": torch.ones(5, 7).triu(1).bool(), "is_causal": True},
    "additive": {"attn_mask": torch.linspace(-3, 3, 35).reshape(5, 7)},
    "per_head": {"attn_mask": torch.linspace(-3, 3, 420).reshape(12, 5, 7), "average_attn_weights": False},
    "padding": {"key_padding_mask": torch.arange(7).repeat(3, 1) >= torch.tensor([[7], [5], [1]])},
    "both": {
        "key_padding_mask": torch.arange(7).repeat(3, 1) >= torch.tensor([[7], [5], [1]]),
        "attn_mask": torch.ones(5, 7).triu(3).bool(),
    },
    "no_weights": {"need_weights": False},
}


def attention(variant: dict):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(64, 4, **variant)
    q, k, v = torch.randn(3, 5, 64), torch.randn(3, 7, layer.kdim), torch.randn(3, 7, layer.vdim)
    return layer, (q, k, v) if layer.batch_first else tuple(t.transpose(0, 1) for t in (q, k, v))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_without_formats_equals_the_float_layer(variant, mask):
    layer, inputs = attention(VARIANTS[variant])
    quantized = mx.QuantMultiheadAttention.from_float(layer, None, None)
    expected, expected_weights = layer(*inputs, **MASKS[mask])
    actual, weights = quantized(*inputs, **MASKS[mask])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert (weights is None) == (expected_weights is None)
    if weights is not None:
        torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)


def test_attention_takes_one_sequence_without_a_batch():
    layer, inputs = attention({})
    quantized = mx.QuantMultiheadAttention.from_float(layer, None, None)
    single, mask = [t[:, 0] for t in inputs], torch.arange(7) >= 5
    for actual, expected in zip(
        quantized(*single, key_padding_mask=mask), layer(*single, key_padding_mask=mask), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_attention_quantizes_all_four_products():
    torch.manual_seed(0)
    layer = mx.QuantMultiheadAttention(64, 4, batch_first=True, weight=WEIGHT, activation="mxfp8_e4m3")
    x = torch.randn(3, 5, 64)

    def quantized(t, axis=-1):
        return fake_quantize(t, "mxfp8_e4m3", axis)

    weights = fake_quantize(layer.in_proj_weight, WEIGHT)
    q, k, v = (
        t.unflatten(-1, (4, 16)).transpose(1, 2)
        for t in functional.linear(quantized(x), weights, layer.in_proj_bias).chunk(3, -1)
    )
    attended = torch.softmax(quantized(q * 0.25) @ quantized(k).transpose(-2, -1), -1)
    joined = (quantized(attended) @ quantized(v, -2)).transpose(1, 2).flatten(2)
    out = functional.linear(quantized(joined), fake_quantize(layer.out_proj.weight, WEIGHT), layer.out_proj.bias)
    actual, average = layer(x, x, x)
    assert torch.equal(actual, out) and torch.equal(average, attended.mean(1))


def test_self_attention_equals_attention_to_a_copy():
    layer, _ = attention({})
    quantized = mx.QuantMultiheadAttention.from_float(layer, "mxint8", "mxint8")
    x = torch.randn(5, 3, 64)
    torch.testing.assert_close(quantized(x, x, x)[0], quantized(x, x.clone(), x.clone())[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_keeps_the_state_dict_names(variant):
    layer, _ = attention(VARIANTS[variant])
    quantized = mx.QuantMultiheadAttention.from_float(layer, "mxint8", "mxint8")
    assert list(quantized.state_dict()) == list(layer.state_dict())
    assert type(layer.out_proj) is not mx.QuantLinear and layer._qkv_same_embed_dim == ("kdim" not in VARIANTS[variant])


def test_encoder_layer_does_not_pass_by_the_quantized_layers_at_inference():
    """In eval mode and without gradients torch hands the float weights to one fused kernel of its own."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 96, 0.0, batch_first=True), 2)
    quantized, x = mx.quantize_model(encoder, "mxint4", "mxint4"), torch.randn(2, 6, 64)
    padding = torch.arange(6) >= torch.tensor([[6], [4]])
    for mask in (None, padding):
        trained = quantized.train()(x, src_key_padding_mask=mask)
        with torch.no_grad():
            assert torch.equal(quantized.eval()(x, src_key_padding_mask=mask), trained)
    with torch.no_grad():
        mine = nn.TransformerEncoderLayer(64, 4, 96, 0.0, batch_first=True).eval()
        mine.self_attn = mx.QuantMultiheadAttention(64, 4, batch_first=True, weight="mxint2", activation="mxint2")
        attended = mine.self_attn(x, x, x)[0]
        assert torch.equal(mine(x), mine.norm2(_feed_forward(mine, mine.norm1(x + attended))))


def _feed_forward(layer, x):
    return x + layer.linear2(layer.linear1(x).relu())


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: mx.QuantLinear(4, 4, weight="mxint9"), FormatError, "mxint9"),
        (lambda: mx.QuantConv2d(4, 4, 3, scale_rule="up"), FormatError, "unknown scale rule 'up'"),
        (lambda: mx.QuantReLU("int4_g8", scale_rule="ceil"), FormatError, "needs power-of-two scales"),
        (lambda: attend(is_causal=True), ShapeError, "give attn_mask as well"),
        (lambda: attend(attn_mask=torch.zeros(3)), ShapeError, r"attn_mask has shape \(3,\); expected \[L, S\]"),
        (lambda: attend(attn_mask=torch.zeros(1, 3)), ShapeError, r"expected \[L, S\] \(3, 3\) or .* \(8, 3, 3\)"),
        (lambda: attend(attn_mask=torch.zeros(3, 3, 3)), ShapeError, r"attn_mask has shape \(3, 3, 3\)"),
        (lambda: attend(attn_mask=torch.ones(3, 3).int()), ShapeError, "attn_mask is torch.int32; expected bool"),
        (lambda: attend(key_padding_mask=torch.zeros(1, 3)), ShapeError, r"key_padding_mask .*; expected \(2, 3\)"),
        (lambda: attend(key_padding_mask=torch.zeros(2, 3).long()), ShapeError, "key_padding_mask is torch.int64"),
        (lambda: attend(key=torch.randn(3, 1, 64)), ShapeError, r"shapes \(3, 2, 64\), \(3, 1, 64\), .*; expected \[L"),
        (lambda: attend(key=torch.randn(4, 2, 64)), ShapeError, r"expected \[L, N, E\], \[S, N, K\], \[S, N, V\]"),
        (lambda: attend(key=torch.randn(64)), ShapeError, r"shapes \(3, 2, 64\), \(64,\)"),
        (lambda: mx.QuantIdentity(axis=7)(torch.randn(4, 3)), ShapeError, "mxint8: axis 7 is outside .* rank 2"),
        (lambda: mx.QuantReLU(axis=-9)(torch.randn(4, 3)), ShapeError, "mxint8: axis -9 is outside .* rank 2"),
        (lambda: mx.QuantLinear(1, 3)(torch.tensor(1.0)), ShapeError, "axis -1 is outside a tensor of rank 0"),
        (lambda: mx.QuantLinear(4, 3)(torch.ones(2, 4).long()), ShapeError, "expected a floating-point torch.Tensor"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def attend(**keywords):
    x = torch.randn(3, 2, 64)
    return mx.QuantMultiheadAttention(64, 4)(**{"query": x, "key": x, "value": x} | keywords)


def test_attention_gives_every_projection_under_its_own_scales():
    layer = mx.QuantMultiheadAttention(64, 4, kdim=40, vdim=72, weight=mx.QuantSpec("mxfp4_e2m1", source="mse"))
    for name, quantizer in (("q", "weight_quant"), ("k", "key_weight_quant"), ("v", "value_weight_quant")):
        weight = getattr(layer, f"{name}_proj_weight")
        value = layer.quant_weight(f"{name}_proj_weight").value
        assert torch.equal(value, getattr(layer, quantizer)(weight)) and value.shape == weight.shape


class TiedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = mx.QuantEmbedding(20, 64)

    def forward(self, tokens):
        return (
            nn.functional.linear(self.table(tokens), self.table.quant_weight()) + self.table.quant_weight().value[0, 0]
        )


def test_a_quantized_weight_can_be_used_in_the_code_between_layers(tmp_path):
    model, tokens = TiedHead().eval(), torch.randint(0, 20, (3, 4))
    mx.export(model, (tokens,), tmp_path / "m.onnx")
    (y,) = executors.run(tmp_path / "m.onnx", tokens.numpy()).values()
    torch.testing.assert_close(torch.from_numpy(y), model(tokens).detach(), rtol=1e-5, atol=1e-5)
