"""Networks in hardware: accuracy of the RTL, cycles, latency and area; and published networks by their shape.

    python benchmarks/hardware.py            runs what build/hardware does not hold yet, writes docs/hardware.md
    python benchmarks/hardware.py --only cnn-mxint8 residual-mxint8
    python benchmarks/hardware.py --workers 2, --scheduler tcp://host:8786: designs on several processes, a cluster with
                                             workers that have this checkout on a disk they share

Digits: 5,000 of MNIST, 1,000 of them held out, trained as `mxexport demo` does; the RTL simulates all 1,000; area by
Yosys. The CNN once more, at one pixel a cycle and at two, area by the estimate. Shapes: weights drawn, folded
for the published rate at 200 MHz; cycles by the timing model, area by the estimate.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import add_cluster, cluster_of, write
from torch import nn

import mxexport as mx
from mxexport import cluster
from mxexport.cli.demo_run import load_digits, run_demo
from mxexport.cli.digit_networks import NETWORKS as DEMO_NETWORKS

ROOT = Path(__file__).resolve().parent.parent
BUILD, DOCUMENT = ROOT / "build" / "hardware", ROOT / "docs" / "hardware.md"
DIGITS, FAST, SHAPES = "hardware-table", "hardware-fast", "hardware-shapes"
NETWORKS = ("mlp", "cnn", "residual", "depthwise")
FORMATS = ("mxint8", "mxfp6_e2m3", "mxfp4_e2m1")
CLOCK = 200.0


def vgg() -> nn.Module:
    """CNV: three pairs of 3 x 3 convolutions without padding, two pools, three linear layers."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate([(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]):
        layers += [nn.Conv2d(inputs, outputs, 3), nn.ReLU()] + [nn.MaxPool2d(2)] * (i in (1, 3))
    return nn.Sequential(*layers, nn.Flatten(), *linear(256, 512, 512, 10))


def linear(*sizes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]


class Sum(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.one, self.two = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.beside = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.beside(x) + self.two(torch.relu(self.one(x))))


