"""Networks whose designs become units inside of FINN: small, in several formats, at several rates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import mxexport as mx
from mxexport.fpga.design import Design
from mxexport.fpga.streams.types import from_stream
from mxexport.numbers import fixedpoint
from mxexport.quant import QuantReLU, freeze_scales
from mxexport.running import executors
from tests.finn.networks import STATIC
from tests.hardware_networks import Residual

FRAMES = 3


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(10, 12), nn.Linear(6, 12), nn.Linear(12, 5)

    def forward(self, x, y):
        return self.head(torch.relu(self.a(x) + self.b(y)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 6))


def short() -> nn.Module:
    """Fast, its vectors are no multiple of what comes in a beat."""
    return nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 4))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 6),
    )  # fmt: skip


def image() -> nn.Module:
    """Pixels side by side where it is fast; an image comes out."""
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))


@dataclass(frozen=True)
class Case:
    """`cycles`: of a frame, asked for; None: by default. `units`: layers of each."""

    network: str
    format: str
    units: tuple[str, ...]
    cycles: int | None = None

    def __str__(self) -> str:
        return f"{self.network}, {self.format}" + (f", {self.cycles} cycles" if self.cycles else "")


NETWORKS = {
    "MLP": (mlp, [(70,)]),
    "short MLP": (short, [(40,)]),
    "CNN": (cnn, [(3, 8, 8)]),
    "residual": (Residual, [(3, 8, 8)]),
    "image": (image, [(4, 8, 8)]),
    "two inputs": (TwoInputs, [(10,), (6,)]),
}
CASES = [
    Case("MLP", "mxint8", ("0", "2", "4")),
    Case("MLP", "mxfp8_e4m3", ("0", "2", "4")),
    Case("short MLP", "mxint4", ("0", "2"), 2),
    Case("CNN", "mxfp6_e2m3", ("0", "3", "6")),
    Case("residual", "mxint4", ("stem", "conv1 to conv2", "beside to conv4", "head")),
    Case("image", "mxint4", ("0", "3"), 32),
    Case("two inputs", "mxint8", ("a to b", "head")),
]


def eighths(*shape: int) -> torch.Tensor:
    return torch.randint(-16, 17, shape) / 8


def compiled(model: nn.Module, weight: str, activation: str, inputs: list[torch.Tensor], out: Path, **options):
    """The design at `out` of a model quantized, exported and cleaned."""
    quantized, file = mx.quantize_model(model, weight, activation).eval(), out.with_suffix(".onnx")
    mx.export(quantized, tuple(x[:1] for x in inputs), file)
    mx.clean(file, file.with_suffix(".clean.onnx"))
    given = tuple(x.numpy() for x in inputs) if len(inputs) > 1 else inputs[0].numpy()
    return mx.compile(file.with_suffix(".clean.onnx"), out, calibration=given, **options)


def design(case: Case, folder: Path) -> Design:
    torch.manual_seed(0)
    make, shapes = NETWORKS[case.network]
    rate = {} if case.cycles is None else {"target_fps": 200e6 / case.cycles}
    inputs = [eighths(16, *shape) for shape in shapes]
    return compiled(make(), case.format, case.format, inputs, folder / "design", **rate)


def frames(made: Design) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Whole numbers over the whole range of every input, and the network's values for them, as streams have them."""
    rng, network = np.random.default_rng(3), made.network
    given = {}
    for stream in network.inputs:
        most = 2 ** (network.streams[stream].width - 1)
        given[stream] = rng.integers(-most, most, (FRAMES, *network.streams[stream].shape))
    (end,) = network.outputs
    raw = executors.run(made.path / "dataflow.onnx", given, [end])[end]
    values = fixedpoint.to_float32(raw, network.streams[end].lsb_exp)
    if len(given) == 1:
        (stream,) = given
        floats = from_stream(np.ldexp(given[stream], network.streams[stream].lsb_exp), network.frames[stream])
        ran = made.run_dataflow(floats.astype(np.float32)).values
        assert np.array_equal(from_stream(values, network.frames[end]), ran)
    return given, values


def frozen(model: nn.Module, x: torch.Tensor, file: Path) -> torch.Tensor:
    """Layers with constant scales, converted for FINN into `file`; what they give."""
    quantized = mx.quantize_model(model, "mxint4", STATIC)
    quantized.train()
    quantized(x)
    freeze_scales(quantized)
    exported = file.with_suffix(".exported.onnx")
    mx.export(quantized.eval(), (x[:1],), exported)
    mx.convert(exported, file, to="finn")
    return quantized(x).detach()


@dataclass(frozen=True)
class Mixed:
    """Layers of FINN in front of a design and behind it."""

    front: Path
    design: Design
    back: Path
    x: np.ndarray


def mixed(images: bool, folder: Path) -> Mixed:
    torch.manual_seed(0)
    if images:
        x = eighths(32, 3, 8, 8)
        front = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), QuantReLU(STATIC))
        middle = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 6, 1, bias=False))
        back = nn.Sequential(nn.Conv2d(6, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 6))
    else:
        x = eighths(32, 70)
        front = nn.Sequential(nn.Linear(70, 40), QuantReLU(STATIC))
        middle = nn.Sequential(nn.Linear(40, 24, bias=False), nn.ReLU(), nn.Linear(24, 16, bias=False))
        back = nn.Sequential(nn.Linear(16, 6))
    files = folder / "front.onnx", folder / "back.onnx"
    h = frozen(front, x, files[0])
    made = compiled(middle, "mxint4", "mxint4", [h], folder / "design")
    frozen(back, torch.from_numpy(made.run_dataflow(h.numpy()).values), files[1])
    return Mixed(files[0], made, files[1], x[:FRAMES].numpy())
