"""Quantize-dequantize of a [1024, 4096] float32 tensor on one thread, as ratios to a memory copy: `make bench`."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import warnings

import torch
from common import copy_time, fastest, verdict
from rich.console import Console
from rich.table import Table

SHAPE = (1024, 4096)
FORMATS = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_e2m1", "mxint8")
FORWARD = {"native": 1.5, "torch": 12.0}
TRAINING = 4.0
MEMORY = 1.0


def measure() -> dict:
    """Ratios of this process's path (native or torch, by MXEXPORT_NATIVE)."""
    from mxexport.quant import fake_quantize, native

    torch.set_num_threads(1)
    x = torch.randn(SHAPE)
    weight, gradient = torch.randn(SHAPE).requires_grad_(), torch.randn(SHAPE)
    copy, result = copy_time(x), {"path": native.status(), "forward": {}, "training": {}}

    def train(name: str) -> None:
        weight.grad = None
        fake_quantize(weight, name).backward(gradient)

    for name in FORMATS:
        copy = min(copy, copy_time(x))
        result["forward"][name] = fastest(lambda name=name: fake_quantize(x, name)) / copy
        result["training"][name] = fastest(lambda name=name: train(name)) / copy
    result["memory"] = peak_memory()
    return result


def peak_memory() -> float:
    """Peak of forward and backward beyond weight, output and the two gradients, in sizes of the weight."""
    from mxexport.quant import fake_quantize

    weight, gradient = torch.randn(SHAPE).requires_grad_(), torch.randn(SHAPE)
    with torch.profiler.profile(profile_memory=True) as profile:
        output = fake_quantize(weight, "mxfp8_e4m3")
        output.backward(gradient)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak / (weight.numel() * 4) - 2  # output and the weight's gradient are allocated inside


def peers() -> dict[str, float | str]:
    """Brevitas and torchao on the same tensor, where they are installed."""
    torch.set_num_threads(1)
    x, found = torch.randn(SHAPE), {}
    copy = copy_time(x)
    for label, make in (("torchao to_mx, e4m3", _torchao), ("Brevitas, MXFP8 e4m3", _brevitas)):
        try:
            found[label] = fastest(make(x)) / copy
        except ImportError as error:
            found[label] = f"not installed ({error.name})"
    return found


def _torchao(x: torch.Tensor):
    to_mx = importlib.import_module("torchao.prototype.mx_formats.mx_tensor").to_mx
    return lambda: to_mx(x, torch.float8_e4m3fn, 32)


def _brevitas(x: torch.Tensor):
    layers = importlib.import_module("brevitas.nn")
    formats = importlib.import_module("brevitas.quant.experimental.mx_quant_ocp")
    layer = layers.QuantLinear(SHAPE[1], SHAPE[0], bias=False, weight_quant=formats.MXFloat8e4m3Weight).eval()
    return layer.quant_weight


def child(path: str) -> dict:
    environment = os.environ | {"MXEXPORT_NATIVE": "1" if path == "native" else "0"}
    done = subprocess.run([sys.executable, __file__, "child"], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    table = Table(title=f"{SHAPE} float32, one thread, ratio to a memory copy of the same run", title_justify="left")
    for column in ("path", "format", "forward", "forward + backward"):
        table.add_column(column)
    for path, target in FORWARD.items():
        result = child(path)
        for name in FORMATS:
            ratio = result["training"][name]
            training = verdict(ratio, TRAINING) if path == "native" else f"{ratio:.2f}"
            table.add_row(result["path"], name, verdict(result["forward"][name], target), training)
        table.add_row(result["path"], "peak memory", "", f"{verdict(result['memory'], MEMORY)} sizes of the weight")
        table.add_section()
    for label, ratio in peers().items():
        table.add_row(label, "", ratio if isinstance(ratio, str) else f"{ratio:.1f}", "")
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        warnings.simplefilter("ignore")
        print(json.dumps(measure()))
    else:
        main()
