"""Small transformers at random: widths, heads of odd sizes, tokens, norms, functions, masks, gates, ends."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.transformer_networks import RMSNorm

FUNCTIONS = [
    nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.ELU(), nn.SELU(), nn.Softplus(), nn.Hardswish(),
    nn.Hardsigmoid(), nn.ReLU6(), nn.Tanh(), nn.LeakyReLU(0.1), nn.CELU(0.5),
]  # fmt: skip
FORMATS = [("mxint8", "mxint8"), ("mxfp6_e2m3", "mxint8"), ("mxfp4_e2m1", "mxfp6_e2m3"), ("mxint8", "mxfp4_e2m1")]


class Attention(nn.Module):
    """Projections together or apart, scores written out or in one call, keys and values of all heads or of one; `mask`:
    none, causal, or of an input: booleans, or floats to be added (`kept` then is 0 or -Inf)."""

    def __init__(self, width: int, heads: int, mask: str, rng: random.Random):
        super().__init__()
        self.heads, self.mask, self.called = heads, mask, rng.random() < 0.5
        bias, self.together = rng.random() < 0.7, rng.random() < 0.5
        self.shared = not self.together and rng.random() < 0.3
        sizes = [3 * width] if self.together else [width] + [width // (heads if self.shared else 1)] * 2
        self.projections = nn.ModuleList(nn.Linear(width, n, bias) for n in sizes)
        self.out = nn.Linear(width, width, bias)

    def forward(self, x: Tensor, kept: Tensor | None) -> Tensor:
        parts = self.projections[0](x).chunk(3, -1) if self.together else [f(x) for f in self.projections]
        size = x.shape[-1] // self.heads
        q, k, v = (y.unflatten(-1, (-1, size)).transpose(1, 2) for y in parts)
        if self.called:
            mask = kept[:, None, None, :] if self.mask in ("input", "added") else None
            kind = {"is_causal": self.mask == "causal", "enable_gqa": self.shared}
            joined = functional.scaled_dot_product_attention(q, k, v, mask, **kind)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            if self.mask == "causal":
                later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, float("-inf"))
            elif self.mask == "added":
                scores = scores + kept[:, None, None, :]
            elif self.mask == "input":
                scores = scores.masked_fill(~kept[:, None, None, :], float("-inf"))
            joined = torch.softmax(scores, -1) @ v
        return self.out(joined.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, mask: str, rng: random.Random):
        super().__init__()
        norm = rng.choice([nn.LayerNorm, RMSNorm, lambda n: nn.LayerNorm(n, elementwise_affine=False)])
        self.norm1, self.norm2, self.pre, self.gated = norm(width), norm(width), rng.random() < 0.6, rng.random() < 0.3
        self.attention, self.function = Attention(width, heads, mask, rng), rng.choice(FUNCTIONS)
        hidden = rng.randint(width // 2, 2 * width)
        self.up, self.down = nn.Linear(width, hidden * (1 + self.gated)), nn.Linear(hidden, width)

    def mlp(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if not self.gated:
            return self.down(self.function(x))
        gate, x = x.chunk(2, -1)
        return self.down(self.function(gate) * x)

    def forward(self, x: Tensor, kept: Tensor | None) -> Tensor:
        if self.pre:
            x = x + self.attention(self.norm1(x), kept)
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x, kept))
        return self.norm2(x + self.mlp(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, tokens: int, layers: int, mask: str, rng: random.Random):
        super().__init__()
        self.embed, self.head = nn.Linear(8, width), nn.Linear(width, 5)
        self.places = nn.Parameter(torch.randn(1, tokens, width) / 4) if rng.random() < 0.5 else None
        self.layers = nn.ModuleList(Layer(width, heads, mask, rng) for _ in range(layers))
        self.end = rng.choice(["mean", "first", "last", "all", "largest", "weighted"])
        self.weight = nn.Linear(width, 1) if self.end == "weighted" else None

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        x = self.embed(x)
        x = x if self.places is None else x + self.places
        for layer in self.layers:
            x = layer(x, kept)
        return self.head(self.ended(x))

    def ended(self, x: Tensor) -> Tensor:
        match self.end:
            case "mean":
                return x.mean(1)
            case "first":
                return x[:, 0]
            case "last":
                return x[:, -1]
            case "largest":
                return x.amax(1)
            case "weighted":
                return (torch.softmax(self.weight(x), 1) * x).sum(1)
        return x


def drawn(seed: int) -> tuple[nn.Module, dict[str, Tensor], tuple[str, str]]:
    """(network, inputs by name, formats of weights and activations)."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    heads, size, tokens = rng.randint(1, 4), rng.choice([5, 8, 12, 17, 32]), rng.choice([3, 7, 16, 33, 40])
    mask = rng.choice(["none", "causal", "input", "added"])
    network = Transformer(heads * size, heads, tokens, rng.randint(1, 2), mask, rng)
    inputs = {"x": torch.randn(8, tokens, 8)}
    if mask in ("input", "added"):
        kept = torch.arange(tokens)[None] < torch.randint(2, tokens + 1, (8, 1))
        inputs["kept"] = kept if mask == "input" else torch.where(kept, 0.0, rng.choice([float("-inf"), -1e9]))
    return network, inputs, rng.choice(FORMATS)
