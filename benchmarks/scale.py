"""Memory of large models: `python benchmarks/scale.py [--large]`, each step in a process of its own.

100 million parameters: onnxruntime with the MX file, of float and of packed weights, against its float twin, each with
its weights in a data file. `--large`: 600 million parameters (over 2 GB of float32) through export, clean and verify.
Figures are peaks of resident memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import verdict
from rich.console import Console

SMALL, LARGE = (1024, 8), (2048, 12)  # width, blocks
TOKENS = 16
RATIO, LARGE_GB = 2.0, 8.0


def build(width: int, blocks: int):
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
            x = x + self.out(torch.softmax(q @ k.transpose(-1, -2) / width**0.5, -1) @ v)
            return x + self.down(torch.relu(self.up(self.norm2(x))))

    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(blocks))).eval()


def export_mx(width: int, blocks: int, path: str, weights: str = "float") -> None:
    import torch

    import mxexport as mx

    model = mx.quantize_model(build(width, blocks), "mxfp4_e2m1", "mxfp8_e4m3")
    mx.export(model, (torch.zeros(1, TOKENS, width),), path, weights=weights, external_data=True)


def export_float(width: int, blocks: int, path: str) -> None:
    import torch

    torch.onnx.export(build(width, blocks), (torch.zeros(2, TOKENS, width),), path, dynamo=True, verbose=False)


def clean(path: str, cleaned: str) -> None:
    import mxexport as mx

    mx.clean(path, cleaned)


def run(path: str) -> None:
    from mxexport.model.reader import read_proto
    from mxexport.running import drawing, executors

    executors.run(path, drawing.random_inputs(read_proto(path)))


def verify(a: str, b: str) -> None:
    import mxexport as mx

    result = mx.verify(a, b, isolate=True)
    print(result)
    result.raise_if_different()


STEPS = {f.__name__: f for f in (export_mx, export_float, clean, run, verify)}


def peak_gb(step: str, *arguments) -> float:
    """Peak of the step's process, or of the largest process it started."""
    child = subprocess.Popen([sys.executable, __file__, step, *map(str, arguments)])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{step} failed with status {child.returncode}")
    return usage.ru_maxrss / 1e6 if sys.platform != "darwin" else usage.ru_maxrss / 1e9


def main(large: bool) -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peak_gb("export_float", *SMALL, folder / "float.onnx")
        twin = peak_gb("run", folder / "float.onnx")
        console.print(f"100M parameters in onnxruntime, float twin: {twin:.2f} GB")
        for weights in ("float", "packed"):
            path = folder / f"{weights}_weights.onnx"
            peak_gb("export_mx", *SMALL, path, weights)
            peak = peak_gb("run", path)
            ratio = verdict(peak / twin, RATIO)
            console.print(f"MX, {weights} weights: {peak:.2f} GB; ratio to the twin, at most {RATIO}: {ratio}")
    if not large:
        return
    with tempfile.TemporaryDirectory() as name:
        a, b = Path(name) / "a.onnx", Path(name) / "b.onnx"
        steps = {"export_mx": (*LARGE, a), "clean": (a, b), "run": (a,), "verify": (a, b)}
        for step, arguments in steps.items():
            peak = verdict(peak_gb(step, *arguments), LARGE_GB)
            console.print(f"600M parameters, {step}: GB of memory, at most {LARGE_GB}: {peak}")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in STEPS:
        step, *arguments = sys.argv[1:]
        STEPS[step](*(int(a) if a.isdigit() else a for a in arguments))
    else:
        main("--large" in sys.argv)
