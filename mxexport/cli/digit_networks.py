"""Networks for digits in the shapes that people put on FPGAs, small enough to train in seconds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """784 - 128 - 64 - 10; 784 = 24 groups of 32 and a short one of 16."""

    frame = (784,)

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 128), nn.Linear(128, 64), nn.Linear(64, 10)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.relu2(self.fc2(self.relu1(self.fc1(x)))))


class CNN(nn.Module):
    """Three convolutions, a pool, a linear layer."""

    frame = (1, 28, 28)

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.conv3, self.fc = nn.Conv2d(32, 32, 3), nn.Linear(800, 10)
        self.relu1, self.relu2, self.relu3, self.pool = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu2(self.conv2(self.relu1(self.conv1(x)))))
        return self.fc(self.relu3(self.conv3(x)).flatten(1))


class Residual(nn.Module):
    """ResNet-shaped: batch norms, a block with a sum, a block with a projection beside it, an average."""

    frame = (1, 28, 28)

    def __init__(self):
        super().__init__()
        self.stem = _normed(1, 16, 3, 2)
        self.one = nn.Sequential(_normed(16, 16, 3), nn.ReLU(), _normed(16, 16, 3))
        self.two = nn.Sequential(_normed(16, 32, 3, 2), nn.ReLU(), _normed(32, 32, 3))
        self.beside, self.head = _normed(16, 32, 1, 2), nn.Linear(32, 10)
        self.relu1, self.relu2, self.relu3, self.pool = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.stem(x))
        x = self.relu2(x + self.one(x))
        x = self.relu3(self.beside(x) + self.two(x))
        return self.head(self.pool(x).flatten(1))


class Depthwise(nn.Module):
    """MobileNet-shaped: depthwise convolutions between expansions and projections, batch norms, sums."""

    frame = (1, 28, 28)

    def __init__(self):
        super().__init__()
        self.stem, self.relu = _normed(1, 16, 3, 2), nn.ReLU()
        self.one, self.two, self.three = _inverted(16, 16, 1), _inverted(16, 32, 2), _inverted(32, 32, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.two(x + self.one(x))
        return self.head(self.pool(x + self.three(x)).flatten(1))


class Large(nn.Module):
    """VGG-shaped, for digits enlarged to 64 x 64: five convolutions, three pools, a linear layer."""

    frame = (1, 64, 64)

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Transformer(nn.Module):
    """ViT-shaped: 16 patches of 7 x 7, positions, two encoder blocks of two heads, normalized first; an average."""

    frame = (1, 28, 28)

    def __init__(self):
        super().__init__()
        self.patches, self.positions = nn.Conv2d(1, 32, 7, 7), nn.Parameter(torch.zeros(1, 16, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def _normed(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _inverted(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    wide = 2 * inputs
    return nn.Sequential(
        _normed(inputs, wide, 1), nn.ReLU(), _normed(wide, wide, 3, stride, wide), nn.ReLU(), _normed(wide, outputs, 1)
    )


NETWORKS = {
    "cnn": CNN,
    "mlp": MLP,
    "residual": Residual,
    "depthwise": Depthwise,
    "large": Large,
    "transformer": Transformer,
}


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Digits [N, ...], moved by up to two pixels, all alike."""
    shift, side = torch.randint(-2, 3, (2,), generator=generator).tolist(), math.isqrt(x[0].numel())
    return x.reshape(-1, side, side).roll(shift, (1, 2)).reshape(x.shape)
