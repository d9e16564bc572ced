"""Transformers as people write them, small: attention of every style, norms before and behind, masks, any tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Fused(nn.Module):
    """One projection for q, k and v; the product of attention as one call (timm)."""

    def __init__(self, width: int, heads: int, causal: bool = False):
        super().__init__()
        self.qkv, self.proj, self.heads, self.causal = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            heads,
            causal,
        )

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        joined = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(joined.transpose(1, 2).reshape(n, t, c))


class Eager(nn.Module):
    """Three projections, products written out (BERT)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        shares = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
        return self.proj((shares @ v).transpose(1, 2).flatten(2))


class Einsum(Eager):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.q, self.k, self.v))
        shares = torch.softmax(torch.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5, -1)
        return self.proj(torch.einsum("bhts,bshd->bthd", shares, v).flatten(2))


class Single(Eager):
    """One head, without axes for heads."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) / math.sqrt(q.shape[-1]), -1), v)


class TokensFirst(nn.Module):
    """nn.MultiheadAttention as it is by default: tokens before the batch."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.attention(x, x, x)[0].transpose(0, 1)


class RMSNorm(nn.Module):
    """As it is written out."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Block(nn.Module):
    def __init__(self, attention: nn.Module, width: int, function: Callable = nn.GELU, norm=nn.LayerNorm, pre=True):
        super().__init__()
        self.attention, self.norm1, self.norm2, self.pre = attention, norm(width), norm(width), pre
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), function(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class Sequence(nn.Module):
    """Features of tokens, a block, and what is taken of it: the mean, a token, all."""

    def __init__(self, block: nn.Module, width: int, end: str = "mean"):
        super().__init__()
        self.embed, self.block, self.head, self.end = nn.Linear(8, width), block, nn.Linear(width, 5), end

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.embed(x))
        x = {"mean": lambda: x.mean(1), "last": lambda: x[:, -1], "all": lambda: x}[self.end]()
        return self.head(x)


class Image(nn.Module):
    """Patches of a convolution, a class token, positions, a scale of its own for every channel."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.patches, self.scale = nn.Conv2d(3, width, 4, 4), nn.Parameter(torch.rand(width) + 0.5)
        self.first, self.positions = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width) / 8)
        self.norm, self.attention, self.head = nn.LayerNorm(width), Fused(width, 2), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.first.expand(x.shape[0], -1, -1), x), 1) + self.positions
        return self.head((x + self.scale * self.attention(self.norm(x)))[:, 0])


class Mixer(nn.Module):
    """MLP-Mixer: linear layers along the tokens put out channel by channel, and meet tokens."""

    def __init__(self, width: int = 32, tokens: int = 12):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(8, width), nn.LayerNorm(width), nn.Linear(width, 4)
        self.over = nn.Sequential(nn.Linear(tokens, 20), nn.GELU(), nn.Linear(20, tokens))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head((x + self.over(self.norm(x).transpose(1, 2)).transpose(1, 2)).mean(1))


class OverTokens(nn.Module):
    """A softmax and a norm over tokens, channel by channel."""

    def __init__(self, width: int = 16, tokens: int = 12):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(8, width), nn.LayerNorm(tokens), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(torch.softmax(self.norm(x.transpose(1, 2)), -1).transpose(1, 2))


