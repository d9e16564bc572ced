"""Products of two activations in a model's own code: quantized with attention=True, named in the report without."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mxexport as mx
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
    assert len(counts) == 12 and not any(counts.values())
    (found,) = mx.run(tmp_path / "m.onnx", x.numpy()).values()
    with torch.no_grad():
        assert_equal_up_to_turned_codes(found, quantized(x).numpy())


def _producers(node) -> list[str]:
    """What makes the operands, transposes aside."""
    made = [v.producer() for v in node.inputs]
    while any(n is not None and n.op_type in ("Transpose", "Reshape") for n in made):
        made = [n.inputs[0].producer() if n is not None and n.op_type in ("Transpose", "Reshape") else n for n in made]
    return [n.op_type for n in made if n is not None]
