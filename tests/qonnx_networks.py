"""Small networks as FPGA users bring them to qonnx: exported and cleaned, weights as floats and packed."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

import mxexport as mx

FORMATS = {"weight": "mxfp4_e2m1_g16", "activation": "mxfp8_e4m3_g16"}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.depthwise, self.fc = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.fc((x + self.depthwise(x)).mean([2, 3]))


class Attention(nn.Module):
    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.scores, self.context = mx.QuantMatMul("mxfp8_e4m3_g16"), mx.QuantMatMul("mxfp8_e4m3_g16")

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = self.context(torch.softmax(self.scores(q, k.transpose(-1, -2)), -1), v)
        return x + mixed.transpose(1, 2).flatten(2)


def brevitas() -> nn.Module:
    """Quantizers of QONNX and of MX; the norm is as it starts: weight and variance, bias and mean are equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import brevitas.nn as qnn
        from brevitas.quant.experimental.mx_quant_ocp import MXFloat8e4m3Act, MXFloat8e4m3Weight

    mixed = {"weight_quant": MXFloat8e4m3Weight, "input_quant": MXFloat8e4m3Act}
    layers = [qnn.QuantConv2d(3, 4, 3, weight_bit_width=4), nn.BatchNorm2d(4), qnn.QuantReLU(bit_width=4), nn.Flatten()]
    return nn.Sequential(*layers, qnn.QuantLinear(16, 3, bias=True, **mixed))


NETWORKS = {
    "packed": (lambda: nn.Sequential(nn.Linear(20, 8), nn.ReLU()), (1, 20), {"weights": "packed"}, None),
    "residual": (Residual, (1, 3, 4, 4), {}, {}),
    "attention": (Attention, (1, 4, 8), {}, {"pack": False}),
    "brevitas": (brevitas, (1, 3, 4, 4), {}, None),
}
"""Name -> the model, the shape of its input, options of `export`, and those of `clean` (None: as exported)."""


def write(name: str, folder: Path, **options) -> Path:
    """The file of a network, with one batch unless `options` of `export` say otherwise."""
    make, shape, exported, cleaned = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    if name == "brevitas":
        model(torch.rand(shape))
    else:
        model = mx.quantize_model(model, **FORMATS).eval()
    path = folder / f"{name}.onnx"
    mx.export(model, (torch.rand(shape),), path, **{"dynamic_batch": False} | exported | options)
    if cleaned is not None:
        mx.clean(path, path, **cleaned)
    return path
