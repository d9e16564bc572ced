"""Brevitas models become mxexport models: the same bits, layer by layer, and every oddity by name."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from brevitas import nn as qnn, quant as bq
from brevitas.quant import mx_quant_ocp, scaled_int
from torch import nn

import mxexport as mx
from mxexport.errors import ShapeError, UnsupportedError
from mxexport.frontends.brevitas import rules
from tests.brevitas_families import (
    FLOAT_SCALE,
    GROUP_ACTIVATIONS,
    GROUP_WEIGHTS,
    MX_ACTIVATIONS,
    PLAIN_ACTIVATIONS,
    PLAIN_WEIGHTS,
    RUN_TIME_ACTIVATIONS,
    variant,
)
from tests.helpers import assert_equal_bits

pytestmark = pytest.mark.filterwarnings("ignore")

ALL_WEIGHTS = GROUP_WEIGHTS | PLAIN_WEIGHTS
E4M3 = {"weight_quant": GROUP_WEIGHTS["mx_e4m3"], "input_quant": GROUP_ACTIVATIONS["mx_e4m3"]}
INT8 = {"weight_quant": mx_quant_ocp.MXInt8Weight, "input_quant": mx_quant_ocp.MXInt8Act}
PLAIN = {
    "weight_quant": bq.Int8WeightPerChannelFloat,
    "input_quant": bq.Int8ActPerTensorFloat,
    "bias_quant": bq.Int32Bias,
}


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    """Values whose magnitude changes from row to row; one row of zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x *= torch.exp2(torch.randint(-8, 8, (shape[0], *[1] * (len(shape) - 1)), generator=generator).float())
    x[0] = 0
    return x


def settled(model: nn.Module, *inputs: torch.Tensor) -> nn.Module:
    """In eval mode, run-time statistics collected."""
    torch.manual_seed(0)
    model.train()
    for _ in range(2):
        model(*inputs)
    return model.eval()


def plain(x) -> torch.Tensor:
    """The value; an integer -0 counts as +0 (a documented difference)."""
    return (x.value if hasattr(x, "signed_t") else x).detach() + 0.0


def assert_same_bits(theirs, ours, context: object = "") -> None:
    assert_equal_bits(plain(ours).numpy(), plain(theirs).numpy(), context)


def assert_converts(model: nn.Module, *inputs: torch.Tensor) -> nn.Module:
    expected = settled(model, *inputs)(*inputs)
    converted = mx.from_brevitas(model, inputs)
    assert_same_bits(expected, converted(*inputs))
    return converted


def all_notes(model: nn.Module) -> str:
    return "\n".join(f"{where}: {what}" for m in model.modules() for where, what in getattr(m, "notes", ()))


