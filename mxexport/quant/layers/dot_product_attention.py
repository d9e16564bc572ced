"""`torch.nn.functional.scaled_dot_product_attention` as a layer, both of its products quantized."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mxexport.errors import ShapeError
from mxexport.numbers.formats import ScaleRule
from mxexport.quant.kernels.fake_quantization import Quantizer
from mxexport.quant.layers.activation import QuantMatMul
from mxexport.quant.layers.layer import QuantLayer
from mxexport.quant.quantizers.sources import ScaleSource
from mxexport.quant.quantizers.spec import Format, as_spec


class QuantScaledDotProductAttention(QuantLayer):
    """`F.scaled_dot_product_attention` with its arguments, masks and results; `scores` is Q K^T, `context` is A V.

    Groups run along the axis each product sums over: the head's width for Q and K, the keys for A and V. Q is scaled
    before it is quantized; softmax and masks stay in float, as in `QuantMultiheadAttention`. Values of keys that a mask
    hides from every query are 0, so that they have no part in the scales of others; a query that sees no key gets 0.
    """

    def __init__(self, activation: Format = "mxint8", *, scale_rule: ScaleRule = "floor"):
        nn.Module.__init__(self)
        self.set_formats(None, as_spec(activation), scale_rule)

    def set_formats(
        self, weight: Format, activation: Format, scale_rule: ScaleRule = "floor", bias_format: str = "float"
    ) -> None:
        """Choose the format of both products; there is no weight."""
        self._hold(**{name: QuantMatMul(activation, scale_rule=scale_rule) for name in ("scores", "context")})

    @property
    def input_quant(self) -> Quantizer | ScaleSource | None:
        """The quantizer of Q, for reports."""
        return self.scores.input_quant

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """query [..., L, E], key [..., S, E], value [..., S, V] -> [..., L, V].

        `attn_mask`: broadcastable to [..., L, S]; bool (False hides a key) or floats to be added. `scale`: of the
        scores, 1 / sqrt(E) by default. `enable_gqa`: keys and values have fewer heads (axis -3) than queries.

        Raises:
            ShapeError: a mask of integers or of one axis, or one beside `is_causal`.
        """
        _check_mask(attn_mask, is_causal)
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        factor = math.sqrt(1.0 / query.shape[-1]) if scale is None else scale
        scores = self.scores(query if factor == 1 else query * factor, key.transpose(-2, -1))
        if is_causal:
            scores, value = _causal(scores, value)
            attention = torch.softmax(scores, -1)
        elif attn_mask is not None:
            attention, value = _masked(scores, value, attn_mask)
        else:
            attention = torch.softmax(scores, -1)
        if dropout_p:
            attention = nn.functional.dropout(attention, dropout_p)
        return self.context(attention, value)


def _check_mask(mask: Tensor | None, is_causal: bool) -> None:
    if mask is None:
        return
    if is_causal:
        raise ShapeError("QuantScaledDotProductAttention: found attn_mask and is_causal; give one of them")
    if mask.ndim < 2:
        raise ShapeError(
            f"QuantScaledDotProductAttention: attn_mask has shape {tuple(mask.shape)}; expected [..., L, S] or "
            "[..., 1, S]"
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ShapeError(
            f"QuantScaledDotProductAttention: attn_mask is {mask.dtype}; expected bool, or floats to be added"
        )


def _causal(scores: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Query i sees the keys up to i; every query sees one. Keys behind the last query are seen by none."""
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    if scores.shape[-1] > scores.shape[-2]:
        value = _unseen_zeroed(value, hidden)
    return scores.masked_fill(hidden, -math.inf), value


def _masked(scores: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What every query pays to every key, and the values left. Rows that see nothing are shown all keys first, then set
    to 0: a softmax of -Inf alone is NaN, its gradient, too."""
    hidden = mask.logical_not() if mask.dtype == torch.bool else mask == -math.inf
    blind = hidden.all(-1, keepdim=True)
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(hidden & blind.logical_not(), -math.inf)
    else:
        scores = scores + mask.masked_fill(blind, 0.0)
    return torch.softmax(scores, -1).masked_fill(blind, 0.0), _unseen_zeroed(value, hidden)


def _unseen_zeroed(value: Tensor, hidden: Tensor) -> Tensor:
    """`value` [..., S, V] with 0 for keys that `hidden` [..., L, S] hides from every query."""
    return value.masked_fill(hidden.all(-2).unsqueeze(-1), 0.0)
