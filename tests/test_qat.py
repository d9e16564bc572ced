"""Training: straight-through gradients under autocast, checkpointing, compilation, half precision."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import mxexport as mx
from mxexport.quant import fake_quantize
from tests.helpers import in_full

FORMATS = ("mxfp8_e4m3", "mxint8")

LAYERS = {
    "linear": (lambda w, a: mx.QuantLinear(40, 8, weight=w, activation=a), (4, 40)),
    "conv1d": (lambda w, a: mx.QuantConv1d(40, 8, 3, weight=w, activation=a), (4, 40, 9)),
    "conv2d": (lambda w, a: mx.QuantConv2d(40, 8, 3, groups=2, weight=w, activation=a), (2, 40, 5, 5)),
    "conv3d": (lambda w, a: mx.QuantConv3d(40, 8, 2, weight=w, activation=a), (2, 40, 3, 3, 3)),
    "transposed": (lambda w, a: mx.QuantConvTranspose2d(40, 8, 3, weight=w, activation=a), (2, 40, 4, 4)),
    "embedding": (lambda w, a: mx.QuantEmbedding(11, 40, weight=w), None),
    "relu": (lambda w, a: mx.QuantReLU(a), (2, 40, 4, 4)),
    "add": (lambda w, a: Pair(mx.QuantAdd(a)), (4, 40)),
    "matmul": (lambda w, a: Pair(mx.QuantMatMul(a)), (40, 40)),
    "attention": (lambda w, a: Self(mx.QuantMultiheadAttention(64, 4, weight=w, activation=a)), (5, 2, 64)),
}


class Pair(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, 2 * x.flip(0))


class Self(Pair):
    def forward(self, x):
        return self.layer(x, x, x)[0]


def made(name: str, formats=FORMATS) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make(*formats)
    if shape is None:
        return layer, torch.randint(0, 11, (4, 5))
    return layer, torch.randn(shape, requires_grad=True)


def gradients(function, layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The result and the gradients of a weighted sum of it, for the input and every parameter that has one."""
    layer.zero_grad()
    x.grad = None
    y = function(x)
    (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    leaves = [x, *layer.parameters()]
    return y.detach(), [leaf.grad.clone() for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("name", LAYERS)
def test_every_parameter_and_input_gets_a_gradient(name):
    layer, x = made(name)
    _, found = gradients(layer, layer, x)
    assert len(found) == len(list(layer.parameters())) + x.is_floating_point()
    assert all(g.isfinite().all() and g.any() for g in found)


def test_gradient_is_that_of_the_product_of_quantized_operands():
    layer, x = made("linear", ("mxint8", "mxint8"))
    y = layer(x)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    quantized_x, quantized_weight = fake_quantize(x, "mxint8"), fake_quantize(layer.weight, "mxint8")
    inside = {}
    for key, t in (("x", x), ("weight", layer.weight)):
        probe = t.detach().clone().requires_grad_()
        fake_quantize(probe, "mxint8").sum().backward()
        inside[key] = probe.grad
        assert set(probe.grad.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(x.grad, upstream @ quantized_weight * inside["x"])
    torch.testing.assert_close(layer.weight.grad, upstream.T @ quantized_x * inside["weight"])


def test_saturated_values_get_no_gradient():
    """Under `floor`, 1.99 beside 1.5 in an mxint4 group lies beyond the largest code, 7/4, by more than half a step."""
    layer = mx.QuantLinear(2, 1, bias=False, weight="mxint4", activation=None)
    layer.weight.data = torch.tensor([[1.99, 1.5]])
    layer(torch.ones(1, 2)).backward()
    assert layer.weight.grad.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_multiplies_in_bfloat16_and_leaves_the_quantizers_exact(name):
    layer, x = made(name)
    plain, expected = gradients(layer, layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, found = gradients(layer, layer, x)
    assert (mixed.float() - plain).abs().max() <= 0.03 * plain.abs().max()
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() <= 0.05 * b.norm()


def test_autocast_computes_scales_and_codes_in_float32():
    layer, _ = made("linear")
    with torch.autocast("cpu", torch.bfloat16):
        q = layer.quant_weight()
        y = layer(torch.randn(2, 40))
    assert y.dtype == torch.bfloat16 and q.scale_.dtype == q.value_.dtype == torch.float32
    assert torch.equal(q.value, layer.quant_weight().value)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_bits(name, reentrant):
    layer, x = made(name)
    if reentrant and not x.is_floating_point():
        pytest.skip("a reentrant checkpoint needs an input with a gradient")
    plain, expected = gradients(layer, layer, x)
    again, found = gradients(lambda t: checkpoint(layer, t, use_reentrant=reentrant), layer, x)
    assert torch.equal(plain, again)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# --- torch.compile --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_layers_equal_eager_ones(name):
    torch.compiler.reset()
    layer, x = made(name)
    plain, expected = gradients(layer, layer, x)
    compiled, found = gradients(torch.compile(layer, fullgraph=True, backend="aot_eager"), layer, x)
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mxfp6_e3m2", "mxint8", "int4_g16", "uint4_g16", "float_fnuz_e4m3_g32"])
def test_compiled_quantizers_give_equal_bits(name):
    torch.compiler.reset()
    layer, x = mx.QuantIdentity(name), torch.randn(7, 70)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for data in (x, torch.randn(9, 70)):  # the second shape makes a size symbolic
        assert torch.equal(compiled(data), layer(data))


@in_full
def test_inductor_trains_a_model_to_the_same_loss():
    torch.compiler.reset()
    model, other = small_net(), small_net()
    assert train(model, torch.compile(model), 3) == pytest.approx(train(other, other, 3), rel=1e-3)


# --- models ---------------------------------------------------------------------------------------------------


def small_net(**formats) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 16), nn.ReLU(),
        nn.Linear(16, 10),
    )  # fmt: skip
    return mx.quantize_model(model, *FORMATS, **formats)


def train(model: nn.Module, function, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, 12, 12, generator=generator)
    y = torch.randint(0, 10, (32,), generator=generator)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(function(x).float(), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("options", [{}, {"fold_batch_norm": True}, {"scale_rule": "even"}], ids=str)
def test_a_convolutional_network_learns(options):
    model = small_net(**options)
    losses = train(model, model, 25)
    assert losses[-1] < 0.3 * losses[0]


@in_full
def test_a_transformer_with_tied_weights_learns():
    torch.manual_seed(0)
    embed = nn.Embedding(16, 32)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True), 1)
    head = nn.Linear(32, 16)
    head.weight = embed.weight
    model = mx.quantize_model(nn.Sequential(embed, encoder, head), "mxfp6_e2m3", "mxfp8_e4m3")
    tokens = torch.randint(0, 16, (16, 8))
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flip(1).flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0] and model[0].weight is model[2].weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_half_precision_models_keep_their_dtype(name, dtype):
    layer, x = made(name)
    half = copy.deepcopy(layer).to(dtype)
    data = x.detach().to(dtype).requires_grad_() if x.is_floating_point() else x
    y, found = gradients(half, half, data)
    assert y.dtype == dtype and {g.dtype for g in found} == {dtype}
    with torch.no_grad():
        widened = copy.deepcopy(half).float()(data.detach().float() if data.is_floating_point() else data)
    assert (y.float() - widened).abs().max() <= 0.04 * widened.abs().max()


