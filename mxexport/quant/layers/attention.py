"""Multi-head attention whose four products are quantized: input projections, Q K^T, A V and output projection."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mxexport.errors import ShapeError
from mxexport.numbers.formats import ScaleRule
from mxexport.quant.layers.activation import QuantMatMul
from mxexport.quant.layers.layer import QuantLayer, apply
from mxexport.quant.layers.linear import QuantLinear
from mxexport.quant.quantizers.spec import Format, make_activation_quantizer, make_weight_quantizer


class QuantMultiheadAttention(QuantLayer, nn.MultiheadAttention):
    """`nn.MultiheadAttention` with its arguments, inputs, masks, results and state_dict names.

    Groups run along the axis each product sums over: the embedding for the projections, the head's width for
    Q K^T (`scores`), the keys for A V (`context`). Q is scaled by 1 / sqrt(width) before it is quantized; softmax and
    masks stay in float. The weights returned are those before quantization.
    """

    parts = ("out_proj",)

    def set_formats(
        self, weight: Format, activation: Format, scale_rule: ScaleRule = "floor", bias_format: str = "float"
    ) -> None:
        """Choose formats of all four products; None keeps weights or activations in float.

        An integer bias is the output projection's only.
        """
        for name, attribute in self._quantizers_of_weights().items():
            of = getattr(self, attribute)
            q = make_weight_quantizer(weight, of, self.weight_axis, self.channel_axis, scale_rule)
            self._hold(**{name: q})
        for name, length in {"input": self.embed_dim, "key": self.kdim, "value": self.vdim}.items():
            q = make_activation_quantizer(activation, self.input_axis, scale_rule, length)
            self._hold(**{f"{name}_quant": q})
        products = {name: QuantMatMul(activation, scale_rule=scale_rule) for name in ("scores", "context")}
        self._hold(**products)
        self.out_proj = QuantLinear.from_float(self.out_proj, weight, activation, scale_rule, bias_format)
        # nn.TransformerEncoderLayer asks this before it hands the float weights to a fused kernel of its own.
        self._qkv_same_embed_dim = False

    def _quantizers_of_weights(self) -> dict[str, str]:
        projections = {"key_weight_quant": "k_proj_weight", "value_weight_quant": "v_proj_weight"}
        return {"weight_quant": self.weight_names[0]} | projections

    @property
    def weight_names(self) -> tuple[str, ...]:
        if self.in_proj_weight is not None:
            return ("in_proj_weight",)
        return ("q_proj_weight", "k_proj_weight", "v_proj_weight")

    def quant_bias(self) -> Tensor | None:
        return self.in_proj_bias

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`; `is_causal` is a hint there and needs `attn_mask` here, too.

        Raises:
            ShapeError: `is_causal` without `attn_mask`, or inputs or a mask that do not fit.
        """
        if is_causal and attn_mask is None:
            raise ShapeError("QuantMultiheadAttention: is_causal is a hint about attn_mask; give attn_mask as well")
        for name, mask in (("attn_mask", attn_mask), ("key_padding_mask", key_padding_mask)):
            if mask is not None and mask.dtype != torch.bool and not mask.is_floating_point():
                raise ShapeError(
                    f"QuantMultiheadAttention: {name} is {mask.dtype}; expected bool, or floats to be added"
                )
        if not torch.compiler.is_exporting():  # sizes that stay open are not to be compared
            self._check_shapes(query, key, value, key_padding_mask, attn_mask)
        batched = query.ndim == 3
        q, k, v = (self._heads(t, batched) for t in self._project(query, key, value))
        k, v, appended = self._append_keys(k, v)
        scores = self.scores(q * math.sqrt(1.0 / self.head_dim), k.transpose(-2, -1))
        masks = (_expand_attn_mask(attn_mask, scores, appended), _expand_padding(key_padding_mask, appended))
        for mask in masks:
            if mask is not None:
                scores = scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        attention = nn.functional.dropout(torch.softmax(scores, -1), self.dropout, self.training)
        joined = self.context(attention, v).transpose(1, 2).flatten(2)  # [N, L, E]
        out = self.out_proj(joined)
        if not batched:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        return out, _returned_weights(attention, batched, average_attn_weights) if need_weights else None

    def _check_shapes(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None
    ) -> None:
        """Broadcasting would make something of shapes that mean nothing."""
        at = int(query.ndim == 3 and self.batch_first)  # where the sequence runs
        batches = [tuple(t.shape[1 - at : 2 - at]) if query.ndim == 3 else () for t in (query, key, value)]
        fits = query.ndim in (2, 3) and query.ndim == key.ndim == value.ndim and key.shape[at] == value.shape[at]
        if not fits or len(set(batches)) > 1:
            shapes = ", ".join(str(tuple(t.shape)) for t in (query, key, value))
            layout = "[N, L, E], [N, S, K], [N, S, V]" if self.batch_first else "[L, N, E], [S, N, K], [S, N, V]"
            raise ShapeError(
                f"QuantMultiheadAttention: query, key and value have shapes {shapes}; expected {layout}, or all three "
                "without N"
            )
        batch, length, keys = batches[0], query.shape[at], key.shape[at]
        per_head = (self.num_heads * (batch[0] if batch else 1), length, keys)
        if attn_mask is not None and tuple(attn_mask.shape) not in ((length, keys), per_head):
            raise ShapeError(
                f"QuantMultiheadAttention: attn_mask has shape {tuple(attn_mask.shape)}; expected [L, S] "
                f"{(length, keys)} or [N * heads, L, S] {per_head}"
            )
        if key_padding_mask is not None and tuple(key_padding_mask.shape) != (*batch, keys):
            raise ShapeError(
                f"QuantMultiheadAttention: key_padding_mask has shape {tuple(key_padding_mask.shape)}; expected "
                f"{(*batch, keys)}"
            )

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = apply(self.input_quant, query)
        y = x if key is query else apply(self.key_quant, key)
        z = x if value is query else y if value is key else apply(self.value_quant, value)
        bias = self.quant_bias()
        linear = nn.functional.linear
        if self.in_proj_weight is None:
            weights = (
                apply(self.weight_quant, self.q_proj_weight),
                apply(self.key_weight_quant, self.k_proj_weight),
                apply(self.value_weight_quant, self.v_proj_weight),
            )
        else:
            weight = apply(self.weight_quant, self.in_proj_weight)
            if x is y and y is z:
                return linear(x, weight, bias).chunk(3, -1)
            weights = weight.chunk(3)
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        return tuple(linear(t, w, b) for t, w, b in zip((x, y, z), weights, biases, strict=True))

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """[L, N, E], [N, L, E] or [L, E] -> [N, heads, L, width]."""
        if not batched:
            x = x.unsqueeze(0)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _append_keys(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Learned and zero keys that the float layer may append: `add_bias_kv`, `add_zero_attn`."""
        appended = 0
        if self.bias_k is not None:
            extra = [
                b.view(1, self.num_heads, 1, self.head_dim).expand(k.shape[0], -1, -1, -1).to(k.dtype)
                for b in (self.bias_k, self.bias_v)
            ]
            k, v, appended = torch.cat([k, extra[0]], 2), torch.cat([v, extra[1]], 2), 1
        if self.add_zero_attn:
            k, v = (nn.functional.pad(t, (0, 0, 0, 1)) for t in (k, v))
            appended += 1
        return k, v, appended


def _expand_attn_mask(mask: Tensor | None, scores: Tensor, appended: int) -> Tensor | None:
    """[L, S] or [N * heads, L, S] -> broadcastable to the scores [N, heads, L, S]; True or -inf hides a key."""
    if mask is None:
        return None
    if mask.ndim == 3:
        mask = mask.unflatten(0, scores.shape[:2])
    return nn.functional.pad(mask, (0, appended)) if appended else mask


def _expand_padding(mask: Tensor | None, appended: int) -> Tensor | None:
    """[N, S] or [S] -> broadcastable to the scores [N, heads, L, S]."""
    if mask is None:
        return None
    mask = mask[..., None, None, :]
    return nn.functional.pad(mask, (0, appended)) if appended else mask


def _returned_weights(attention: Tensor, batched: bool, average: bool) -> Tensor:
    weights = attention.mean(1) if average else attention
    return weights if batched else weights.squeeze(0)
