"""Products of two activations in a model's own code: quantized with attention=True, named in the report without."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mxexport as mx
from mxexport.errors import FormatError, UnsupportedError
from mxexport.model import graph
from mxexport.running import verification
from tests.helpers import assert_equal_up_to_turned_codes

A8, A4 = "mxfp8_e4m3", "mxint4"


def q8(x: torch.Tensor, axis: int) -> torch.Tensor:
    return mx.quantize(x, A8, axis=axis).dequantize()


class Attention(nn.Module):
    """timm's in small; `attend` is what the kinds below differ in."""

    def __init__(self, width: int = 64, heads: int = 4):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, **masks):
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.attend(q, k, v, **masks).transpose(1, 2).reshape(n, length, width))


class Fused(Attention):
    def attend(self, q, k, v, **masks):
        return F.scaled_dot_product_attention(q, k, v, **masks)


class Eager(Attention):
    def attend(self, q, k, v):
        return (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v


class Flat(Attention):
    """With bmm, heads beside the batch."""

    def attend(self, q, k, v):
        heads = q.shape[:2]
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        attention = torch.baddbmm(torch.empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=self.scale).softmax(-1)
        return torch.bmm(attention, v).unflatten(0, heads)


class Einsum(Attention):
    """Tokens before heads, as some write it."""

    def attend(self, q, k, v):
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        attention = torch.einsum("b i h d, b j h d -> b h i j", q * self.scale, k).softmax(-1)
        return torch.einsum("...hij,...jhd->...ihd", attention, v).transpose(1, 2)


def attend_by_function(q, k, v, scale):
    return torch.matmul(torch.matmul(q * scale, k.mT).softmax(-1), v)


class ByFunction(Attention):
    """The products are in a function of the module around, as in transformers."""

    def attend(self, q, k, v):
        return attend_by_function(q, k, v, self.scale)


KINDS = {"fused": Fused, "eager": Eager, "flat": Flat, "einsum": Einsum, "function": ByFunction}


class Block(nn.Module):
    """Pre-norm, as vision transformers are."""

    def __init__(self, kind: type[Attention]):
        super().__init__()
        self.norm, self.attn, self.norm2 = nn.LayerNorm(64), kind(), nn.LayerNorm(64)
        self.mlp = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64))

    def forward(self, x):
        x = x + self.attn(self.norm(x))
        return x + self.mlp(self.norm2(x))


def made(kind: type[Attention]) -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(Block(kind)).eval(), torch.randn(2, 7, 64)


def by_hand(attention: Attention, x: torch.Tensor) -> torch.Tensor:
    """Every product with both operands quantized along the axis it sums over; P along the keys, V along the tokens."""
    n, length, width = x.shape
    q, k, v = attention.qkv(x).reshape(n, length, 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0)
    p = torch.softmax(q8(q * 0.25, -1) @ q8(k, -1).transpose(-2, -1), -1)
    return attention.proj((q8(p, -1) @ q8(v, -2)).transpose(1, 2).reshape(n, length, width))


@pytest.mark.parametrize("kind", KINDS)
def test_products_take_both_operands_quantized(kind):
    torch.manual_seed(0)
    attention, x = KINDS[kind]().eval(), torch.randn(2, 40, 64)
    quantized = mx.quantize_model(attention, None, A8, attention=True, formats={"qkv": None, "proj": None})
    with torch.no_grad():
        expected = by_hand(attention, x)
        if kind == "flat":  # whose scale comes behind the product: a power of two, exact at both places
            assert attention.scale == 0.25
        assert torch.equal(quantized(x), expected)
        assert not torch.allclose(quantized(x), attention(x), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_stays_a_model(kind, recwarn):
    """Names, copies, files, gradients; and float parameters load."""
    model, x = made(KINDS[kind])
    quantized = mx.quantize_model(model, "mxint8", A8, attention=True)
    y = quantized(x)
    assert list(quantized.state_dict()) == list(model.state_dict()) and isinstance(quantized[0].attn, KINDS[kind])
    assert type(model[0].attn) is KINDS[kind]
    quantized.train()(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in quantized.parameters())
    quantized.eval()
    file = io.BytesIO()
    torch.save(quantized, file)
    file.seek(0)
    for other in (copy.deepcopy(quantized), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), y)
    quantized.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(quantized(x), y) and not recwarn.list


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_holds_quantizers_of_q_k_p_and_v(kind, tmp_path):
    model, x = made(KINDS[kind])
    quantized = mx.quantize_model(model, "mxint8", A8, attention=True)
    mx.export(quantized, (x,), tmp_path / "m.onnx")
    exported = graph.load(tmp_path / "m.onnx")
    inner = [n for n in exported.graph if n.op_type == "MatMul" and "GroupwiseQuant" not in _producers(n)]
    assert len(inner) == 2 and all(_producers(n) == ["MXFloatQuant"] * 2 for n in inner)
    for node in inner:
        rank = len(node.inputs[0].shape)
        assert [graph.attributes(v.producer())["axis"] for v in node.inputs] == [rank - 1, rank - 2]
    counts = verification.count_quantizer_differences(exported, {"input": x.numpy()}, mx.run)
    assert len(counts) == 20 and not any(counts.values())
    (found,) = mx.run(tmp_path / "m.onnx", x.numpy()).values()
    with torch.no_grad():
        assert_equal_up_to_turned_codes(found, quantized(x).numpy())


