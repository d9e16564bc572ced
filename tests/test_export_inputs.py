"""Inputs and outputs of every form, open dimensions, half precision."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import OptionError, UnsupportedError
from mxexport.model import graph
from mxexport.numbers import bits
from mxexport.quant import fake_quantize
from mxexport.running import executors, verification
from tests.helpers import assert_equal_up_to_turned_codes


class Several(nn.Module):
    """Positional, optional and keyword-only inputs; a dict of outputs with a pair in it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(40, 8), nn.Linear(40, 8)

    def forward(self, x, y=None, *, factor=None):
        hidden = self.a(x) if y is None else self.a(x) + self.b(y)
        hidden = hidden if factor is None else hidden * factor
        return {"hidden": hidden, "more": (hidden.relu(), hidden.sum(-1))}


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(40, 8)

    def forward(self, batch):
        return self.fc(batch["x"]) + batch["pair"][0]


class Sequence(nn.Module):
    """Hand-written attention whose products are quantized, too; any length."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.qkv = nn.Embedding(50, 64), nn.LayerNorm(64), nn.Linear(64, 192)
        self.scores, self.context = mx.QuantMatMul("mxint8"), mx.QuantMatMul("mxfp8_e4m3")

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = (t.unflatten(-1, (4, 16)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        attention = torch.softmax(self.scores(q * 0.25, k.transpose(-2, -1)), -1)
        return x + nn.functional.gelu(self.context(attention, v).transpose(1, 2).flatten(2))


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(40, 8)

    def forward(self, x):
        return self.fc(x.reshape(2, 40))


def quantized(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return mx.quantize_model(model, "mxfp8_e4m3", "mxint8").eval()


def input_shapes(path) -> dict[str, list]:
    values = onnx.load(path).graph.input
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_inputs_by_keyword(tmp_path):
    model, x, y = quantized(Several()), torch.randn(1, 40), torch.randn(1, 40)
    mx.export(model, (x,), tmp_path / "m.onnx", kwargs={"factor": torch.tensor(2.0), "y": y})
    assert input_shapes(tmp_path / "m.onnx") == {"x": ["batch", 40], "y": ["batch", 40], "factor": []}
    x, y = torch.randn(5, 40), torch.randn(5, 40)
    feeds = {"x": x.numpy(), "y": y.numpy(), "factor": np.float32(2)}
    expected = model(x, y, factor=torch.tensor(2.0))
    found = executors.run(tmp_path / "m.onnx", feeds)
    assert list(found) == ["hidden", "more.0", "more.1"]
    for actual, wanted in zip(found.values(), (expected["hidden"], *expected["more"]), strict=True):
        np.testing.assert_allclose(actual, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_dict_of_inputs_means_keywords(tmp_path):
    mx.export(quantized(Several()), {"y": torch.randn(1, 40), "x": torch.randn(1, 40)}, tmp_path / "m.onnx")
    assert set(input_shapes(tmp_path / "m.onnx")) == {"x", "y"}


def test_a_dict_inside_the_tuple_is_one_input(tmp_path):
    model = quantized(Nested())
    mx.export(model, ({"x": torch.randn(1, 40), "pair": (torch.randn(1, 8), 3)},), tmp_path / "m.onnx")
    assert [shape[0] for shape in input_shapes(tmp_path / "m.onnx").values()] == ["batch", "batch"]
    x, bias = torch.randn(4, 40), torch.randn(4, 8)
    (found,) = executors.run(tmp_path / "m.onnx", (x.numpy(), bias.numpy())).values()
    expected = model({"x": x, "pair": (bias, 3)}).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "shapes",
    [{"tokens": {0: "batch", 1: "sequence"}}, ({0: torch.export.Dim("n"), 1: torch.export.Dim("s", max=64)},)],
    ids=["by name", "Dim"],
)
def test_batch_and_sequence_stay_open(tmp_path, shapes):
    model = quantized(Sequence())
    report = mx.export(model, (torch.randint(0, 50, (1, 7)),), tmp_path / "m.onnx", dynamic_shapes=shapes)
    assert all(isinstance(d, str) for d in input_shapes(tmp_path / "m.onnx")["tokens"])
    assert {layer.groups for layer in report.layers if layer.bytes is None} == {None}
    for batch, length in ((3, 11), (1, 40)):  # 40 keys: a whole group and a short one
        tokens = torch.randint(0, 50, (batch, length))
        (found,) = executors.run(tmp_path / "m.onnx", tokens.numpy()).values()
        assert_equal_up_to_turned_codes(found, model(tokens).detach().numpy())
        counted = verification.count_quantizer_differences(graph.load(tmp_path / "m.onnx"), tokens.numpy())
        assert len(counted) >= 12 and not any(counted.values()), counted


def test_a_batch_the_model_fixes_is_refused_unless_asked_for(tmp_path):
    with pytest.raises(UnsupportedError, match="static shape of 2"):
        mx.export(quantized(Fixed()), (torch.randn(2, 40),), tmp_path / "m.onnx")
    mx.export(quantized(Fixed()), (torch.randn(2, 40),), tmp_path / "m.onnx", dynamic_batch=False)
    assert input_shapes(tmp_path / "m.onnx") == {"x": [2, 40]}


def test_inputs_that_do_not_fit_are_named(tmp_path):
    model, tokens = quantized(Sequence()), torch.randint(0, 50, (2, 7))
    for arguments, message in (
        ({"args": (tokens, 1)}, "do not fit Sequence.forward.tokens.: too many positional"),
        ({"args": {"token": tokens}}, "do not fit Sequence.forward.tokens.: missing a required argument: 'tokens'"),
        ({"args": (tokens,), "dynamic_shapes": ({2: "batch"},)}, "dimension 2 of an input with shape .2, 7."),
        ({"args": (tokens,), "opset": 17}, "opset 17: expected 18 to 26"),
    ):
        with pytest.raises(OptionError, match=message):
            mx.export(model, path=tmp_path / "m.onnx", **arguments)
    assert not list(tmp_path.iterdir())


def test_weights_are_never_inputs(tmp_path):
    mx.export(quantized(Sequence()), (torch.randint(0, 50, (2, 7)),), tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    assert [value.name for value in proto.graph.input] == ["tokens"]


# --- half precision -------------------------------------------------------------------------------------------


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3), mx.QuantReLU("mxfp6_e2m3")
        self.down = nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, x):
        return self.down(self.act(self.conv(x)))


HALVES = {
    "sequence": (Sequence, lambda: torch.randint(0, 50, (2, 7))),
    "convolution": (Convolution, lambda: torch.randn(2, 3, 6, 6)),
}


@pytest.fixture(scope="module", params=[(m, d) for m in HALVES for d in ("float16", "bfloat16")], ids=str)
def half(request, tmp_path_factory):
    (make, example), dtype = HALVES[request.param[0]], getattr(torch, request.param[1])
    model = quantized(make()).to(dtype)
    x = example()
    x = x.to(dtype) if x.is_floating_point() else x
    path = tmp_path_factory.mktemp("half") / "m.onnx"
    report = mx.export(model, (x,), path)
    return model, dtype, x, path, report


def test_quantizers_of_half_models_return_the_bits_of_torch(half):
    """What torch's own quantizer makes of the half-precision input that the file's quantizer saw."""
    model, dtype, x, path, _ = half
    array = x.float().numpy() if x.is_floating_point() else x.numpy()
    loaded = graph.load(path)
    assert not any(verification.count_quantizer_differences(loaded, array).values())
    nodes = [n for n in loaded.graph if graph.is_ours(n, graph.QUANTIZERS)]
    known = {name: value.const_value.numpy() for name, value in loaded.graph.initializers.items()}
    wanted = [v.name for n in nodes for v in (n.inputs[0], n.outputs[0]) if v.name not in known]
    seen = known | executors.run(path, array, list(dict.fromkeys(wanted)))
    for node in nodes:
        given = torch.tensor(seen[node.inputs[0].name])
        narrow = given.to(dtype)
        assert torch.equal(narrow.float(), given), node.name  # the Cast in front was exact
        fmt = graph.quantizer_format(node).name
        expected = fake_quantize(narrow, fmt, node.attributes["axis"].value)
        actual = torch.from_numpy(seen[node.outputs[0].name]).to(dtype)
        assert bits.equal_bits(actual.float().numpy(), expected.detach().float().numpy()).all(), node.name


def test_scales_of_half_models_are_float32(half):
    model, _, _, path, report = half
    scales = [n.inputs[1] for n in graph.load(path).graph if graph.is_ours(n, graph.QUANTIZERS)]
    assert scales and {str(s.dtype) for s in scales} == {"FLOAT"}
    names = {layer.name for layer in report.layers if layer.bytes is not None}
    assert names == {f"{n}.weight_quant" for n, m in model.named_modules() if hasattr(m, "weight")} - {
        "norm.weight_quant"
    }


def test_half_models_compute_what_torch_computes(half):
    model, dtype, x, path, report = half
    array = x.float().numpy() if x.is_floating_point() else x.numpy()
    (found,) = executors.run(path, array).values()
    with torch.no_grad():
        expected = model(x).float().numpy()
    assert found.dtype == (np.float16 if dtype == torch.float16 else np.float32)
    assert "rounded after every operation" in report.notes[0][1]
    scale = np.abs(expected).max()  # a rounding that differs may flip a code
    assert np.abs(found - expected).max() < 0.05 * scale and (np.abs(found - expected) < 0.01 * scale).mean() > 0.9


def test_bfloat16_files_round_their_inputs(tmp_path):
    model = mx.quantize_model(nn.Sequential(nn.Linear(40, 4)), "mxint8", None).bfloat16().eval()
    mx.export(model, (torch.randn(2, 40).bfloat16(),), tmp_path / "m.onnx")
    x = torch.randn(3, 40)
    (found,) = executors.run(tmp_path / "m.onnx", x.numpy()).values()
    (rounded,) = executors.run(tmp_path / "m.onnx", x.bfloat16().float().numpy()).values()
    assert (found == rounded).all() and (torch.from_numpy(found).bfloat16().float().numpy() == found).all()