class Rotary(nn.Module):
    """Queries and keys that are turned by their positions, keys and values that two heads share (Llama), and a gated
    layer behind."""

    def __init__(self, width: int = 32, heads: int = 4, tokens: int = 12):
        super().__init__()
        self.q, self.proj = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(width, width // 2, bias=False) for _ in range(2))
        self.gate, self.up, self.down = nn.Linear(width, 40), nn.Linear(width, 40), nn.Linear(40, width)
        self.norm1, self.norm2, self.heads, half = RMSNorm(width), RMSNorm(width), heads, width // heads // 2
        self.embed, self.head = nn.Linear(8, width), nn.Linear(width, 5)
        angles = torch.outer(torch.arange(tokens), 100.0 ** -(torch.arange(half) / half)).repeat(1, 2)
        self.register_buffer("cos", angles.cos()[None, None])
        self.register_buffer("sin", angles.sin()[None, None])

    def turned(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat((-second, first), -1) * self.sin

    def attention(self, x: Tensor) -> Tensor:
        size = x.shape[-1] // self.heads
        q, k, v = (f(x).unflatten(-1, (-1, size)).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (y[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for y in (self.turned(k), v))
        shares = torch.softmax(self.turned(q) @ k.transpose(-1, -2) / math.sqrt(size), -1)
        return self.proj((shares @ v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return self.head((x + self.down(functional.silu(self.gate(y)) * self.up(y))).mean(1))


class Hidden(nn.Module):
    """A mask of booleans for scaled_dot_product_attention: values of hidden tokens become zeros before they are
    quantized."""

    def __init__(self, width: int = 32, heads: int = 2):
        super().__init__()
        self.embed, self.qkv, self.head, self.heads = (
            nn.Linear(8, width), nn.Linear(width, 3 * width), nn.Linear(width, 4), heads,
        )  # fmt: skip

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        joined = functional.scaled_dot_product_attention(q, k, v, attn_mask=kept[:, None, None, :])
        return self.head(joined.transpose(1, 2).flatten(2)).mean(1)


class Keywords(nn.Module):
    """Frames of audio through a convolution in time, then tokens."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.conv, self.block, self.norm = (
            nn.Conv1d(10, width, 3, 2, 1),
            Block(Eager(width, 2), width),
            nn.LayerNorm(width),
        )
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(torch.relu(self.conv(x)).transpose(1, 2))).mean(1))


class Padded(nn.Module):
    """Sequences that are shorter than others: a second input says which tokens are none."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.embed, self.head = nn.Linear(8, width), nn.Linear(width, 4)
        self.layer = nn.TransformerEncoderLayer(width, 2, 64, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x), src_key_padding_mask=padding)[:, 0])


class Decoder(nn.Module):
    """Embeddings, positions, causal attention, and attention over what an encoder gives."""

    def __init__(self, width: int = 32, tokens: int = 10):
        super().__init__()
        self.embed, self.features = nn.Embedding(20, width), nn.Linear(6, width)
        self.positions, self.head = nn.Parameter(torch.randn(1, tokens, width) / 8), nn.Linear(width, 20)
        self.layer = nn.TransformerDecoderLayer(width, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.register_buffer("later", torch.triu(torch.ones(tokens, tokens, dtype=torch.bool), 1))

    def forward(self, ids: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(ids) + self.positions, self.features(memory), tgt_mask=self.later))


def tokens(count: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"x": torch.randn(16, count, 8)}


def padded() -> dict[str, Tensor]:
    return {"x": torch.randn(16, 9, 8), "padding": torch.arange(9)[None] >= torch.randint(3, 10, (16, 1))}


def kept() -> dict[str, Tensor]:
    return {"x": torch.randn(16, 9, 8), "kept": torch.arange(9)[None] < torch.randint(3, 10, (16, 1))}


def decoded() -> dict[str, Tensor]:
    return {"ids": torch.randint(0, 20, (16, 10)), "memory": torch.randn(16, 7, 6)}


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]], tuple[str, str]]] = {
    "causal": (
        lambda: Sequence(Block(Fused(32, 4, causal=True), 32, nn.SiLU, RMSNorm), 32, "last"),
        tokens(12), ("mxfp4_e2m1", "mxfp8_e4m3"),
    ),
    "image": (Image, lambda: {"x": torch.randn(16, 3, 16, 16)}, ("mxfp6_e2m3", "mxfp6_e2m3")),
    "padded": (Padded, padded, ("mxint8", "mxint8")),
    "decoder": (Decoder, decoded, ("mxint8", "mxint8")),
    "rotary": (Rotary, tokens(12), ("mxint8", "mxint8")),
    "hidden": (Hidden, kept, ("mxint8", "mxint8")),
    "mixer": (Mixer, tokens(12), ("mxint8", "mxint8")),
    "over tokens": (OverTokens, tokens(12), ("mxint8", "mxint8")),
    "eager": (lambda: Sequence(Block(Eager(36, 3), 36, nn.ReLU, pre=False), 36, "all"), tokens(33), ("mxint8",) * 2),
    "einsum": (lambda: Sequence(Block(Einsum(32, 2), 32), 32), tokens(9), ("mxint8", "mxint8")),
    "single": (lambda: Sequence(Block(Single(32, 1), 32), 32), tokens(9), ("mxfp6_e3m2", "mxint8")),
    "tokens first": (lambda: Sequence(Block(TokensFirst(32, 2), 32), 32), tokens(9), ("mxint8", "mxint8")),
    "keywords": (Keywords, lambda: {"x": torch.randn(16, 10, 24)}, ("mxint8", "mxint8")),
}  # fmt: skip
"""Name -> (network, inputs by name, formats of weights and activations)."""