def _producers(node) -> list[str]:
    """What makes the operands, transposes aside."""
    made = [v.producer() for v in node.inputs]
    while any(n is not None and n.op_type in ("Transpose", "Reshape") for n in made):
        made = [n.inputs[0].producer() if n is not None and n.op_type in ("Transpose", "Reshape") else n for n in made]
    return [n.op_type for n in made if n is not None]


def test_constant_masks_cost_one_node_in_front_of_the_softmax(tmp_path):
    """What hides no key from all queries, and no query from all keys, is gone from cleaned files."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = Fused()
            self.register_buffer("mask", torch.ones(7, 7).tril().bool())

        def forward(self, x):
            return self.attn(x, attn_mask=self.mask)

    torch.manual_seed(0)
    quantized, x = mx.quantize_model(Masked().eval(), "mxint8", A8, attention=True), torch.randn(2, 7, 64)
    mx.export(quantized, (x,), tmp_path / "m.onnx")
    mx.clean(tmp_path / "m.onnx", tmp_path / "c.onnx")
    operators = [node.op_type for node in graph.load(tmp_path / "c.onnx").graph]
    assert operators.count("Where") == 1 and operators.index("Where") == operators.index("Softmax") - 1
    (found,) = mx.run(tmp_path / "c.onnx", x.numpy()).values()
    with torch.no_grad():
        assert_equal_up_to_turned_codes(found, quantized(x).numpy())


def test_training_reduces_the_loss():
    model, x = made(Eager)
    quantized = mx.quantize_model(model, "mxint4", A4, attention=True).train()
    target, losses = torch.randn(2, 7, 64), []
    optimizer = torch.optim.Adam(quantized.parameters(), 3e-3)
    for _ in range(12):
        loss = F.mse_loss(quantized(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# --- formats and the report -----------------------------------------------------------------------------------


PRODUCTS = ("QuantMatMul", "QuantScaledDotProductAttention")


def kinds_of(report: mx.ConversionReport) -> dict[str, str | None]:
    return {c.name: c.activation for c in report.converted if c.kind in PRODUCTS}


def test_without_attention_the_report_names_the_products():
    model, x = made(Eager)
    for examples, said in (
        (None, "products of activations, if its code calls any (@), are in float; attention=True quantizes them"),
        (x, "2 products of activations (2 matmul) in float; attention=True quantizes them"),
    ):
        quantized, report = mx.quantize_model(model, example_inputs=examples, return_report=True)
        assert report.products_in_float == {"0.attn": said} and f"0.attn: {said}" in str(report)
        assert said in report._repr_html_() and said in report.to_json() and type(quantized[0].attn) is Eager
    fused = mx.quantize_model(made(Fused)[0], example_inputs=x, return_report=True)[1]
    assert fused.products_in_float == {
        "0.attn": "1 product of activations (scaled_dot_product_attention) in float; attention=True quantizes them"
    }


def test_the_report_lists_what_was_called_or_what_examples_call():
    model, x = made(Eager)
    quantized, report = mx.quantize_model(model, "mxint8", A8, attention=True, return_report=True)
    assert report.products_to_come == ["0.attn"] and "it has called none so far" in str(report)
    quantized(x)
    held = {"0.attn.product_1": A8, "0.attn.product_2": A8}
    assert kinds_of(mx.conversion_report(quantized)) == held and not report.products_to_come
    quantized(x)
    assert kinds_of(mx.conversion_report(quantized)) == held
    report = mx.quantize_model(model, "mxint8", A8, attention=True, example_inputs=x, return_report=True)[1]
    assert kinds_of(report) == held and not report.products_to_come and not report.products_in_float


def test_formats_and_exclusions_go_by_names_of_modules_and_products():
    model, x = made(Eager)
    formats = {"0.attn": {"activation": A4}, "*.product_2": A8}
    quantized = mx.quantize_model(model, attention=True, formats=formats, exclude="0.attn.product_1")
    quantized(x)
    report = mx.conversion_report(quantized)
    assert kinds_of(report) == {"0.attn.product_2": A8} and quantized[0].attn.product_1.input_quant is None
    assert report.products_in_float == {"0.attn": "product_1 in float: excluded by '0.attn.product_1'"}
    without = mx.quantize_model(model, attention=True, exclude="0.attn", example_inputs=x)
    assert type(without[0].attn) is Eager
    assert mx.conversion_report(without).products_in_float == {
        "0.attn": "2 products of activations (2 matmul) in float: excluded by '0.attn'"
    }
    with pytest.raises(UnsupportedError, match="'1.attn.product_1' matches no module"):
        mx.quantize_model(model, attention=True, formats={"1.attn.product_1": None})
    with pytest.raises(UnsupportedError, match="'0.attn.product_1' matches no module"):
        mx.quantize_model(model, formats={"0.attn.product_1": None})


STATIC = mx.QuantSpec("int8", source="static", scaling_per_output="tensor")


def test_stored_scales_need_to_know_the_products():
    model, x = made(Fused)
    quantized = mx.quantize_model(model, "mxint8", STATIC, attention=True, example_inputs=x)
    quantized(x)
    mx.freeze_scales(quantized)
    stored = [name for name in quantized.state_dict() if name.startswith("0.attn.attention_1.")]
    assert len({name.rpartition(".")[0] for name in stored}) == 4
    with torch.no_grad():
        assert (quantized(x) - model(x)).std() < 0.05 * model(x).std()
    unknown = mx.quantize_model(model, "mxint8", STATIC, attention=True)
    with pytest.raises(UnsupportedError, match="0.attn: .* attention_1, which has no static scales: give"):
        unknown(x)


def test_sensitivity_lists_products_as_layers():
    model, x = made(Eager)
    table = mx.sensitivity(model, x, None, A4, attention=True)
    by_name = {layer.name: layer for layer in table.layers}
    only = mx.quantize_model(model, None, A4, attention=True, formats={"0.attn.product_2": A4}, exclude=[
        "0.mlp", "0.attn.qkv", "0.attn.proj", "0.attn.product_1",
    ])  # fmt: skip
    with torch.no_grad():
        exact, error = model(x), model(x) - only(x)
    expected = 10 * np.log10(float((exact**2).sum() / (error**2).sum()))
    assert by_name["0.attn.product_2"].output_sqnr == pytest.approx(expected, rel=1e-4)


# --- whose products they are ----------------------------------------------------------------------------------


class Outer(nn.Module):
    """Multiplies beside modules that multiply: one of its kind, a layer that quantizes, one to be excluded."""

    def __init__(self):
        super().__init__()
        self.eager, self.matmul, self.excluded = Eager(), mx.QuantMatMul(A4), Eager()

    def forward(self, x):
        y = self.matmul(self.eager(x), x.mT)
        return torch.matmul(y, self.excluded(x)) @ x.mT


@pytest.mark.parametrize("shown", [False, True])
def test_a_product_belongs_to_the_innermost_module(shown):
    torch.manual_seed(0)
    model, x = Outer().eval(), torch.randn(2, 7, 64)
    quantized = mx.quantize_model(model, None, A8, attention=True, exclude=["excluded", "*.qkv", "*.proj"],
                                  example_inputs=x if shown else None)  # fmt: skip
    with torch.no_grad():
        y = model.matmul(by_hand(model.eager, x), x.mT)
        y = q8(y, -1) @ q8(model.excluded(x), -2)
        assert torch.equal(quantized(x), q8(y, -1) @ q8(x.mT, -2))
        assert torch.equal(copy.deepcopy(quantized)(x), quantized(x))
    held = ["product_1", "product_2", "eager.product_1", "eager.product_2"]
    assert list(kinds_of(mx.conversion_report(quantized))) == held


class Turns(nn.Module):
    """A module that is used twice, and one whose products depend on the input's length."""

    def __init__(self):
        super().__init__()
        self.first = self.second = Eager()
        self.fc = nn.Linear(64, 64)

    def forward(self, x):
        x = self.fc(self.second(self.first(x)))
        return x @ x.mT if x.shape[1] < 9 else (x @ x.mT) @ x


