"""The float model behind every checkpoint of tests/data/checkpoints; the scripts that make them import it, too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TOKENS, WIDTH, LABELS = 24, 64, 10


class Attention(nn.Module):
    """Two heads; its products of activations stay in float, as the tools leave them."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.o_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        weights = torch.softmax(q @ k.transpose(-1, -2) * (WIDTH // 2) ** -0.5, -1)
        return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


class Network(nn.Module):
    """[N, T] token ids -> [N, T, LABELS]."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.attention = Attention()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 96), nn.Linear(96, WIDTH)
        self.head = nn.Linear(WIDTH, LABELS)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = self.norm(x + self.attention(x))
        return self.head(x + self.down(torch.relu(self.up(x))))


def network(seed: int = 0) -> Network:
    """With weights that a fresh draw would not have: rows of several magnitudes, a group of zeros, and some -0."""
    torch.manual_seed(seed)
    model = Network().eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight *= torch.exp2(torch.arange(layer.out_features) % 7 - 3.0)[:, None]
                layer.weight[1, :32], layer.weight[2, 5] = 0.0, -0.0
                layer.weight[3, :32] *= 1.75 / layer.weight[3, :32].abs().max()  # where scale rules part
    return model.requires_grad_(False)


def token_ids() -> Tensor:
    return torch.arange(12).reshape(2, 6) * 7 % TOKENS


def edge_inputs() -> Tensor:
    """[rows, WIDTH]: what parts scale rules and roundings. Groups of 32 (and of 16) of every magnitude, largest values
    around 2^k, 1.5 * 2^k and 1.75 * 2^k beside much smaller ones, ties, zeros of both signs, and values that round to
    zero."""
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(40, WIDTH, generator=generator) * torch.exp2(torch.arange(40) - 20.0)[:, None]
    around = torch.tensor([1.0, 1.5, 1.75, 1.875, 2.0])[:, None, None]
    ramp = torch.linspace(-1, 1, WIDTH).expand(3, WIDTH)
    steps = (torch.tensor([-1, 0, 1]).int()[:, None] + (ramp * around).view(torch.int32)).view(torch.float32)
    ties = torch.arange(WIDTH).float()[None] / torch.tensor([2.0, 4.0, 8.0, 16.0])[:, None]
    largest, place = steps[..., -1:], torch.arange(WIDTH) % 32
    fall = torch.where(place == 0, 1.0, 1.37 * torch.exp2(-(place + 8) / 2.0))  # down to subnormal elements
    rows = [
        normal,
        steps.flatten(0, 1),
        (largest * fall).flatten(0, 1),
        ties,
        torch.zeros(1, WIDTH),
        torch.full((1, WIDTH), -0.0),
    ]
    small = torch.full((1, WIDTH), -1e-6)
    small[0, ::8], small[0, 1::8], small[0, 2::8] = 1.0, -0.0, 0.0
    return torch.cat([*rows, small])


class Experts(nn.Module):
    """Two experts as gpt-oss has them: parameters [E, K, O] and biases; gates and values interleaved."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.zeros(2, WIDTH, 2 * WIDTH))
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(2, 2 * WIDTH))
        self.down_proj = nn.Parameter(torch.zeros(2, WIDTH, WIDTH))
        self.down_proj_bias = nn.Parameter(torch.zeros(2, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        both = torch.matmul(x[:, None], self.gate_up_proj) + self.gate_up_proj_bias[:, None]
        gate, up = both[..., ::2], both[..., 1::2]
        down = torch.matmul((up + 1) * gate * torch.sigmoid(gate), self.down_proj)
        return (down + self.down_proj_bias[:, None]).sum(1)
