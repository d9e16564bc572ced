"""The shape of ResNet-18 at 224 x 224, weights drawn: lowered, folded, sized, and RTL that lints clean."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from tests.helpers import lint

pytestmark = pytest.mark.skipif(not os.environ.get("MXEXPORT_FULL"), reason="takes a minute and 2 GB: make test-full")


def normed(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.one, self.two = normed(inputs, outputs, 3, stride), normed(outputs, outputs, 3)
        self.beside = normed(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.beside(x) + self.two(torch.relu(self.one(x))))


def resnet18() -> nn.Module:
    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2),
             (512, 512, 1)]  # fmt: skip
    return nn.Sequential(
        normed(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *(Block(*size) for size in sizes),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000),
    )  # fmt: skip


def test_resnet18_lowers_folds_and_lints(tmp_path):
    torch.manual_seed(0)
    model = mx.quantize_model(resnet18().eval(), "mxint8", "mxint8", fold_batch_norm=True)
    x = np.random.default_rng(0).integers(-128, 128, (2, 3, 224, 224)).astype(np.float32) / 128
    mx.export(model, (torch.from_numpy(x),), tmp_path / "m.onnx")
    mx.clean(tmp_path / "m.onnx", tmp_path / "clean.onnx")
    assert mx.check(tmp_path / "clean.onnx", target="fpga") == []
    design = mx.compile(tmp_path / "clean.onnx", tmp_path / "fpga", calibration=x, part="xcu250", target_fps=100)
    assert len(design.report["layers"]) == 21 and len(design.report["fifos"]) >= 8
    assert design.report["frames_per_second"] >= 100 and design.report["limit"] is None
    assert lint(design) == ""
