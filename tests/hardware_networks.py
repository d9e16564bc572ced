"""Networks in the shapes that people put on FPGAs, small; and random ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import mxexport as mx
from mxexport.quant import QuantIdentity, QuantReLU


class Residual(nn.Module):
    """ResNet-shaped: a block that keeps its shape and one that halves it, with a projection beside it."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1)
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.conv3, self.conv4 = nn.Conv2d(8, 40, 3, 2, 1), nn.Conv2d(40, 40, 3, padding=1)
        self.beside, self.head = nn.Conv2d(8, 40, 1, 2), nn.Linear(40, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.conv2(torch.relu(self.conv1(x))))
        x = torch.relu(self.beside(x) + self.conv4(torch.relu(self.conv3(x))))
        return self.head(self.pool(x).flatten(1))


class Depthwise(nn.Module):
    """MobileNet-shaped: expansion, depthwise, projection, and a sum where the shape allows it."""

    def __init__(self):
        super().__init__()

        def block(inputs, outputs, stride):
            wide = 2 * inputs
            return nn.Sequential(
                nn.Conv2d(inputs, wide, 1), nn.ReLU(),
                nn.Conv2d(wide, wide, 3, stride, 1, groups=wide), nn.ReLU(), nn.Conv2d(wide, outputs, 1),
            )  # fmt: skip

        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), block(8, 8, 1), block(8, 24, 2)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(self.two(x + self.one(x)).mean((2, 3)))


class QuantizedResidual(nn.Module):
    """Both branches read, and the sum adds, what one quantizer made."""

    def __init__(self):
        super().__init__()
        self.enter, self.conv1 = QuantIdentity("mxint8"), nn.Conv2d(3, 8, 3, padding=1)
        self.relu1, self.conv2 = QuantReLU("mxint8"), nn.Conv2d(8, 8, 3, padding=1)
        self.quant2, self.relu3, self.conv3 = QuantIdentity("mxfp8_e4m3"), QuantReLU("mxint8"), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.relu1(self.conv1(self.enter(x)))
        return self.conv3(self.relu3(x + self.quant2(self.conv2(x))))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 40, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(160, 24), nn.ReLU(), nn.Linear(24, 10),
    )  # fmt: skip


def sequence() -> nn.Module:
    """Keyword-spotting-shaped: one dimension."""
    return nn.Sequential(
        nn.Conv1d(10, 16, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 16, 3, groups=16), nn.ReLU(),
        nn.Conv1d(16, 40, 1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(40, 6),
    )  # fmt: skip


def shapes() -> nn.Module:
    """Strides, dilations, padding, kernels higher than wide, pools whose windows overlap, an image as the output."""
    return nn.Sequential(
        nn.Conv2d(3, 40, (3, 2), stride=(1, 2), padding=(2, 0)), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(40, 5, 3, padding=2, dilation=2, bias=False), nn.ReLU(), nn.AvgPool2d((2, 3), (2, 1)),
        nn.Conv2d(5, 33, 1), nn.ReLU(), nn.Conv2d(33, 3, 1),
    )  # fmt: skip


class UNet(nn.Module):
    """U-Net-shaped: down, up by a transposed convolution, and both side by side."""

    def __init__(self):
        super().__init__()
        self.down, self.bottom, self.pool = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.MaxPool2d(2),
        )
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.down(x))
        up = self.up(torch.relu(self.bottom(self.pool(x))))
        return self.out(torch.relu(torch.cat([x, up], 1)))


def activations() -> nn.Module:
    """Bounds, slopes, borders, repeated pixels, groups."""
    return nn.Sequential(
        nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 2, 2),
        nn.Hardtanh(), nn.Conv2d(8, 6, 3, groups=2), nn.LeakyReLU(0.1), nn.ConvTranspose2d(6, 3, 3, 2, 1, 1),
        nn.LeakyReLU(),
    )  # fmt: skip


class Parts(nn.Module):
    """MobileNetV3- and YOLO-shaped: hard-swish, channels split and joined, a crop; one layer is used twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.swish, self.out = nn.Hardswish(), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        left, right = self.swish(self.stem(x)).chunk(2, 1)
        right = torch.relu(self.twice(torch.relu(self.twice(right))))
        return self.out(torch.cat([left, right], 1)[:, :, 1:-1, 2:])


class Sums(nn.Module):
    """Differences, constants of channels added, subtracted and divided by, the largest value of an image."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
        self.register_buffer("means", torch.linspace(-0.4, 0.7, 8).reshape(8, 1, 1))

    def forward(self, x):
        x = (x - 0.25) / 0.5
        x = torch.relu(self.one(x)) - self.two(x)
        return 1 - self.head((x + self.means).amax((2, 3)))


class Classes(nn.Module):
    """A classifier that names the class itself, beside the logits' slice."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(128, 20))

    def forward(self, x):
        return self.body(x)[:, 3:13].argmax(1)


def large() -> nn.Module:
    """64 x 64 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 8, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def norms() -> nn.Module:
    """Batch norms that stay where they are, in front of a ReLU, behind it, and first."""
    made = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 2), nn.ReLU(), nn.BatchNorm2d(12), nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6),
    )  # fmt: skip
    for module in made:
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.2, 3)
    return made


