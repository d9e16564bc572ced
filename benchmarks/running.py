"""How fast files run in onnxruntime, one thread: `python benchmarks/running.py [--large | --dataflow]`.

A MobileNetV2 (224 pixels, batch 4) and a 12-layer transformer (width 384, 4 sequences of 128 tokens), random weights,
cleaned. `mx.Session`: compiled operators, weights computed once. "library": plain onnxruntime with `mx.ort_library()`.
"bodies": plain onnxruntime with the settings of docs/running.md, nothing of ours installed. Every figure is the median
over turns of the time beside that of the float file in the same turn. `--large`: load, first run and peak memory of 85
million packed parameters, each in a process of its own. `--dataflow`: networks in hardware (two transformer blocks of
width 64, a convolutional network of 32 pixels), processor time by function bodies over that by kernels: of a run of
their dataflow graph on 16 frames, the file opened for it or before, and of `mx.compile`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from common import verdict
from depthwise_networks import MOBILENET_V2, InvertedResiduals
from rich.console import Console
from rich.table import Table
from torch import nn

import mxexport as mx
from mxexport.native.building import SWITCH

WAYS = ("mx.Session", "library", "bodies")
TARGETS = {"transformer": (1.15, 1.3, 2.0), "MobileNetV2": (2.5, 3.2, 10.0)}
FORMATS = {
    "transformer": (("mxint8", "mxint8"), ("mxfp4_e2m1", "mxfp8_e4m3")),
    "MobileNetV2": (("mxint8", "mxint8"), ("mxfp8_e4m3", "mxfp8_e4m3")),
}
TURNS = 7


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = (a.reshape(n, t, self.heads, -1).transpose(1, 2) for a in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = torch.softmax(q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5, -1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def network(name: str, width: int = 384, blocks: int = 12) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if name == "transformer":
        return nn.Sequential(*(Block(width, width // 64) for _ in range(blocks))).eval(), torch.randn(4, 128, width)
    return InvertedResiduals(MOBILENET_V2, 1000, 224).eval(), torch.randn(4, 3, 224, 224)


def export_float(model: nn.Module, x: torch.Tensor, path: Path) -> None:
    torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False)


def export_mx(model: nn.Module, x: torch.Tensor, weights: str, inputs: str, folder: Path) -> Path:
    mx.export(mx.quantize_model(model, weights, inputs), (x,), folder / "model.onnx")
    mx.clean(folder / "model.onnx", folder / "clean.onnx")
    return folder / "clean.onnx"


def plain(path: Path, library: bool = False, bodies: bool = False):
    """A function that runs a file in onnxruntime alone."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if library:
        options.register_custom_ops_library(mx.ort_library())
    options.enable_mem_reuse = not bodies
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"] * bodies
    )
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def ways(path: Path):
    session = mx.Session(path, threads=1)
    return {
        "mx.Session": lambda x: next(iter(session.run(x).values())),
        "library": plain(path, library=True),
        "bodies": plain(path, bodies=True),
    }


def compare(name: str, formats: tuple[str, str]) -> dict[str, float]:
    """Ratio to the float file for every way; their outputs are compared first."""
    model, x = network(name)
    with tempfile.TemporaryDirectory() as folder:
        export_float(model, x, Path(folder) / "float.onnx")
        functions = {"float": plain(Path(folder) / "float.onnx")} | ways(export_mx(model, x, *formats, Path(folder)))
    given = x.numpy()
    outputs = {way: function(given) for way, function in functions.items()}
    for way in WAYS:  # float32 sums in another order turn single codes
        np.testing.assert_allclose(outputs[way], outputs["bodies"], rtol=0, atol=0.05 * np.abs(outputs["bodies"]).max())
    times: dict[str, list[float]] = {way: [] for way in functions}
    for _ in range(TURNS):
        for way, function in functions.items():
            start = time.perf_counter()
            function(given)
            times[way].append(time.perf_counter() - start)
    return {way: statistics.median(a / b for a, b in zip(times[way], times["float"], strict=True)) for way in WAYS}


# --- 85 million parameters --------------------------------------------------------------------------------------


def export_large(folder: str) -> None:
    model, _ = network("transformer", 768, 12)
    x = torch.randn(1, 64, 768)
    np.save(Path(folder) / "x.npy", x.numpy())
    torch.onnx.export(model, (x,), f"{folder}/float.onnx", dynamo=True, verbose=False)
    quantized = mx.quantize_model(model, "mxfp4_e2m1", "mxfp8_e4m3")
    mx.export(quantized, (x,), f"{folder}/packed.onnx", weights="packed")