def resnet8() -> nn.Module:
    """RN08 of MLPerf Tiny."""
    stem = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
    blocks = [Sum(16, 16, 1), Sum(16, 32, 2), Sum(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


PUBLISHED = {
    "TFC, 784-64-64-64-10": (lambda: nn.Sequential(*linear(784, 64, 64, 64, 10)), (784,), 1_430_000,
                             "FINN TFC-w2a2: 1.19 M frames/s on AUP-ZU3, 1.43 M and 28.5k LUT in an older report"),
    "CNV, 32 x 32": (vgg, (3, 32, 32), 3_031, "FINN CNV-w2a2: 3,031 frames/s, 36.9k LUT"),
    "KWS MLP, 490-256-256-256-12": (lambda: nn.Sequential(*linear(490, 256, 256, 256, 12)), (490,), 268_672,
                                    "FINN KWS-w3a3: 268,672 frames/s"),
    "RN08, 32 x 32": (resnet8, (3, 32, 32), 131, "hls4ml RN08 on Pynq-Z2: 130.8 frames/s"),
}  # fmt: skip
"""Name -> (network, frame, frames per second, what was published)."""


def digits(network: str, format_name: str) -> dict:
    """The figures of one trained network, made once."""
    folder = BUILD / f"{network}-{format_name}"
    file = folder / "demo.json"
    if not file.exists():
        start = time.monotonic()
        run_demo(format_name, folder, network=network, progress=lambda text: print(f"  {text}", flush=True))
        print(f"{folder.name}: {time.monotonic() - start:.0f} s", flush=True)
    return json.loads(file.read_text())


def fast(format_name: str, pixels: int) -> dict:
    """The trained CNN, folded for so many pixels a cycle: its report, and the accuracy of its RTL; made once."""
    folder = BUILD / f"cnn-{format_name}"
    file = folder / f"{pixels}.json"
    if not file.exists():
        train_set, test = (d.framed(DEMO_NETWORKS["cnn"].frame) for d in load_digits())
        cycles = math.prod(DEMO_NETWORKS["cnn"].frame) // pixels
        design = mx.compile(
            folder / "model.onnx",
            folder / f"fpga-{pixels}",
            calibration=train_set.x[:1000],
            target_fps=CLOCK * 1e6 / cycles,
            clock_mhz=CLOCK,
        )
        run = design.simulate(test.x)
        assert (run.raw == design.run_dataflow(test.x).raw).all()
        measured = {"cycles": run.cycles / len(test.x), "rtl": 100 * float((run.values.argmax(1) == test.y).mean())}
        file.write_text(json.dumps(design.report | measured))
    return json.loads(file.read_text())


def fast_table(found: list[tuple[str, int, dict]]) -> str:
    rows = ["| format | pixels a cycle | RTL | cycles | latency | frames/s | LUT | DSP | BRAM36 |", "|---" * 9 + "|"]
    for fmt, pixels, r in found:
        e = r["estimate"]
        rows.append(
            f"| `{fmt}` | {pixels} | {r['rtl']:.1f} | {r['cycles']:,.1f} | {r['latency_cycles']:,} "
            f"| {CLOCK * 1e6 / r['cycles']:,.0f} | {e['lut']:,.0f} | {e['dsp']:,.0f} | {e['bram36']:g} |"
        )
    return "\n".join(rows)


def shape(name: str, format_name: str) -> dict:
    make, frame, rate, published = PUBLISHED[name]
    torch.manual_seed(0)
    model = mx.quantize_model(make().eval(), format_name, format_name)
    x = np.random.default_rng(0).integers(-128, 128, (4, *frame)).astype(np.float32) / 128
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary)
        mx.export(model, (torch.from_numpy(x),), path / "m.onnx")
        mx.clean(path / "m.onnx", path / "clean.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            design = mx.compile(path / "clean.onnx", path / "fpga", calibration=x, target_fps=rate, clock_mhz=CLOCK)
        return design.report | {"published": published}


def digit_table(results: list[dict]) -> str:
    rows = [
        "| network | format | torch | RTL | cycles | latency | frames/s | LUT | FF | DSP | BRAM36 |",
        "|---" * 11 + "|",
    ]
    for r in results:
        total, accuracy = r["area"]["total"], r["accuracy"]
        cycles = r["cycles_per_image"]
        rows.append(
            f"| {r['network']} | `{r['format']}` | {accuracy['torch']:.1f} | {accuracy['rtl']:.1f} | {cycles:,.0f} "
            f"| {r['latency_cycles']:,} | {CLOCK * 1e6 / cycles:,.0f} | {total['lut']:,} | {total['ff']:,} "
            f"| {total['dsp']} | {total['bram36']:g} |"
        )
    return "\n".join(rows)


def shape_table(found: list[tuple[str, str, dict]]) -> str:
    rows = ["| shape | format | frames/s | cycles | latency | LUT | DSP | BRAM36 | published |", "|---" * 9 + "|"]
    for name, fmt, r in found:
        e = r["estimate"]
        rows.append(
            f"| {name} | `{fmt}` | {r['frames_per_second']:,.0f} | {r['cycles_per_frame']:,} | {r['latency_cycles']:,} "
            f"| {e['lut']:,.0f} | {e['dsp']:,.0f} | {e['bram36']:,.0f} | {r['published']} |"
        )
    return "\n".join(rows)


def _each(function: Callable[..., dict], arguments: tuple) -> dict:
    return function(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="network-format, of the digits; others come from build/hardware")
    add_cluster(parser)
    options = parser.parse_args()
    names = [
        (network, fmt)
        for network in NETWORKS
        for fmt in FORMATS
        if options.only is None
        or f"{network}-{fmt}" in options.only
        or (BUILD / f"{network}-{fmt}" / "demo.json").exists()
    ]
    wanted = [(name, fmt) for name in PUBLISHED for fmt in ("mxint8", "mxfp4_e2m1")]
    faster = [(fmt, pixels) for fmt in ("mxint8", "mxfp4_e2m1") for pixels in (1, 2)]
    with cluster.connected(cluster_of(options)) as runner:
        results = runner.map(_each, names, shared=(digits,), resources={"sim": 1, "synth": 1})
        shapes = runner.map(_each, wanted, shared=(shape,))
        fastest = runner.map(_each, faster, shared=(fast,), resources={"sim": 1})
    shapes = [(*which, found) for which, found in zip(wanted, shapes, strict=True)]
    faster = [(*which, found) for which, found in zip(faster, fastest, strict=True)]
    tables = {DIGITS: digit_table(results), FAST: fast_table(faster), SHAPES: shape_table(shapes)}
    for marker, table in tables.items():
        print(table, flush=True)
        write(table, DOCUMENT, (f"<!-- {marker} -->", f"<!-- /{marker} -->"))


if __name__ == "__main__":
    main()
