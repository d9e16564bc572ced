"""Networks people put on FPGAs, small, quantized with constant scales."""

from __future__ import annotations

import torch
from torch import nn

import mxexport as mx
from mxexport.quant import QuantIdentity, QuantReLU, freeze_scales

STATIC = mx.QuantSpec("mxint8", source="static", scaling_per_output="tensor")
"""Powers of two, one for the tensor."""
CHANNEL = mx.QuantSpec("int4", scaling_per_output="channel")


class Apart(nn.Linear):
    """Inputs in groups of 32 whose weights lie powers of two apart: the wide fold has to hold all of them."""

    def __init__(self, *sizes: int, octaves: int):
        super().__init__(*sizes)
        with torch.no_grad():
            self.weight *= torch.exp2(-torch.arange(sizes[0]).div(32, rounding_mode="floor") * octaves).float()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 6))


def apart(octaves: int) -> nn.Module:
    made, wide = mlp(), Apart(70, 40, octaves=octaves)
    made[0].load_state_dict(wide.state_dict())
    return made


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 6),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(1152, 6),
    )  # fmt: skip


def shapes() -> nn.Module:
    """Strides, dilations, groups, kernels higher than wide, a pool whose windows overlap."""
    return nn.Sequential(
        nn.Conv2d(3, 32, (3, 2), stride=(1, 2)), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=2), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(32, 64, 1, groups=32), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 3 * 2, 6),
    )  # fmt: skip


def sequence() -> nn.Module:
    """[batch, channels, 1, length]: FINN runs over images."""
    return nn.Sequential(
        nn.Conv2d(3, 32, (1, 3)), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d((1, 2)),
        nn.Flatten(), nn.Linear(32 * 8 * 3, 6),
    )  # fmt: skip


class ResidualMLP(nn.Module):
    """As `Residual`, without images."""

    def __init__(self):
        super().__init__()
        self.quant_in, self.enter, self.quant1 = QuantIdentity(STATIC), nn.Linear(70, 40), QuantReLU(STATIC)
        self.inner, self.quant2, self.quant3 = nn.Linear(40, 40), QuantIdentity(STATIC), QuantReLU(STATIC)
        self.head = nn.Linear(40, 6)

    def forward(self, x):
        x = self.quant1(self.enter(self.quant_in(x)))
        return self.head(self.quant3(x + self.quant2(self.inner(x))))


class Residual(nn.Module):
    """Every branch reads the codes of one quantizer; activations are quantized here, so layers take weights only."""

    def __init__(self, pool: str = ""):
        super().__init__()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.place = pool
        self.quant_in = QuantIdentity(STATIC)
        self.conv1, self.norm1 = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.quant1 = QuantReLU(STATIC)
        self.conv2, self.norm2 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.quant2 = QuantIdentity(STATIC)
        self.quant3 = QuantReLU(STATIC)
        self.head = nn.Linear(32 * (16 if pool else 64), 6)

    def forward(self, x):
        x = self.norm1(self.conv1(self.quant_in(x)))
        x = self.pool(self.quant1(x)) if self.place == "behind" else self.quant1(self.pool(x))
        y = self.quant2(self.norm2(self.conv2(x)))
        return self.head(self.quant3(x + y).flatten(1))


def twice() -> nn.Module:
    """Every activation is quantized behind its ReLU, and again by the layer that reads it."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32), QuantReLU(STATIC),
        nn.Conv2d(32, 32, 3, bias=False), nn.BatchNorm2d(32), QuantReLU(STATIC),
        nn.Flatten(), nn.Linear(512, 6),
    )  # fmt: skip


OURS = {
    "MLP": mlp,
    "MLP, groups 2**4 apart": lambda: apart(4),
    "MLP, groups 2**9 apart": lambda: apart(9),
    "CNN": cnn,
    "CNN, quantizers twice": twice,
    "depthwise": depthwise,
    "shapes": shapes,
    "sequence": sequence,
    "residual MLP": ResidualMLP,
    "residual": Residual,
    "residual, pool in front of the quantizer": lambda: Residual("before"),
    "residual, pool behind the quantizer": lambda: Residual("behind"),
}


def brevitas(name: str, weight: str) -> nn.Module:
    from brevitas import nn as qnn
    from brevitas.quant import (
        Int8ActPerTensorFixedPoint,
        Int8ActPerTensorFloat,
        Int8WeightPerChannelFloat,
        Int8WeightPerTensorFixedPoint,
        Uint8ActPerTensorFixedPoint,
        Uint8ActPerTensorFloat,
    )

    fixed = "fixed" in weight
    four = {
        "weight_quant": Int8WeightPerTensorFixedPoint if fixed else Int8WeightPerChannelFloat,
        "weight_bit_width": 4,
    }
    enter = qnn.QuantIdentity(act_quant=Int8ActPerTensorFixedPoint if fixed else Int8ActPerTensorFloat)

    def relu():
        return qnn.QuantReLU(act_quant=Uint8ActPerTensorFixedPoint if fixed else Uint8ActPerTensorFloat, bit_width=4)

    if name == "Brevitas MLP":
        return nn.Sequential(enter, qnn.QuantLinear(70, 40, **four), relu(), qnn.QuantLinear(40, 6, **four))
    return nn.Sequential(
        enter,
        qnn.QuantConv2d(3, 32, 3, bias=False, **four), nn.BatchNorm2d(32), relu(),
        qnn.QuantConv2d(32, 32, 3, bias=False, **four), nn.BatchNorm2d(32), relu(),
        nn.Flatten(), qnn.QuantLinear(512, 6, **four),
    )  # fmt: skip


def made(name: str, weight: str) -> tuple[nn.Module, torch.Tensor]:
    """The network, calibrated, and samples [4, ...] whose values are multiples of 1/8: ties happen."""
    torch.manual_seed(0)
    ours = name in OURS
    model = OURS[name]() if ours else brevitas(name, weight)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    if ours:
        activation = None if isinstance(model, Residual | ResidualMLP) else STATIC
        model = mx.quantize_model(model, CHANNEL if weight == "int4 per channel" else weight, activation)
    data = torch.randint(-16, 17, (32, *((70,) if "MLP" in name else (3, 8, 8)))) / 8
    model.train()
    model(data)
    if ours:
        freeze_scales(model)
    return model.eval(), data[:4]
