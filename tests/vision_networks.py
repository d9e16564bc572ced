"""What other vision encoders are made of, small: learned queries, positions that turn neighbours, attention of class
tokens and among channels, talking heads, pools whose padding does not count, norms over flattened tokens, groups of few
channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.transformer_networks import Fused, tokens


class LearnedQueries(nn.Module):
    """Tokens that a few learned ones ask (SigLIP, Perceiver)."""

    def __init__(self, width: int = 32, heads: int = 2, queries: int = 1):
        super().__init__()
        self.embed, self.head, self.heads = nn.Linear(8, width), nn.Linear(width, 4), heads
        self.queries = nn.Parameter(torch.randn(1, queries, width))
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = *x.shape[:2], self.q.in_features
        q = self.q(self.queries.expand(n, -1, -1)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(self.embed(x)).reshape(n, t, 2, self.heads, width // self.heads)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        joined = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, width)
        return self.head(self.proj(joined)).mean(1)


class LearnedKeys(nn.Module):
    """Tokens that ask a memory of learned keys and values."""

    def __init__(self, width: int = 32, heads: int = 2, keys: int = 7):
        super().__init__()
        self.embed, self.q, self.head, self.heads = (
            nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 4), heads,
        )  # fmt: skip
        self.keys, self.values = (nn.Parameter(torch.randn(1, heads, keys, width // heads)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(self.embed(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (y.expand(x.shape[0], -1, -1, -1) for y in (self.keys, self.values))
        return self.head(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1)


class Interleaved(Fused):
    """Queries and keys whose neighbouring channels turn together (EVA-02, GPT-J)."""

    def __init__(self, width: int = 32, heads: int = 2, count: int = 9):
        super().__init__(width, heads)
        size = width // heads
        angles = torch.outer(torch.arange(count), 100.0 ** -(torch.arange(size // 2) * 2 / size))
        angles = angles.repeat_interleave(2, -1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.embed, self.head = nn.Linear(8, width), nn.Linear(width, 4)

    def turned(self, x: Tensor) -> Tensor:
        return x * self.cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).reshape(x.shape) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        x = self.embed(x)
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        joined = functional.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
        return self.head(x + self.proj(joined.transpose(1, 2).reshape(n, t, -1))).mean(1)


class ClassAttention(nn.Module):
    """Only the class token asks, twice (CaiT)."""

    def __init__(self, width: int = 32, heads: int = 2):
        super().__init__()
        self.first, self.heads = nn.Parameter(torch.randn(1, 1, width)), heads
        self.embed, self.head = nn.Linear(8, width), nn.Linear(width, 4)
        self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(4)) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.scales = nn.Parameter(torch.rand(2, width) + 0.5)

    def asked(self, x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, proj: nn.Module) -> Tensor:
        n, t, width = x.shape
        q = q(x[:, 0]).unsqueeze(1).reshape(n, 1, self.heads, -1).permute(0, 2, 1, 3)
        k, v = (f(x).reshape(n, t, self.heads, -1).permute(0, 2, 1, 3) for f in (k, v))
        joined = functional.scaled_dot_product_attention(q, k, v)
        return proj(joined.transpose(1, 2).reshape(n, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        first = self.first.expand(x.shape[0], -1, -1)
        for layer, norm, scale in zip(self.layers, self.norms, self.scales, strict=True):
            first = first + scale * self.asked(norm(torch.cat((first, x), 1)), *layer)
        return self.head(torch.cat((first, x), 1)[:, 0])


class TalkingHeads(nn.Module):
    """Linear layers among heads, before and behind the softmax (CaiT)."""

    def __init__(self, width: int = 32, heads: int = 4):
        super().__init__()
        self.embed, self.qkv, self.head, self.heads = (
            nn.Linear(8, width), nn.Linear(width, 3 * width), nn.Linear(width, 4), heads,
        )  # fmt: skip
        self.before, self.behind = nn.Linear(heads, heads), nn.Linear(heads, heads)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(self.embed(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = self.before((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        shares = self.behind(scores.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head((shares @ v).transpose(1, 2).reshape(n, t, -1)).mean(1)


class AmongChannels(nn.Module):
    """Channels of a head ask each other, over all tokens (XCiT)."""

    def __init__(self, width: int = 32, heads: int = 2, normalized: bool = True):
        super().__init__()
        self.embed, self.qkv, self.proj, self.head, self.heads, self.normalized = (
            nn.Linear(8, width), nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, 4), heads,
            normalized,
        )  # fmt: skip
        self.temperature = nn.Parameter(torch.rand(heads, 1, 1) + 1)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(self.embed(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 4, 1).unbind(0)
        if self.normalized:
            q, k = (functional.normalize(y, dim=-1) * self.temperature for y in (q, k))
        shares = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.head(self.proj((shares @ v).permute(0, 3, 1, 2).reshape(n, t, -1))).mean(1)


class Pooled(nn.Module):
    """What a neighbourhood has more than a pixel, at the border a smaller one; norms of whole frames (PoolFormer)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, width, 2, 2), nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.mix, self.head, self.norm = nn.Conv2d(width, width, 1), nn.Linear(width, 4), nn.GroupNorm(1, width)
        self.scale = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.norm(x)
        x = self.norm(x + self.scale[:, None, None] * (self.pool(y) - y))
        return self.head(functional.gelu(self.mix(x)).mean((2, 3)))