FIRST_RUN = """
import sys, time
from pathlib import Path
import numpy as np, onnxruntime
path, library = sys.argv[1:]
x = np.load(Path(path).with_name("x.npy"))
start = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
if library:
    options.register_custom_ops_library(library)
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: x})
seconds = time.perf_counter() - start
(peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(seconds, int(peak) / 1e6)
"""
"""Prints the seconds from opening a file to its first outputs, in onnxruntime alone, and the process's peak in GB."""


def large(console: Console) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "export_large", folder], check=True, stdout=subprocess.DEVNULL)
        found = {}
        for name, library in (("float", ""), ("packed", mx.ort_library())):
            command = [sys.executable, "-c", FIRST_RUN, f"{folder}/{name}.onnx", library]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name] = tuple(map(float, told.split()))
    for name, (seconds, peak) in found.items():
        console.print(f"85M parameters, {name}: {seconds:.2f} s to the first outputs, peak {peak:.2f} GB")
    console.print(f"packed, seconds, at most 1.5: {verdict(found['packed'][0], 1.5)}")
    peaks = verdict(found["packed"][1] / found["float"][1], 1)
    console.print(f"packed, peak over the float file's, at most 1: {peaks}")


# --- graphs of hardware -------------------------------------------------------------------------------------------


def hardware(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if name == "transformer":
        return nn.Sequential(Block(64, 4), Block(64, 4)).eval(), torch.randn(16, 32, 64)
    first = (nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU())
    rest = (nn.MaxPool2d(2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten())
    return nn.Sequential(*first, *rest, nn.Linear(64, 10)).eval(), torch.randn(16, 3, 32, 32)


def with_switch(switch: str, function: Callable[[], object]) -> tuple[float, object]:
    """Seconds of the processor, children's not counted, with MXEXPORT_NATIVE set; and what the function returns."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = switch
    try:
        start = time.process_time()
        found = function()
        return time.process_time() - start, found
    finally:
        os.environ.pop(SWITCH) if before is None else os.environ.update({SWITCH: before})


def by_bodies_over_kernels(clean: Path, x: np.ndarray, out: Path) -> list[float]:
    """Ratios of processor time: a run that opens the graph, one that has it open, `mx.compile`. The bits are equal."""
    taken, raw = {}, []
    for switch in ("0", "1"):
        compiling, design = with_switch(switch, partial(mx.compile, clean, out / switch, calibration=x))
        opening, _ = with_switch(switch, partial(design.run_dataflow, x))
        running, found = with_switch(switch, partial(design.run_dataflow, x))
        taken[switch] = opening, running, compiling
        raw.append(found.raw)
    np.testing.assert_array_equal(*raw)
    return [a / b for a, b in zip(taken["0"], taken["1"], strict=True)]


def dataflow(console: Console) -> None:
    title = "processor time by bodies over that by kernels"
    table = Table("network", "run, file opened", "run", "compile", title=title)
    for name in ("transformer", "convolutions"):
        model, x = hardware(name)
        with tempfile.TemporaryDirectory() as folder:
            quantized = mx.quantize_model(model, "mxint8", "mxfp8_e4m3", attention=True).eval()
            mx.export(quantized, (x[:2],), f"{folder}/model.onnx")
            mx.clean(f"{folder}/model.onnx", f"{folder}/clean.onnx")
            clean, turns = Path(folder) / "clean.onnx", range(4)
            ratios = [by_bodies_over_kernels(clean, x.numpy(), Path(folder) / f"turn{turn}") for turn in turns]
        table.add_row(name, *(f"{statistics.median(part):.1f}" for part in zip(*ratios[1:], strict=True)))
    console.print(table)


def main() -> None:
    console = Console()
    if "--dataflow" in sys.argv:
        dataflow(console)
        return
    table = Table("network", "weights / inputs", *WAYS, title="time over the float file's in onnxruntime (target)")
    for name, pairs in FORMATS.items():
        for formats in pairs:
            found = compare(name, formats)
            cells = [verdict(found[way], target) for way, target in zip(WAYS, TARGETS[name], strict=True)]
            table.add_row(name, " / ".join(formats), *cells)
    console.print(table)
    if "--large" in sys.argv:
        large(console)


if __name__ == "__main__":
    if sys.argv[1:2] == ["export_large"]:
        export_large(*sys.argv[2:])
    else:
        main()