def test_shared_modules_and_branches():
    torch.manual_seed(0)
    model, x = Turns().eval(), torch.randn(2, 7, 64)
    quantized = mx.quantize_model(model, "mxint8", A8, attention=True)
    quantized(x)
    assert quantized.first is quantized.second
    assert list(kinds_of(mx.conversion_report(quantized))) == ["product_1", "first.product_1", "first.product_2"]
    quantized(torch.randn(2, 9, 64))
    assert "product_2" in kinds_of(mx.conversion_report(quantized))


class Positions(nn.Module):
    """Products that are none of two activations: with a table, with constants, with a vector."""

    def __init__(self):
        super().__init__()
        self.fc, self.table = nn.Linear(8, 8), nn.Parameter(torch.randn(1, 8, 8))
        self.register_buffer("frequencies", torch.randn(8, 1))

    def forward(self, x):
        x = self.fc(x)
        x = x @ self.table.mT.softmax(-1)
        angles = self.frequencies.to(x) @ torch.arange(7)[None].float()
        return x + (x @ angles) @ angles.mT + torch.matmul(x, x[0, 0])[..., None]


def test_parameters_and_constants_are_no_activations():
    torch.manual_seed(0)
    model, x = Positions().eval(), torch.randn(2, 7, 8)
    for examples in (None, x):
        quantized = mx.quantize_model(model, None, A8, attention=True, example_inputs=examples)
        assert torch.equal(quantized(x), mx.quantize_model(model, None, A8)(x))
        assert not kinds_of(mx.conversion_report(quantized))
    quantized = mx.quantize_model(model, None, A8, attention=True)
    quantized(x)
    assert "the model itself: matmul in float: takes " in str(mx.conversion_report(quantized))


