"""`QuantScaledDotProductAttention`: torch's function with its masks, and what its two products see."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import mxexport as mx
from mxexport.errors import ShapeError

FORMAT = "mxfp8_e4m3"
VISIBLE = torch.arange(7) < torch.tensor([[7], [5], [1]])  # [N, S]
MASKS = {
    "none": {},
    "causal": {"is_causal": True},
    "bool": {"attn_mask": torch.ones(5, 7).tril(2).bool()},
    "one_row_sees_nothing": {"attn_mask": torch.ones(5, 7).tril(-1).bool()},
    "padding": {"attn_mask": VISIBLE[:, None, None]},
    "additive": {"attn_mask": torch.linspace(-3, 3, 35).reshape(5, 7)},
    "additive_blind": {"attn_mask": torch.zeros(5, 7).masked_fill(torch.ones(5, 7).triu().bool(), -math.inf)},
    "keys_alone": {"attn_mask": torch.arange(7)[None] > 2},
    "per_head": {"attn_mask": torch.linspace(-3, 3, 420).reshape(3, 4, 5, 7)},
    "scale": {"scale": 0.3},
}


def inputs(queries: int = 5, keys: int = 7, heads: int = 4) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(3, 4, queries, 16), (3, heads, keys, 16), (3, heads, keys, 24)]
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("mask", MASKS)
def test_without_formats_it_is_torch_s_function(mask):
    q, k, v = inputs()
    found = mx.QuantScaledDotProductAttention(None)(q, k, v, **MASKS[mask])
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, **MASKS[mask]), rtol=1e-5, atol=1e-6)
    found.square().sum().backward()
    assert all(t.grad.isfinite().all() for t in (q, k, v))


@pytest.mark.parametrize("queries, keys, heads", [(7, 5, 4), (5, 5, 4), (4, 7, 2), (4, 7, 1)])
def test_causal_masks_of_any_shape_and_shared_keys(queries, keys, heads):
    q, k, v = inputs(queries, keys, heads)
    options = {"is_causal": True, "enable_gqa": heads < 4}
    found = mx.QuantScaledDotProductAttention(None)(q, k, v, **options)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, **options), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", ["bool", "padding", "additive_blind", "one_row_sees_nothing"])
def test_values_that_no_query_sees_are_zero_before_they_share_a_scale(mask):
    def quantized(t, axis):
        return mx.quantize(t, FORMAT, axis=axis).dequantize()

    q, k, v = (t.detach() for t in inputs())
    given = MASKS[mask]["attn_mask"].expand(3, 4, 5, 7)
    hidden = ~given if given.dtype == torch.bool else given == -math.inf
    scores = quantized(q * 0.25, -1) @ quantized(k, -1).transpose(-2, -1)
    p = torch.softmax(scores.masked_fill(hidden, -math.inf), -1).nan_to_num(0.0)
    expected = quantized(p, -1) @ quantized(v * (~hidden.all(-2))[..., None], -2)
    assert torch.equal(mx.QuantScaledDotProductAttention(FORMAT)(q, k, v, **MASKS[mask]), expected)


def test_what_padding_holds_has_no_effect():
    layer, (q, k, v) = mx.QuantScaledDotProductAttention("mxint4"), inputs()
    found = layer(q, k, v, **MASKS["padding"])
    hidden = ~VISIBLE[:, None, :, None]
    for filling in (1e6, math.nan):
        others = [t.masked_fill(hidden, filling) for t in (k, v)]
        assert torch.equal(layer(q, *others, **MASKS["padding"]), found)


def test_dropout_acts_on_the_weights():
    layer, (q, k, v) = mx.QuantScaledDotProductAttention(None), inputs()
    assert torch.equal(layer(q, k, v, dropout_p=1.0), torch.zeros(3, 4, 5, 24))
    assert not torch.equal(layer(q, k, v, dropout_p=0.5), layer(q, k, v))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"attn_mask": torch.ones(5, 7).int()}, "attn_mask is torch.int32; expected bool, or floats"),
        ({"attn_mask": torch.ones(7)}, r"attn_mask has shape \(7,\); expected \[..., L, S\]"),
        ({"attn_mask": torch.ones(5, 7).bool(), "is_causal": True}, "found attn_mask and is_causal; give one"),
    ],
)
def test_bad_masks_are_named(options, message):
    with pytest.raises(ShapeError, match=message):
        mx.QuantScaledDotProductAttention()(*inputs(), **options)
