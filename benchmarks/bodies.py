"""Function bodies in plain onnxruntime, one thread: `python benchmarks/bodies.py [--operators | --networks]`.

    operators   ns per element of one quantizer, scale or decoder, beside a memory copy and onnxruntime's Where
    networks    time of a MobileNetV2 (batch 10, 224 pixels) and a transformer (6 blocks of 384, 4 x 128 tokens), random
                weights, as multiples of their float files; with onnxruntime's own options and with ours

Figures are the fastest of several turns; in every turn all of them run once, so that what slows the machine down hits
all of them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import scale
import torch
from depthwise_networks import MOBILENET_V2, InvertedResiduals
from onnx import helper, numpy_helper
from rich.console import Console
from torch import nn

import mxexport as mx
from mxexport import ops
from mxexport.numbers import groups, packing
from mxexport.numbers.formats import get_format
from mxexport.running.sessions import DISABLED_OPTIMIZERS

TURNS = 5
PLACES = {
    "convolution": ((10, 96, 56, 56), 1),
    "linear": ((512, 1536), 1),
    "depthwise weight": ((960, 1, 3, 3), 1),
}
LIMITS = {"MobileNetV2": 10.0, "transformer": 2.0}
FORMATS = {"int8": "mxint8", "e4m3": "mxfp8_e4m3"}


def fastest(functions: dict[object, Callable[[], object]]) -> dict[object, float]:
    """Seconds of the fastest of `TURNS` calls of each, taken in turns."""
    best = dict.fromkeys(functions, float("inf"))
    for function in functions.values():
        function()
    for _ in range(TURNS):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def session(model: bytes | str, ours: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_mem_reuse = 1, 3, not ours
    disabled = list(DISABLED_OPTIMIZERS) if ours else []
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


# --- operators ----------------------------------------------------------------------------------------------------


def one_node(node: onnx.NodeProto, feeds: dict[str, np.ndarray], constants: dict | None = None) -> Callable:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    outputs = [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)]
    stored = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs, stored),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(ops.DOMAIN, ops.VERSION)],
        functions=ops.functions_for([node], 20),
        ir_version=10,
    )
    opened = session(model.SerializeToString())
    return lambda: opened.run(None, feeds)


def ours(op: str, arrays: list[np.ndarray], attributes: dict) -> Callable:
    names = list(ops.OPERATORS[op].inputs)[: len(arrays)]
    node = helper.make_node(op, names, list(ops.OPERATORS[op].outputs), domain=ops.DOMAIN, **attributes)
    return one_node(node, dict(zip(names, arrays, strict=True)))


def operators() -> dict[str, tuple[Callable, int]]:
    """Name -> what to call, and the elements it makes."""
    rng, found = np.random.default_rng(0), {}
    for place, (shape, axis) in PLACES.items():
        x = rng.standard_normal(shape, np.float32)
        of = {"axis": axis, "group_size": 32}
        scale = {"emax": 8, "round_bias": 0, "frac_bits": 0, "code_min": 0, "code_max": 254}
        s = np.exp2(rng.integers(-9, -3, groups.contracted_shape(shape, axis, 32))).astype(np.float32)
        e4m3 = ops.MXFloatQuant.attributes_of(get_format("mxfp8_e4m3").element)
        table = {
            "MXScale": ([x], scale),
            "GroupwiseScale": ([x], {"levels": 127.0, "asymmetric": 0}),
            "GroupwiseQuant": ([x, s], {"bit_width": 8, "signed": 1, "narrow": 1}),
            "MXFloatQuant": ([x, s], e4m3),
            "NVFP4Scale": ([x], {}),
        }
        for op, (arrays, attributes) in table.items():
            found[f"{op}, {place}"] = ours(op, arrays, of | attributes), x.size
    for name in ("mxfp4_e2m1", "mxfp6_e2m3", "mxfp8_e4m3", "mxint4", "mxint8"):
        found[f"packed {name}, 2048 x 2048"] = decoder(name, (2048, 2048)), 2048 * 2048
    x = rng.standard_normal(PLACES["convolution"][0], np.float32)
    found["Where of two tensors"] = (
        one_node(helper.make_node("Where", ["c", "x", "x"], ["y"]), {"c": x > 0, "x": x}),
        x.size,
    )
    found["memory copy"] = x.copy, x.size
    return found


def decoder(name: str, shape: tuple[int, int]) -> Callable:
    fmt, rng = get_format(name), np.random.default_rng(1)
    attributes = {"axis": 1, "group_size": 32, "shape": list(shape)}
    if fmt.is_float:
        op, attributes = "MXFloatDequant", attributes | ops.MXFloatDequant.attributes_of(fmt.element)
    else:
        op, attributes = "GroupwiseDequant", attributes | {"bit_width": fmt.element.bits, "signed": 1}
    codes = rng.integers(0, 256, packing.packed_shape(shape, fmt.element.bits, 1, 32), dtype=np.uint8)
    scales = np.exp2(rng.integers(-9, -3, (shape[0], shape[1] // 32))).astype(np.float32)
    return ours(op, [codes, scales], attributes)


# --- networks -----------------------------------------------------------------------------------------------------


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    return {
        "MobileNetV2": (InvertedResiduals(MOBILENET_V2, 1000, 224).eval(), torch.randn(10, 3, 224, 224)),
        "transformer": (scale.build(384, 6), torch.randn(4, 128, 384)),
    }


def files(folder: Path, model: nn.Module, x: torch.Tensor) -> dict[str, Path]:
    """The float file, and for every format the exported and the cleaned one."""
    found = {"float": folder / "float.onnx"}
    torch.onnx.export(model, (x,), found["float"], dynamo=True, verbose=False)
    for label, name in FORMATS.items():
        quantized = mx.quantize_model(model, name, name)
        found[f"{label}, exported"] = folder / f"{label}.onnx"
        mx.export(quantized, (x,), found[f"{label}, exported"])
        found[f"{label}, cleaned"] = folder / f"{label}_clean.onnx"
        mx.clean(found[f"{label}, exported"], found[f"{label}, cleaned"])
    return found


def time_network(console: Console, name: str, model: nn.Module, x: torch.Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        calls = {}
        for label, path in files(Path(folder), model, x).items():
            for own in (False, True) if label != "float" else (False,):
                opened = session(str(path), own)
                feeds = {opened.get_inputs()[0].name: x.numpy()}
                settings = "our options" if own else "onnxruntime's options"
                calls[label, settings] = lambda opened=opened, feeds=feeds: opened.run(None, feeds)
        seconds = fastest(calls)
    base = seconds["float", "onnxruntime's options"]
    console.print(f"{name}, float: {base * 1e3:.0f} ms; times of the others over that, at most {LIMITS[name]:g}:")
    for (label, settings), value in seconds.items():
        if label != "float":
            verdict = "met" if value / base <= LIMITS[name] else "MISSED"
            console.print(f"  {label}, {settings}: {value / base:.1f} ({verdict})")


def main(wanted: list[str]) -> None:
    console = Console(highlight=False, width=120)
    if "--networks" not in wanted:
        table = operators()
        for name, seconds in fastest({name: call for name, (call, _) in table.items()}).items():
            console.print(f"{name}: {seconds / table[name][1] * 1e9:.2f} ns an element")
    if "--operators" not in wanted:
        for name, (model, x) in networks().items():
            time_network(console, name, model, x)


if __name__ == "__main__":
    main(sys.argv[1:])