NETWORKS = {
    "plain": (plain, (1, 8, 8)),
    "residual": (Residual, (3, 8, 6)),
    "depthwise": (Depthwise, (3, 12, 12)),
    "quantized residual": (QuantizedResidual, (3, 5, 6)),
    "sequence": (sequence, (10, 20)),
    "shapes": (shapes, (3, 9, 10)),
    "norms": (norms, (3, 8, 8)),
    "large": (large, (3, 64, 64)),
    "unet": (UNet, (3, 8, 6)),
    "parts": (Parts, (3, 6, 8)),
    "classes": (Classes, (1, 6, 6)),
    "sums": (Sums, (3, 5, 6)),
    "activations": (activations, (3, 7, 6)),
}


def digits() -> nn.Module:
    """Two convolutions with pools, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Branches(nn.Module):
    """A sum around a convolution, behind one with a stride."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.head = nn.AvgPool2d(3, 2, 1), nn.Linear(64, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(self.pool(torch.relu(x + self.inner(x))).flatten(1))


def separable() -> nn.Module:
    """Depthwise and pointwise."""
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU6(), nn.Conv2d(4, 8, 1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.LeakyReLU(0.25), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


FAST = {"digits": (digits, (1, 16, 16)), "branches": (Branches, (2, 16, 16)), "separable": (separable, (4, 16, 16))}
"""Made to take one pixel a cycle, and several."""


class Random(nn.Module):
    """A chain of layers drawn from a seed, some of them around a sum."""

    def __init__(self, seed: int):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.frame = (int(rng.integers(1, 6)), int(rng.integers(5, 10)), int(rng.integers(4, 9)))
        channels, self.steps = self.frame[0], nn.ModuleList()
        self.eval()
        x = torch.zeros(1, *self.frame)
        for _ in range(rng.integers(2, 5)):
            step, channels = _step(rng, channels, x.shape[2:])
            self.steps.append(step)
            x = step.eval()(x)
        plain = not any(hasattr(m, "weight") and m.weight.dim() > 1 for m in self.modules())  # nothing to quantize
        self.last = nn.Linear(x[0].numel(), int(rng.integers(2, 7))) if rng.random() < 0.7 or plain else None

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x if self.last is None else self.last(x.flatten(1))


class Around(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Halves(nn.Module):
    """Channels apart and joined the other way round, without the first row."""

    def forward(self, x):
        left, right = x.chunk(2, 1)
        return torch.cat([right, left], 1)[:, :, 1:]


class Joined(Around):
    def forward(self, x):
        return torch.cat([x, self.inner(x)], 1)


def _step(rng: np.random.Generator, channels: int, size) -> tuple[nn.Module, int]:
    height, width = size
    kind = rng.choice(["conv", "conv", "depthwise", "pool", "sum", "up", "joined", "halves"])
    after = [nn.ReLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, lambda: nn.Sequential()][rng.integers(6)]()
    kernel = tuple(int(rng.integers(1, min(n, 3) + 1)) for n in (height, width))
    if kind == "pool" and min(height, width) >= 4:
        pool = nn.MaxPool2d if rng.random() < 0.5 else nn.AvgPool2d
        return pool(kernel, tuple(int(n) for n in rng.integers(1, 3, 2))), channels
    if kind == "sum":
        inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1))
        return nn.Sequential(Around(inner), nn.ReLU()), channels
    if kind == "up" and max(height, width) <= 6:
        up = nn.Upsample(scale_factor=2) if rng.random() < 0.5 else nn.ConvTranspose2d(channels, 5, 2, 2)
        return up, channels if isinstance(up, nn.Upsample) else 5
    if kind == "joined":
        return Joined(nn.Sequential(nn.Conv2d(channels, 6, 1), after)), channels + 6
    if kind == "halves" and channels % 2 == 0 and height > 1:
        return Halves(), channels
    stride, padding = tuple(int(n) for n in rng.integers(1, 3, 2)), tuple(int(rng.integers(0, k)) for k in kernel)
    more = {"stride": stride, "padding": padding, "bias": bool(rng.random() < 0.6)}
    if kind == "depthwise" and channels > 1:
        return nn.Sequential(nn.Conv2d(channels, channels, kernel, groups=channels, **more), after), channels
    outputs = int(rng.choice([1, 3, 8, 33, 40]))
    norm = [nn.BatchNorm2d(outputs)] if rng.random() < 0.2 else []
    return nn.Sequential(nn.Conv2d(channels, outputs, kernel, **more), *norm, after), outputs


def compiled(model: nn.Module, frame: tuple[int, ...], formats: tuple[str, str], folder, seed: int = 0, **options):
    """(design, quantized model, inputs float32 [24, *frame]): exported, cleaned and compiled."""
    rng = np.random.default_rng(seed)
    x = (rng.integers(-128, 129, (24, *frame)) / 128).astype(np.float32)
    x[0] = 0
    quantized = mx.quantize_model(model.eval(), *formats)
    mx.export(quantized, (torch.from_numpy(x[:2]),), folder / "model.onnx")
    mx.clean(folder / "model.onnx", folder / "clean.onnx")
    return mx.compile(folder / "clean.onnx", folder / "fpga", calibration=x, **options), quantized, x