class Flattened(nn.Module):
    """Batch norms over the tokens of all frames, every second token of a row and a column (LeViT)."""

    def __init__(self, width: int = 24, side: int = 5):
        super().__init__()
        self.embed, self.norm, self.side = nn.Linear(8, width), nn.BatchNorm1d(width), side
        self.mix, self.norm2, self.head = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, 4)
        for norm in (self.norm, self.norm2):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        x = self.embed(x)
        x = functional.hardswish(self.norm(x.flatten(0, 1)).reshape(n, t, -1))
        x = x.view(n, self.side, self.side, -1)[:, ::2, ::2].reshape(n, -1, x.shape[-1])
        return self.head(self.norm2(self.mix(x).flatten(0, 1)).reshape(n, x.shape[1], -1).mean(1))


class FewChannels(nn.Module):
    """Groups of 12 and 24 channels, which cut blocks of 32 (Visformer)."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 48, 2, 2), nn.Conv2d(48, 48, 3, 1, 1, groups=4), None
        self.two, self.head = nn.Conv2d(48, 48, 1, groups=2), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.two(torch.relu(self.one(torch.relu(self.conv(x))))))
        return self.head(x.mean((2, 3)))


def images() -> dict[str, Tensor]:
    return {"x": torch.randn(16, 3, 12, 12)}


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]], tuple[str, str]]] = {
    "learned query": (LearnedQueries, tokens(9), ("mxint8", "mxint8")),
    "learned queries": (lambda: LearnedQueries(24, 3, 5), tokens(33), ("mxfp6_e2m3", "mxfp8_e4m3")),
    "learned keys": (LearnedKeys, tokens(9), ("mxint8", "mxint8")),
    "interleaved": (Interleaved, tokens(9), ("mxint8", "mxint8")),
    "class attention": (ClassAttention, tokens(9), ("mxint8", "mxint8")),
    "talking heads": (TalkingHeads, tokens(9), ("mxint8", "mxint8")),
    "among channels": (lambda: AmongChannels(normalized=False), tokens(9), ("mxint8", "mxint8")),
    "among channels, normalized": (AmongChannels, tokens(9), ("mxint8", "mxint8")),
    "pooled": (Pooled, images, ("mxint8", "mxint8")),
    "flattened": (Flattened, tokens(25), ("mxint8", "mxint8")),
    "few channels": (FewChannels, images, ("mxint8", "mxint8")),
}
"""Name -> (network, inputs by name, formats of weights and activations)."""