@pytest.mark.parametrize(
    "equation, shapes, why",
    [
        ("bij,bjk->bik", [(2, 5, 40), (2, 40, 3)], None),
        ("bij,bkj", [(2, 5, 40), (2, 3, 40)], "sums over 2 axes; groups run along one"),
        ("ihd,jhd->hij", [(5, 2, 40), (3, 2, 40)], None),
        ("bhwc,bkc->bkhw", [(2, 3, 4, 40), (2, 5, 40)], None),
        ("...d,...d->...", [(2, 3, 40), (2, 3, 40)], None),
        ("...id,jd->...ij", [(2, 3, 5, 40), (7, 40)], None),
        ("ij,kj", [(5, 40), (3, 40)], None),
        ("bij,bij->b", [(2, 5, 40), (2, 5, 40)], "sums over 2 axes; groups run along one"),
        ("bi,bj->bij", [(2, 5), (2, 40)], "sums over 0 axes; groups run along one"),
        ("bii,bij->bj", [(2, 40, 40), (2, 40, 3)], "takes a diagonal"),
        ("bij,bk->bk", [(2, 5, 40), (2, 3)], "sums over i of one operand alone"),
    ],
)
def test_einsums_over_one_axis_are_products(equation, shapes, why):
    class Einsums(nn.Module):
        def forward(self, a, b):
            return torch.einsum(equation, a, b)

    torch.manual_seed(0)
    a, b = (torch.randn(shape) for shape in shapes)
    model = nn.Sequential(nn.Linear(1, 1), Einsums())
    quantized = mx.quantize_model(model, None, A8, attention=True)
    found, report = quantized[1](a, b), mx.conversion_report(quantized)
    if why is None:
        first, second = equation.partition("->")[0].split(",")
        a, b = q8(a, -1), q8(b, second.index(first[-1]) - len(second))  # all of these sum over the first one's last
        torch.testing.assert_close(found, torch.einsum(equation, a, b), rtol=1e-5, atol=1e-5)
        assert list(kinds_of(report)) == ["1.product_1"]
    else:
        assert torch.equal(found, torch.einsum(equation, a, b))
        assert report.products_in_float == {"1": f"einsum {equation} in float: {why}"}


class Gram(nn.Module):
    def forward(self, x):
        return x @ x.mT


class GramOfLinear(nn.Linear):
    def forward(self, x):
        x = super().forward(x)
        return x @ x.mT


class Clashing(nn.Module):
    def __init__(self):
        super().__init__()
        self.product_1 = nn.Linear(8, 8)

    def forward(self, x):
        return self.product_1(x) @ x.mT