# --- weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GROUP_WEIGHTS)
def test_groupwise_weights_keep_values_and_scales(name):
    torch.manual_seed(1)
    layer = qnn.QuantLinear(70, 9, weight_quant=GROUP_WEIGHTS[name])
    layer.weight.data[3] = 0
    layer.weight.data[4, :32] = 0
    layer.weight.data[5] *= 1000
    converted = assert_converts(layer, rows(4, 70))
    theirs, ours = layer.quant_weight(), converted.quant_weight()
    assert isinstance(ours, mx.GroupwiseFloatQuantTensor | mx.GroupwiseIntQuantTensor)
    assert_same_bits(theirs.value, ours.value)
    if name not in ("uint8_groups_hqo", "uint4_nested"):  # with zero points of fractions Brevitas' padding is not zero
        assert_same_bits(theirs.value_, ours.value_)
    assert ours.scale_.shape == theirs.scale_.shape == (9, -(-70 // theirs.group_size), 1)
    not_zero = (theirs.value_ != 0).any(2, keepdim=True)
    expected = theirs.scale_.abs() if name == "e4m3_signed_scale" else theirs.scale_
    assert_equal_bits(ours.scale_[not_zero].numpy(), expected[not_zero].detach().numpy())
    if ours.format.is_mx:
        assert (torch.frexp(ours.scale_).mantissa == 0.5).all()
    if "uint8" in name:
        assert_equal_bits(ours.zero_point_.numpy(), theirs.zero_point_.detach().numpy())


@pytest.mark.parametrize("name", PLAIN_WEIGHTS)
def test_weights_without_groups_keep_their_bits(name):
    torch.manual_seed(1)
    layer = qnn.QuantLinear(70, 9, weight_quant=PLAIN_WEIGHTS[name])
    converted = assert_converts(layer, rows(4, 70))
    assert_same_bits(layer.quant_weight(), converted.quant_weight())


@pytest.mark.parametrize("name", [name for name in ALL_WEIGHTS if "_mse" in name])
def test_searched_scales_convert_before_the_model_has_run(name):
    torch.manual_seed(0)
    model, x = nn.Sequential(qnn.QuantLinear(70, 8, bias=True, weight_quant=ALL_WEIGHTS[name])).eval(), rows(3, 70)
    modes = {id(m): m.local_loss_mode for m in model.modules() if hasattr(m, "local_loss_mode")}
    converted = mx.from_brevitas(model, (x,))
    assert modes == {id(m): m.local_loss_mode for m in model.modules() if hasattr(m, "local_loss_mode")} != {}
    assert_same_bits(model(x), converted(x))


def test_learned_scales_are_read_not_recomputed():
    layer = settled(qnn.QuantLinear(64, 4, weight_quant=GROUP_WEIGHTS["mx_int8_learned_float_scale"]), rows(2, 64))
    (learned,) = [p for n, p in layer.named_parameters() if "scaling_impl" in n]
    learned.data *= 1.37
    converted = mx.from_brevitas(layer)
    assert_equal_bits(converted.weight_scale.numpy(), layer.quant_weight().scale_.squeeze(2).detach().numpy())
    amax = layer.weight.detach().reshape(4, 2, 32).abs().amax(2)
    assert not torch.allclose(converted.weight_scale, amax / 128, rtol=0.1)


def test_float_weights_stay_where_they_reproduce_and_are_dequantized_where_not():
    kept = mx.from_brevitas(settled(a := qnn.QuantLinear(70, 9, **E4M3), rows(4, 70)))
    assert torch.equal(kept.weight, a.weight)
    layer = qnn.QuantLinear(70, 9, weight_quant=PLAIN_WEIGHTS["int8_decoupled"])
    for name, parameter in layer.named_parameters():
        if "scaling" in name:
            parameter.data.fill_(0.003)  # no longer what the weight is rounded under
    converted = assert_converts(layer, rows(4, 70))
    assert not torch.equal(converted.weight, layer.weight)
    assert "weight: written dequantized" in all_notes(converted)


def test_nan_and_inf_in_weights_stay_in_their_group():
    layer = qnn.QuantLinear(64, 3, weight_quant=GROUP_WEIGHTS["mx_e4m3"])
    layer.weight.data[0, 3], layer.weight.data[1, 40] = torch.nan, torch.inf
    converted = mx.from_brevitas(layer.eval())
    assert_same_bits(layer.quant_weight(), converted.quant_weight())
    assert torch.isnan(converted.weight_scale).tolist() == [[True, False], [False, True], [False, False]]


def test_groups_of_zeros_get_a_power_of_two_and_are_reported():
    layer = qnn.QuantLinear(64, 3, weight_quant=GROUP_WEIGHTS["mx_e4m3"])
    layer.weight.data[1, 32:] = 0
    assert layer.quant_weight().scale_[1, 1].item() == pytest.approx(3.9e-13, rel=1e-2)
    with pytest.warns(UserWarning, match="head.weight: 1 groups of zeros have the scale 3.91e-13"):
        converted = mx.from_brevitas(nn.ModuleDict({"head": layer}))["head"]
    assert converted.weight_scale[1, 1] == 2.0**-127 and not converted.quant_weight().value[1, 32:].any()


# --- activations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GROUP_ACTIVATIONS)
def test_run_time_groups_keep_their_bits(name):
    layer = qnn.QuantIdentity(act_quant=variant(GROUP_ACTIVATIONS[name], group_dim=-1))
    converted = mx.from_brevitas(layer.eval())
    x = rows(400, 70, seed=3)
    x[1], x[2, 5], x[3, 69], x[4] = -0.0, torch.nan, torch.inf, 1e38
    assert_same_bits(layer(x), converted(x))


def hard_rows() -> torch.Tensor:
    x = rows(400, 70, seed=3)
    x[1], x[2, 5], x[3, 69], x[4] = -0.0, torch.nan, torch.inf, 1e38
    x[5:9], x[9:13] = x[5:9].abs() + 1, -x[9:13].abs() - 1
    return x


@pytest.mark.parametrize("rank", [3, 4])
def test_scales_of_keys_and_values_keep_their_bits(rank):
    """As the examples of Brevitas set them up for attention: one for all values along the dimension before the last."""
    permuted, kept = ((0, 1, 3, 2), 2) if rank == 4 else ((0, 2, 1), 1)
    act = RUN_TIME_ACTIVATIONS["int8_row"].let(
        dynamic_scaling_broadcastable_fn=lambda x, shape: x.view(*shape[:kept], 1, shape[-1]), permute_dims=permuted
    )
    layer = qnn.QuantIdentity(act_quant=act).eval()
    x = hard_rows()[:360].reshape((4, 5, 18, 70) if rank == 4 else (20, 18, 70))
    assert_same_bits(layer(x), mx.from_brevitas(layer)(x))


@pytest.mark.parametrize("name", RUN_TIME_ACTIVATIONS)
def test_scales_and_zero_points_found_at_run_time_keep_their_bits(name):
    layer = qnn.QuantIdentity(act_quant=RUN_TIME_ACTIVATIONS[name]).eval()
    converted = mx.from_brevitas(layer)
    x = hard_rows()
    inputs = [x, x[:50], x[200:300].reshape(5, 20, 70), x[5:9], x[9:13].reshape(2, 1, 2, 70), x[:1], x[20:21]]
    for x in inputs:
        assert_same_bits(layer(x), converted(x), tuple(x.shape))


def test_groups_with_whole_zero_points_found_at_run_time_are_refused_by_name():
    """Brevitas itself makes values of a wrong shape, or fails."""
    act = RUN_TIME_ACTIVATIONS["uint8_groups"].let(quantize_zero_point=True)
    with pytest.raises(UnsupportedError, match=r"act: Brevitas makes values of shape .*quantize_zero_point=False"):
        mx.from_brevitas(qnn.QuantIdentity(act_quant=act))


def test_other_shapes_of_run_time_scales_are_refused_by_name():
    by_column = RUN_TIME_ACTIVATIONS["int8_row"].let(
        dynamic_scaling_broadcastable_fn=lambda x, shape: x.view(1, shape[-1]), permute_dims=(1, 0)
    )
    with pytest.raises(UnsupportedError, match=r"act: a run-time scale of shape \(1, 3\) for a tensor \(2, 3\)"):
        mx.from_brevitas(qnn.QuantIdentity(act_quant=by_column))


def log2_is_right(amax: torch.Tensor) -> torch.Tensor:
    """Where float32 log2 does not misround across a whole number (Brevitas takes it, we read exponent bits)."""
    exact = torch.frexp(amax).exponent - 1
    whole = torch.frexp(amax).mantissa == 0.5
    ours, theirs = exact.float(), torch.log2(amax)
    return (torch.floor(theirs) == ours) & ((theirs == ours) == whole)


@pytest.mark.parametrize("name", [n for n in MX_ACTIVATIONS if not n.endswith(("round", "midmax"))])
def test_mx_scales_differ_from_brevitas_only_where_its_log2_misrounds(name):
    exponents = torch.arange(-33, 120).repeat_interleave(129)
    offsets = torch.arange(-64, 65).repeat(153)
    amax = (((exponents + 127) << 23) + offsets)[65:].int().view(torch.float32)
    x = torch.zeros(len(amax), 32)
    x[:, 7] = amax
    layer = qnn.QuantIdentity(act_quant=variant(MX_ACTIVATIONS[name], group_dim=-1), return_quant_tensor=True).eval()
    theirs = layer(x).scale_.reshape(-1)
    quantizer = mx.from_brevitas(layer).act_quant
    ours = quantizer.scale(x).reshape(len(amax), -1)[:, 0]
    theirs = theirs.reshape(len(amax), -1)[:, 0]
    right = log2_is_right(amax)
    assert 0.5 < right.float().mean() < 1
    assert torch.equal(ours[right], theirs[right])
    if not name.endswith("ceil"):
        misread = torch.floor(torch.log2(amax)) != torch.frexp(amax).exponent - 1
        assert torch.equal(ours != theirs, misread) and torch.equal(2 * ours[misread], theirs[misread])


@pytest.mark.parametrize("name", [n for n in MX_ACTIVATIONS if n.endswith(("round", "midmax"))])
def test_rounded_mx_scales_differ_from_brevitas_only_beside_a_step(name):
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint((127 - 33) << 23, (127 + 110) << 23, (200_000,), generator=generator)
    x = torch.zeros(len(bits), 32)
    x[:, 0] = bits.int().view(torch.float32)
    layer = qnn.QuantIdentity(act_quant=variant(MX_ACTIVATIONS[name], group_dim=-1), return_quant_tensor=True).eval()
    quantizer = mx.from_brevitas(layer).act_quant
    wrong = quantizer.scale(x).reshape(-1) != layer(x).scale_.reshape(-1)
    assert not (wrong & ~rules.known_difference(x, quantizer.rule)).any() and wrong.float().mean() < 1e-4


def test_tiny_groups_stop_at_a_power_of_two_by_name():
    layer = qnn.QuantIdentity(act_quant=variant(MX_ACTIVATIONS["mx_e4m3"], group_dim=-1)).eval()
    converted = mx.from_brevitas(layer)
    scale = converted.act_quant.scale(torch.tensor([[0.0], [1e-20], [2.0**-34], [2.0**-33], [1.0]]))
    assert scale.flatten().tolist() == [2.0**-42, 2.0**-42, 2.0**-42, 2.0**-41, 2.0**-8]
    assert "act: scales stop at 2**-42" in all_notes(converted)


@pytest.mark.parametrize("name", PLAIN_ACTIVATIONS)
def test_activations_without_groups_keep_their_bits(name):
    layer = settled(qnn.QuantIdentity(act_quant=PLAIN_ACTIVATIONS[name]), rows(20, 70))
    converted = mx.from_brevitas(layer)
    x = rules.edge_groups(16)
    assert_equal_bits(converted(x).detach().numpy(), layer(x).detach().numpy())


@pytest.mark.parametrize("kind", ["Identity", "ReLU", "Sigmoid", "Tanh", "HardTanh", "HardSwish"])
@pytest.mark.parametrize("act", [mx_quant_ocp.MXInt8Act, bq.Int8ActPerTensorFloat], ids=["mx", "plain"])
def test_activation_layers_keep_their_bits(kind, act):
    options = {"min_val": -1.0, "max_val": 1.0} if kind == "HardTanh" else {}
    if act is mx_quant_ocp.MXInt8Act:
        options["group_dim"] = 1
    assert_converts(getattr(qnn, f"Quant{kind}")(act_quant=act, **options), rows(3, 40, 5, 5))


def test_a_scale_per_channel_keeps_its_bits():
    layer = qnn.QuantReLU(
        scaling_per_output_channel=True,
        per_channel_broadcastable_shape=(1, 40, 1, 1),
        scaling_stats_permute_dims=(1, 0, 2, 3),
    )
    assert assert_converts(layer, rows(3, 40, 5, 5)).act_scale.shape == (1, 40, 1, 1)


# --- layers ---------------------------------------------------------------------------------------------------


def image(channels: int) -> torch.Tensor:
    return rows(2, channels, 7, 7, seed=5)


LAYERS = {
    "conv1d": (lambda q: qnn.QuantConv1d(40, 24, 3, dilation=2, **q), image(40).flatten(2)),
    "conv2d": (lambda q: qnn.QuantConv2d(40, 24, 3, padding=1, stride=2, **q), image(40)),
    "conv3d": (lambda q: qnn.QuantConv3d(40, 8, 2, **q), image(40)[..., None].repeat(1, 1, 1, 1, 3)),
    "conv2d_grouped": (lambda q: qnn.QuantConv2d(64, 40, 3, groups=2, **q), image(64)),
    "conv2d_depthwise": (lambda q: qnn.QuantConv2d(40, 40, 3, groups=40, **q), image(40)),
    "conv_transpose1d": (lambda q: qnn.QuantConvTranspose1d(40, 24, 3, **q), image(40).flatten(2)),
    "conv_transpose2d": (
        lambda q: qnn.QuantConvTranspose2d(40, 24, 3, stride=2, padding=1, output_padding=1, **q),
        image(40),
    ),
}


@pytest.mark.parametrize("quantizers", [E4M3, INT8, PLAIN], ids=["mx_e4m3", "mx_int8", "plain"])
@pytest.mark.parametrize("name", LAYERS)
def test_convolutions_keep_their_bits(name, quantizers):
    make, x = LAYERS[name]
    torch.manual_seed(2)
    converted = assert_converts(make(quantizers), x)
    if quantizers is not PLAIN:
        transposed = "transpose" in name
        assert converted.quant_weight().axis == (0 if transposed else 1)
        assert converted.weight_scale.ndim == converted.weight.ndim


@pytest.mark.parametrize("padding", [{"padding": "same", "stride": 2}, {"padding": 1, "padding_mode": "circular"}])
def test_padding_modes_keep_their_bits(padding):
    assert_converts(qnn.QuantConv2d(40, 24, 3, weight_quant=mx_quant_ocp.MXInt8Weight, **padding), image(40))


@pytest.mark.parametrize("group_dim", [0, 1])
def test_group_dim_is_honoured(group_dim):
    layer = qnn.QuantLinear(70, 40, weight_quant=GROUP_WEIGHTS["mx_e4m3"], weight_group_dim=group_dim)
    scale = assert_converts(layer, rows(3, 70)).weight_scale
    assert scale.shape == ((2, 70) if group_dim == 0 else (40, 3))


TRUNCATIONS = {
    "floor": bq.TruncTo8bit,
    "round": bq.RoundTo8bit,
    "four_bits": variant(bq.TruncTo8bit, bit_width=4),
    "saturate": scaled_int.ShiftRoundSaturateTo8bit,
}


@pytest.mark.parametrize("act", ["int8", "uint8", "uint8_asymmetric"])
@pytest.mark.parametrize("pool", [qnn.TruncAvgPool2d, qnn.TruncAdaptiveAvgPool2d])
@pytest.mark.parametrize("name", TRUNCATIONS)
def test_pools_that_drop_low_bits_keep_their_bits(name, pool, act):
    kernel = qnn.QuantIdentity(act_quant=PLAIN_ACTIVATIONS[act], return_quant_tensor=True)
    model = nn.Sequential(kernel, pool(2, trunc_quant=TRUNCATIONS[name], return_quant_tensor=False))
    assert_converts(model, image(12)[..., :6, :6])


def test_an_adaptive_pool_takes_the_size_it_was_converted_for():
    kernel = qnn.QuantIdentity(act_quant=PLAIN_ACTIVATIONS["int8"], return_quant_tensor=True)
    model = nn.Sequential(kernel, qnn.TruncAdaptiveAvgPool2d(1, return_quant_tensor=False))
    converted = assert_converts(model, image(12)[..., :6, :6])
    with pytest.raises(ShapeError, match=r"TruncAdaptiveAvgPool2d: the input is \(7, 7\) large, expected \(6, 6\)"):
        converted(image(12))


def test_pools_average_only_what_is_no_quant_tensor():
    pool = qnn.TruncAvgPool2d(2, return_quant_tensor=False)
    model = nn.Sequential(qnn.QuantIdentity(act_quant=PLAIN_ACTIVATIONS["int8"]), pool)
    converted = assert_converts(model, image(12))
    assert converted[1].trunc_quant is None


def test_a_pool_whose_scale_follows_the_input_is_refused_by_name():
    act = RUN_TIME_ACTIVATIONS["int8_tensor"]
    model = nn.Sequential(qnn.QuantIdentity(act_quant=act, return_quant_tensor=True), qnn.TruncAvgPool2d(2)).eval()
    with pytest.raises(UnsupportedError, match="1.trunc: its scale changes with the input"):
        mx.from_brevitas(model, (image(12),))


def test_input_and_output_quantizers_keep_their_bits():
    act = variant(mx_quant_ocp.MXInt8Act, group_dim=-1)
    assert_converts(qnn.QuantLinear(70, 64, output_quant=act, **INT8), rows(3, 70))


def test_an_embedding_keeps_its_bits():
    layer = qnn.QuantEmbedding(20, 40, weight_quant=GROUP_WEIGHTS["mx_e4m3"])
    assert_converts(layer, torch.randint(0, 20, (4, 6)))


def test_scale_and_bias_layers_keep_their_bits():
    assert_converts(qnn.BatchNorm2dToQuantScaleBias(40), image(40))


def test_an_accumulator_aware_weight_keeps_its_bits():
    quantizers = {"weight_quant": bq.Int8AccumulatorAwareWeightQuant, "input_quant": bq.Int8ActPerTensorFloat}
    assert_converts(qnn.QuantLinear(70, 33, **quantizers), rows(4, 70))


class Attention(nn.Module):
    def __init__(self, packed: bool):
        super().__init__()
        self.attention = qnn.QuantMultiheadAttention(32, 4, batch_first=True, packed_in_proj=packed)

    def forward(self, x):
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize("packed", [True, False])
def test_attention_keeps_its_bits(packed):
    assert_converts(Attention(packed), rows(2, 5, 32))


def test_one_tensor_given_three_times_stays_one():
    layer = qnn.QuantMultiheadAttention(32, 4, packed_in_proj=True)
    x = rows(2, 5, 32)
    settled(layer, x, x, x)
    assert_same_bits(layer(x, x, x)[0], mx.from_brevitas(layer, (x, x, x))(x, x, x)[0])


class Branches(nn.Module):
    """Quant tensors that travel between layers: the bias takes its scale from two layers before."""

    def __init__(self):
        super().__init__()
        self.add = qnn.QuantEltwiseAdd()
        self.act = qnn.QuantIdentity(return_quant_tensor=True)
        self.head = qnn.QuantLinear(40, 3, bias_quant=bq.Int32Bias, return_quant_tensor=True)

    def forward(self, x):
        return self.head(self.act(self.add(x, 2 * x)))


def test_a_bias_scale_from_an_earlier_layer_needs_example_inputs():
    model = settled(Branches(), rows(5, 40))
    with pytest.raises(UnsupportedError, match=r"head.bias: its scale follows the input's.*give example inputs"):
        mx.from_brevitas(model)
    assert_converts(model, rows(5, 40))


@pytest.mark.parametrize("bias", [bq.Int8Bias, bq.Int32Bias, bq.Int8BiasPerTensorFloatInternalScaling])
def test_biases_keep_their_bits_without_example_inputs(bias):
    layer = settled(qnn.QuantLinear(40, 3, bias_quant=bias, input_quant=bq.Int8ActPerTensorFloat), rows(5, 40))
    assert_same_bits(layer(rows(5, 40)), mx.from_brevitas(layer)(rows(5, 40)))


def test_shared_layers_and_shared_weights_stay_shared():
    layer = qnn.QuantLinear(32, 32, **E4M3)
    converted = assert_converts(nn.Sequential(layer, nn.ReLU(), layer), rows(3, 32))
    assert converted[0] is converted[2]


def test_layers_that_are_not_from_brevitas_stay():
    inner = nn.Sequential(qnn.QuantLinear(32, 32, **E4M3), nn.BatchNorm1d(32), nn.Linear(32, 4))
    converted = assert_converts(nn.Sequential(inner, nn.Softmax(1)), rows(30, 32))
    assert type(converted[0][1]) is nn.BatchNorm1d and type(converted[0][2]) is nn.Linear


# --- what is said ---------------------------------------------------------------------------------------------


def test_mxint8_is_named_with_the_share_that_saturates():
    layer = settled(qnn.QuantLinear(64, 8, **INT8), rows(9, 64))
    with pytest.warns(UserWarning) as caught:
        converted = mx.from_brevitas(nn.Sequential(layer), (rows(9, 64),))
    (message,) = [str(w.message) for w in caught if "from_brevitas" in str(w.message)]
    scaled = layer.weight.detach() / layer.quant_weight().scale
    expected = 100 * float(((scaled.round() > 127) | (scaled.round() < -128)).float().mean())
    assert (
        expected > 1
        and f"0.weight: Brevitas' MXInt8 scale is one bit below that of OCP MXINT8: {expected:.3g}%" in (message)
    )
    assert re.search(r"0\.input: .*: [\d.]+% of the values seen saturate; exported as trained", message)
    assert (converted[0].quant_weight().codes == -128).any()


def test_mxint8_with_a_ceil_scale_does_not_saturate_and_is_not_warned_of():
    quantizers = {
        "weight_quant": GROUP_WEIGHTS["mx_int8_ceil"],
        "input_quant": GROUP_ACTIVATIONS["mx_int8_ceil"],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "Group dim")
        mx.from_brevitas(qnn.QuantLinear(64, 8, **quantizers).eval(), (rows(4, 64),))


def test_minus_zero_is_named():
    assert "input: Brevitas' -0 has no code in this format and becomes +0" in all_notes(
        mx.from_brevitas(qnn.QuantLinear(64, 8, **INT8).eval())
    )


# --- recurrent layers -----------------------------------------------------------------------------------------


PER_CHANNEL = bq.Int8WeightPerChannelFloat
RECURRENT = {
    "rnn": (qnn.QuantRNN, {"return_quant_tensor": True}),
    "rnn_deep": (qnn.QuantRNN, {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True, "batch_first": True}),
    "rnn_shared": (qnn.QuantRNN, {"bidirectional": True, "shared_input_hidden_weights": True}),
    "lstm_per_channel": (qnn.QuantLSTM, {"bidirectional": True, "weight_quant": PER_CHANNEL}),
    "lstm_coupled": (qnn.QuantLSTM, {"coupled_input_forget_gates": True, "bias": False}),
    "lstm_float": (
        qnn.QuantLSTM,
        {f"{what}_quant": None for what in ("bias", "io", "gate_acc", "sigmoid", "tanh", "cell_state")},
    ),
}


def settled_recurrent(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(1)
    kind, options = RECURRENT[name]
    layer, x = kind(12, 16, **options), torch.randn(3, 3, 12)
    layer(x)
    layer(2 * x)
    return layer.eval(), x


@pytest.mark.parametrize("with_args", [False, True], ids=["alone", "observed"])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_keep_their_bits(name, with_args):
    layer, x = settled_recurrent(name)
    converted = mx.from_brevitas(layer, (x,) if with_args else None)
    count = 2 if isinstance(layer, qnn.QuantLSTM) else 1
    states = [torch.randn(6, 3, 16) for _ in range(count)]
    for inputs in ((x,), (x, *states)):
        theirs, ours = layer(*inputs), converted(*inputs)
        theirs, ours = ([y, *(s if type(s) is tuple else (s,))] for y, s in (theirs, ours))
        assert len(theirs) == len(ours) == 1 + count
        for a, b in zip(theirs, ours, strict=True):
            assert_same_bits(a, b, name)
    assert hasattr(ours[0], "value") == bool(RECURRENT[name][1].get("return_quant_tensor"))


def test_brevitas_itself_makes_no_recurrent_layers_of_groups():
    """So there are none to take in; this fails once it does."""
    with pytest.raises(AssertionError, match="Shared groupwise quantization is not currently supported"):
        qnn.QuantLSTM(32, 32, weight_quant=mx_quant_ocp.MXInt8Weight, bias_quant=None)


# --- what is refused ------------------------------------------------------------------------------------------


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = qnn.QuantLinear(4, 4, **E4M3)
        self.up = qnn.QuantUpsamplingBilinear2d(scale_factor=2)
        self.pool = qnn.TruncAvgPool2d(2)

    def forward(self, x):
        return self.up(self.fc(x))


def test_every_layer_that_cannot_be_converted_is_listed():
    with pytest.raises(UnsupportedError) as caught:
        mx.from_brevitas(Unknown())
    where = [name for name, _ in caught.value.problems]
    assert where == ["up", "pool.trunc"]
    assert "use nn.Upsample" in str(caught.value) and "give example inputs" in str(caught.value)


@pytest.mark.parametrize(
    "quantizer, message",
    [
        (
            variant(mx_quant_ocp.MXInt8Weight, bit_width=16),
            "16-bit integers, groupwise or under run-time scales; expected 2 to 8",
        ),
        (variant(GROUP_WEIGHTS["mx_e4m3"], exponent_bias=9), "bias 9 .*no such format"),
        (variant(GROUP_WEIGHTS["mx_e4m3"], saturating=False), "does not saturate"),
    ],
)
def test_weights_without_a_format_are_refused_by_name(quantizer, message):
    with pytest.raises(UnsupportedError, match=f"(?s)fc.weight: .*{message}"):
        mx.from_brevitas(nn.ModuleDict({"fc": qnn.QuantLinear(64, 4, weight_quant=quantizer)}))


def test_a_run_time_scale_by_another_rule_is_refused_by_name():
    odd = variant(mx_quant_ocp.MXInt8Act, group_dim=-1, scaling_stats_op="min_max", **FLOAT_SCALE)
    with pytest.raises(UnsupportedError, match="act: .* in Brevitas and .* here"):
        mx.from_brevitas(qnn.QuantIdentity(act_quant=odd))


class Doubling(qnn.QuantLinear):
    def inner_forward_impl(self, x, weight, bias):
        return 2 * super().inner_forward_impl(x, weight, bias)


def test_a_subclass_that_computes_something_else_is_refused_by_name():
    with pytest.raises(UnsupportedError, match="0: Doubling overrides inner_forward_impl"):
        mx.from_brevitas(nn.Sequential(Doubling(32, 4, **E4M3)))


def test_forward_hooks_that_are_left_out_are_named():
    model = nn.Sequential(qnn.QuantLinear(32, 4, **E4M3))
    model[0].register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="0: the layer's forward hooks are left out"):
        mx.from_brevitas(model)
    assert len(model[0]._forward_hooks) == 1


@pytest.mark.parametrize("model, message", [(nn.Linear(3, 3), "no Brevitas layer"), ("model", "expected a torch")])
def test_other_models_are_refused(model, message):
    with pytest.raises(UnsupportedError, match=message):
        mx.from_brevitas(model)