def test_a_bfloat16_model_learns():
    model = small_net().bfloat16()
    losses = train(model, lambda x: model(x.bfloat16()), 15)
    assert losses[-1] < 0.5 * losses[0]


def test_copies_and_pickles_are_independent_and_equal(tmp_path):
    model, x = small_net().eval(), torch.randn(2, 3, 12, 12)
    expected = model(x)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert torch.equal(other(x), expected)
        assert str(mx.conversion_report(other)) == str(mx.conversion_report(model))
        other[0].weight.data.zero_()
    assert torch.equal(model(x), expected)


def test_state_dicts_go_round(tmp_path):
    model, fresh = small_net(), small_net()
    train(model, model, 3)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    fresh.load_state_dict(torch.load(tmp_path / "state.pt"))
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


# --- what checkpoints, casts and compilers do to scales -----------------------------------------------------------

STORED = [
    ("mxint8", "static"),
    ("mxfp4_e2m1", "mse"),
    ("mxint8", "learned"),
    ("uint8_g32", "learned"),
    ("int8", "learned"),
]


def two_layers(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))


@pytest.mark.parametrize("fmt, source", STORED)
def test_a_checkpoint_of_the_float_model_loads_strictly_and_brings_new_scales(fmt, source):
    spec, other = mx.QuantSpec(fmt, source=source), two_layers(1)
    other[0].weight.data *= 100
    quantized = mx.quantize_model(two_layers(), spec, mx.QuantSpec("mxint8", source="learned"))
    quantized.load_state_dict(other.state_dict(), strict=True)
    expected = mx.quantize_model(other, spec, mx.QuantSpec("mxint8", source="learned"))
    x = torch.randn(4, 64)
    assert torch.equal(quantized(x), expected(x))