def test_what_cannot_be_held_is_said():
    x = torch.randn(2, 7, 8)
    with pytest.raises(UnsupportedError, match="QuantClashing has an attribute 'product_1'.*rename"):
        mx.quantize_model(nn.Sequential(Clashing()), attention=True, example_inputs=x)
    with pytest.raises(UnsupportedError, match="QuantClashing has an attribute 'product_1'.*rename"):
        mx.quantize_model(nn.Sequential(Clashing()), attention=True)(x)
    eager, tokens = nn.Sequential(Eager()), torch.randn(2, 7, 64)
    eager[0].forward = lambda x: x @ x.mT @ x
    quantized = mx.quantize_model(nn.Sequential(eager, nn.Linear(64, 8)), attention=True, example_inputs=tokens)
    assert "0.0: 2 products of activations (2 matmul) in float: its forward was replaced" in str(
        mx.conversion_report(quantized)
    )
    traced = torch.fx.symbolic_trace(Gram())
    quantized = mx.quantize_model(nn.Sequential(traced, nn.Linear(7, 7)), attention=True, example_inputs=x)
    assert "0: 1 product of activations (matmul) in float: it is a traced graph" in str(mx.conversion_report(quantized))
    with pytest.raises(FormatError, match="0.attn.product_1: "):
        spec = mx.QuantSpec("mxint8", source="learned")
        mx.quantize_model(made(Eager)[0], None, spec, attention=True, example_inputs=tokens, formats={"0.mlp": None})


def test_products_in_a_layer_of_its_own_kind_stay_in_float():
    """Their layer is quantized where it takes its weight; nothing around it takes them for its own."""

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = GramOfLinear(8, 8)

        def forward(self, x):
            return self.inner(x) @ x

    model, x = Around(), torch.randn(2, 7, 8)
    quantized = mx.quantize_model(model, "mxint8", A8, attention=True, example_inputs=x)
    report = mx.conversion_report(quantized)
    assert list(kinds_of(report)) == ["product_1"] and report.products_in_float["inner"].startswith(
        "1 product of activations (matmul) in float: its layer is quantized at the weight"
    )
    assert torch.equal(quantized(x), q8(quantized.inner(x), -1) @ q8(x, -2))


def test_the_recipe_s_rules_are_those_of_products_too():
    model, x = made(Eager)
    quantized = mx.quantize_model(model, "mxint8", A8, attention=True, recipe="robust", example_inputs=x)
    changed = [c for c in mx.conversion_report(quantized).changed if "product" in c.layer]
    assert [(c.what, c.before, c.after) for c in changed] == [("activation rule", "floor", "rceil")] * 2
    assert quantized[0].attn.product_1.input_quant.scale_rule == "rceil"


@pytest.mark.parametrize("kind", ["fused", "eager"])
def test_compiled_models_compute_the_same(kind):
    model, x = made(KINDS[kind])
    quantized = mx.quantize_model(model, "mxint8", A8, attention=True, example_inputs=x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(quantized, backend="aot_eager")(x), quantized(x))


class Borrowed(nn.Module):
    """Multiplies by the weights of its layers itself, as BEiT and EVA do to put biases of their own beside them."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192, bias=False), nn.Linear(64, 64)
        self.q_bias = nn.Parameter(torch.randn(192))

    def forward(self, x):
        q, k, v = F.linear(x, weight=self.qkv.weight, bias=self.q_bias).chunk(3, -1)
        return F.linear(q.softmax(-1) * k + v, self.out.weight, self.out.bias)


@pytest.mark.parametrize("weight", [A4, None])
@pytest.mark.parametrize("attention", [False, True])
def test_a_layer_computes_where_its_weight_is_multiplied_by(attention, weight, tmp_path):
    model = mx.quantize_model(Borrowed(), weight, A8, attention=attention)
    x = torch.randn(2, 5, 64)
    q, k, v = (model.qkv(x) + model.q_bias).chunk(3, -1)
    y = model(x)
    assert torch.equal(y, model.out(q.softmax(-1) * k + v))
    assert not torch.equal(y, Borrowed.forward(model, x))
    assert torch.equal(copy.deepcopy(model)(x), y) and not mx.conversion_report(model).products_to_come
    mx.export(model, (x,), tmp_path / "model.onnx")
    assert [n.op_type for n in graph.load(tmp_path / "model.onnx").graph].count("MXFloatQuant") == 2


def test_a_weight_with_another_bias_is_told_of():
    class Other(Borrowed):
        def forward(self, x):
            return F.linear(x, self.out.weight)

    model = mx.quantize_model(Other(), A4, A8)
    model(torch.randn(2, 64))
    assert "takes the weight of out and no bias" in mx.conversion_report(model).products_in_float[""]
