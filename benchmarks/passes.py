"""Cost of cleaning: seconds and how they grow, peak memory, with qonnx's cleanup and onnxslim beside.

python benchmarks/passes.py [--peers]
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from mxexport.model import graph
from mxexport.passes import PIPELINE, clean, run_passes

_PEER_SECONDS = 60
_SECONDS = {"chain of 4,000": 5, "ResNet-18": 2, "transformer 12 x 384": 3}
_MEMORY, _GROWTH = 1.5, 2.3


def chain(nodes: int, width: int = 64, layers_of: int = 8) -> onnx.ModelProto:
    """Layers of constant scale, quantized weight, Gemm, ReLU and things to clean, `nodes` in all."""
    made, weights, rng, x = [], [], np.random.default_rng(0), "x"
    for i in range(nodes // layers_of):
        weight = rng.standard_normal((width, width)).astype(np.float32)
        scale = np.exp2(rng.integers(-3, 1, (width, width // 32))).astype(np.float32)
        weights += [numpy_helper.from_array(weight, f"w{i}"), numpy_helper.from_array(scale, f"s{i}")]
        weights += [numpy_helper.from_array(np.zeros(width, np.float32), f"b{i}")]
        quantizer = {"domain": "mxexport.ops", "axis": 1, "group_size": 32, "bit_width": 4, "signed": 1, "narrow": 1}
        made += [
            helper.make_node("GroupwiseQuant", [f"w{i}", f"s{i}"], [f"q{i}"], f"q{i}", **quantizer),
            helper.make_node("Gemm", [x, f"q{i}", f"b{i}"], [f"g{i}"], f"g{i}", transB=1),
            helper.make_node("Identity", [f"g{i}"], [f"i{i}"], f"i{i}"),
            helper.make_node("Relu", [f"i{i}"], [f"r{i}"], f"r{i}"),
            helper.make_node("Constant", [], [f"c{i}"], f"c{i}", value=numpy_helper.from_array(np.float32(0.5))),
            helper.make_node("Neg", [f"c{i}"], [f"n{i}"], f"n{i}"),
            helper.make_node("Abs", [f"n{i}"], [f"a{i}"], f"a{i}"),
            helper.make_node("Mul", [f"r{i}", f"a{i}"], [f"x{i}"], f"x{i}"),
        ]
        x = f"x{i}"
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", width])]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("mxexport.ops", 1)]
    built = helper.make_graph(made, "chain", inputs, outputs, weights)
    return helper.make_model(built, opset_imports=imports, ir_version=10)


def export_resnet18(path: Path) -> None:
    import torch
    from torch import nn

    import mxexport as mx

    class Block(nn.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
            self.skip = nn.Sequential()
            if stride != 1 or i != o:
                self.skip = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            return torch.relu(self.bn2(self.conv2(y)) + self.skip(x))

    widths, layers, i = (64, 128, 256, 512), [], 64
    for o in widths:
        layers += [Block(i, o, 1 if o == 64 else 2), Block(o, o, 1)]
        i = o
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    net = nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))
    mx.export(mx.quantize_model(net, "mxfp4_e2m1", "mxint8"), (torch.zeros(1, 3, 64, 64),), path)


def export_transformer(path: Path) -> None:
    import torch
    from torch import nn

    import mxexport as mx

    class Block(nn.Module):
        def __init__(self, d=384):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
            self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
            self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

        def forward(self, x):
            y = self.norm1(x)
            q, k, v = (f(y).unflatten(-1, (6, 64)).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = torch.softmax(q @ k.transpose(-1, -2) / 8, -1) @ v
            x = x + self.o(y.transpose(1, 2).flatten(2))
            return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))

    net = nn.Sequential(*(Block() for _ in range(12)))
    mx.export(mx.quantize_model(net, "mxfp4_e2m1", "mxint8"), (torch.zeros(1, 32, 384),), path)


# --- measuring ------------------------------------------------------------------------------------------------


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    """Highest resident size since `_forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _warm_up(folder: str) -> None:
    """Imports, first calls and schemas are no part of the cost."""
    onnx.save(chain(80), Path(folder) / "small.onnx")
    clean(Path(folder) / "small.onnx", Path(folder) / "clean.onnx")


def _ours(path: str, results) -> None:
    """Seconds, peak memory beyond what was there before, census before and after; from file to file."""
    with tempfile.TemporaryDirectory() as folder:
        _warm_up(folder)
        base = _resident()
        _forget_peak()
        start = time.perf_counter()
        report = clean(path, Path(folder) / "clean.onnx")
        seconds = time.perf_counter() - start
        results.put((seconds, _peak() - base, report.before, report.after))


def _passes_alone(path: str, results) -> None:
    """Peak memory beyond a model that is in memory already."""
    with tempfile.TemporaryDirectory() as folder:
        _warm_up(folder)
        model = graph.load(path)
        base = _resident()
        _forget_peak()
        run_passes(model, PIPELINE)
        results.put(_peak() - base)


def _qonnx(path: str, results) -> None:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.cleanup import cleanup_model

    model = ModelWrapper(path)
    start = time.perf_counter()
    cleanup_model(model)
    results.put(time.perf_counter() - start)


def _onnxslim(path: str, results) -> None:
    import onnxslim

    start = time.perf_counter()
    onnxslim.slim(path)
    results.put(time.perf_counter() - start)


def apart(function, path: str, seconds: float = _PEER_SECONDS):
    """The result of `function` in a process of its own; None where it fails or takes longer."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=function, args=(path, results))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.terminate()
        return None
    return results.get() if process.exitcode == 0 else None


def main(peers: bool) -> None:
    from common import verdict

    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for nodes in (4000, 8000):
            files[f"chain of {nodes:,}"] = Path(folder) / f"chain{nodes}.onnx"
            onnx.save(chain(nodes), files[f"chain of {nodes:,}"])
        for name, export in (("ResNet-18", export_resnet18), ("transformer 12 x 384", export_transformer)):
            files[name] = Path(folder) / f"{name.split()[0]}.onnx"
            export(files[name])
        table = Table(
            title="mxexport clean", caption="memory: peak of file to file, and what passes add to a loaded model"
        )
        for column in (
            "model",
            "nodes",
            "after",
            "MB",
            "seconds",
            "memory / MB",
            "passes / MB",
            "qonnx s",
            "onnxslim s",
        ):
            table.add_column(column)
        seconds, memories = {}, {}
        for name, path in files.items():
            took, memory, before, after = apart(_ours, str(path), 300)
            added = apart(_passes_alone, str(path), 300)
            seconds[name], memories[name] = took, memory / before.bytes
            others = [apart(f, str(path)) if peers else None for f in (_qonnx, _onnxslim)]
            shown = ["-" if not peers else f"> {_PEER_SECONDS} or fails" if o is None else f"{o:.1f}" for o in others]
            sizes = [f"{size / 1e6:.0f}" for size in (before.bytes, memory, added)]
            table.add_row(name, str(before.nodes), str(after.nodes), sizes[0], f"{took:.2f}", *sizes[1:], *shown)
    Console(width=140).print(table)
    for name, most in _SECONDS.items():
        print(f"{name}: seconds {verdict(seconds[name], most)} of {most}")
    for name in ("ResNet-18", "transformer 12 x 384"):
        print(f"{name}: memory over weights {verdict(memories[name], _MEMORY)} of {_MEMORY}")
    growth = seconds["chain of 8,000"] / seconds["chain of 4,000"]
    print(f"time for twice the nodes: {verdict(growth, _GROWTH)} of {_GROWTH}")


if __name__ == "__main__":
    main("--peers" in sys.argv)