def test_attention_takes_a_float_checkpoint_too():
    spec = mx.QuantSpec("mxint8", source="learned")
    attention, x = nn.MultiheadAttention(32, 2, kdim=16, vdim=8), torch.randn(5, 3, 32)
    quantized = mx.quantize_model(nn.MultiheadAttention(32, 2, kdim=16, vdim=8), spec, None)
    quantized.load_state_dict(attention.state_dict(), strict=True)
    expected = mx.quantize_model(attention, spec, None)
    assert torch.equal(quantized(x, x[..., :16], x[..., :8])[0], expected(x, x[..., :16], x[..., :8])[0])


def test_scales_of_trained_activations_are_missed_in_a_float_checkpoint():
    quantized = mx.quantize_model(two_layers(), None, mx.QuantSpec("mxint8", source="learned"))
    quantized(torch.randn(4, 64))
    with pytest.raises(RuntimeError, match="Missing key.*0.input_quant.raw_scale"):
        quantized.load_state_dict(two_layers().state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("source", ["static", "learned"])
def test_stored_scales_stay_float32_when_the_model_is_cast(dtype, source):
    model = mx.quantize_model(two_layers(), *[mx.QuantSpec("mxint8", source=source)] * 2)
    model(torch.randn(4, 64) * 1e-20)
    mx.quant.freeze_scales(model)
    before = {n: t.clone() for n, t in model.state_dict().items() if "scale" in n}
    assert len(before) == 4 and before["0.input_quant." + ("stored" if source == "static" else "raw") + "_scale"].max()
    after = model.to(dtype).state_dict()
    assert all(torch.equal(after[n], t) and after[n].dtype == torch.float32 for n, t in before.items())
    assert model[0].weight.dtype == dtype and model.eval()(torch.randn(4, 64, dtype=dtype)).dtype == dtype


def test_compiled_models_start_learned_scales_from_the_first_tensor():
    spec, x = mx.QuantSpec("mxint8", source="learned"), torch.randn(4, 64)
    eager = mx.QuantLinear(64, 8, weight=None, activation=spec)
    inner = copy.deepcopy(eager)
    compiled = torch.compile(inner, backend="eager")
    for _ in range(2):
        assert torch.equal(eager(x), compiled(x))
    assert torch.equal(eager.input_quant.raw_scale, inner.input_quant.raw_scale) and inner.input_quant.initialized


def test_weights_without_data_have_no_scale_to_store():
    with pytest.raises(mx.errors.FormatError, match="0: scale source 'learned' .* no data on device meta"):
        mx.quantize_model(nn.Sequential(nn.Linear(4, 4, device="meta")), mx.QuantSpec("mxint8", source="learned"))


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default_dtype(request):
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("fmt, source", [("nvfp4", "dynamic"), ("uint4_g32_s6x8", "dynamic"), *STORED])
def test_the_default_dtype_of_torch_changes_no_bit(fmt, source, default_dtype):
    x, spec = torch.randn(64, 64, dtype=torch.float32), mx.QuantSpec(fmt, source=source)
    act = spec if source in ("dynamic", "learned") else None
    layer = nn.Linear(64, 8, dtype=torch.float32)
    odd = mx.quantize_model(layer, spec, act)
    y = odd(x)
    torch.set_default_dtype(torch.float32)
    assert torch.equal(y, mx.quantize_model(layer, spec, act)(x)) and y.dtype == torch.float32
    assert all(t.dtype == torch.float32 for name, t in odd.state_dict().items() if name.endswith("_scale"))


def test_a_model_quantized_in_inference_mode_trains():
    with torch.inference_mode():
        model = mx.quantize_model(two_layers(), mx.QuantSpec("mxint8", source="learned"))
    model(torch.randn(4, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_learned_scales_that_have_not_started_are_dynamic_and_never_exported(tmp_path):
    model, x = (
        mx.quantize_model(two_layers(), "mxint8", mx.QuantSpec("mxint8", source="learned")).eval(),
        torch.randn(4, 64),
    )
    assert torch.equal(model(x), mx.quantize_model(two_layers(), "mxint8", "mxint8")(x))
    with pytest.raises(mx.errors.UnsupportedError, match="learned scale of mxint8 has not started; run data through"):
        mx.export(model, (x,), tmp_path / "m.onnx")
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    model.train()(x)
    average.update_parameters(model)
    assert torch.equal(average.eval()(x), model.eval()(x))
    mx.export(average.module, (x,), tmp_path / "m.onnx")
