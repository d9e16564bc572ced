"""Quantize-dequantize of a float32 tensor as ratios to a memory copy: `make bench`.

[1024, 4096] on one thread of the CPU; where there is a CUDA device, [8192, 16384] there, so that the time to start a
kernel does not count. Two tables look at the CPU's kernel alone, from memory that is there to memory that is there:
tensors that fit a cache and such that fit none, with what bounds each format, and several threads.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable

import torch
from common import environment, fastest, keep_freed_memory, peak_memory, ratios, verdict
from peers import brevitas_layer, torchao
from rich.console import Console
from rich.table import Table

from mxexport.numbers.formats import MX_FORMATS, get_format
from mxexport.quant import Quantizer
from mxexport.quant.kernels import choice, native

SHAPE = (1024, 4096)
GPU_SHAPE = (8192, 16384)
SIZES = {"first cache": 1 << 12, "second cache": 1 << 15, "third cache": 1 << 18, "memory": 1 << 22}
"""Elements: what is read and what is written are as large each, 16 kB to 16 MB."""
FORWARD = {"kernel": 1.5, "torch": 12.0}
TRAINING = {"kernel": 4.0}
MEMORY = {"kernel": 1.0, "torch": 1.0}
COLUMNS = ("kernel", "torch", "compile", "Brevitas", "torchao")


def without_kernel(function: Callable[[], object]) -> Callable[[], object]:
    def call():
        with environment(native.SWITCH, "0"):
            function()

    return call


def candidates(name: str, x: torch.Tensor) -> tuple[dict, dict]:
    """Functions of one format by column: forward alone, and forward with backward."""
    quantizer, gradient = Quantizer(get_format(name), -1), torch.randn(SHAPE)
    compiled, weight, layer = torch.compile(quantizer), x.clone().requires_grad_(), brevitas_layer(name, x)

    def train(function: Callable[[torch.Tensor], torch.Tensor], parameter: torch.Tensor = weight):
        return lambda: torch.autograd.grad(function(parameter), parameter, gradient)

    forward = {"torch": without_kernel(lambda: quantizer(x)), "compile": lambda: compiled(x)}
    training = {"torch": without_kernel(train(quantizer)), "compile": train(compiled)}
    if native.status().active:
        forward["kernel"], training["kernel"] = (lambda: quantizer(x)), train(quantizer)
    if layer is not None:
        forward["Brevitas"] = torch.no_grad()(layer.quant_weight)
        training["Brevitas"] = train(lambda _: layer.quant_weight().value, layer.weight)
    if quantize := torchao(name, x):
        forward["torchao"] = quantize
    return forward, training


def memory(functions: dict) -> dict[str, float]:
    """Peak of forward and backward beyond weight, output and the two gradients, in sizes of the weight."""
    elements = 4 * SHAPE[0] * SHAPE[1]
    return {column: peak_memory(function) / elements - 2 for column, function in functions.items()}


def add_row(table: Table, name: str, figures: dict[str, float], targets: dict[str, float]) -> None:
    cells = []
    for column in COLUMNS:
        value = figures.get(column)
        text = "-" if value is None else f"{value:.2f}"
        cells.append(verdict(value, targets[column]) if value is not None and column in targets else text)
    table.add_row(name, *cells)


def calls_of_the_kernel(names: list[str], elements: int, threads: int = 1) -> dict[str, Callable[[], object]]:
    """The kernel for every format and, as "copy", a copy: all read one tensor and fill another, in `threads` parts."""
    x = torch.randn(threads, elements // threads)
    y, scale = torch.empty_like(x), torch.empty(threads, elements // threads // 2)

    def of(name: str) -> Callable[[], object]:
        fmt, spec = get_format(name), Quantizer(get_format(name), -1).spec.kernel_format()
        groups = x.shape[1] // fmt.group_size
        parts = [
            (x[i, None, :, None], y[i, None, :, None], scale[i, None, :groups, None], None) for i in range(threads)
        ]
        return lambda: native.quantize_dequantize(parts, fmt.group_size, spec)

    return {"copy": lambda: y.copy_(x)} | {name: of(name) for name in names}


def on_sizes(names: list[str]) -> Table:
    """Nanoseconds of eight elements, and what bounds the largest size: arithmetic that takes as long from a cache, too,
    or memory, which a copy waits for as well. The smallest sizes show what it costs to call the kernel from Python."""
    table = Table("", *SIZES, "of a copy", "bound by", title="ns per 8 elements, one thread", title_justify="left")
    found = {
        size: fastest(calls_of_the_kernel(names, n), max(1, (1 << 17) // n), clock=time.thread_time)
        for size, n in SIZES.items()
    }
    for name in ("copy", *names):
        times = {size: seconds[name] / SIZES[size] * 8e9 for size, seconds in found.items()}
        ratio = found["memory"][name] / found["memory"]["copy"]
        arithmetic = times["third cache"] > found["memory"]["copy"] / SIZES["memory"] * 8e9
        table.add_row(
            name, *(f"{t:.2f}" for t in times.values()), f"{ratio:.2f}", "arithmetic" if arithmetic else "memory"
        )
    return table


def on_threads(names: list[str]) -> Table:
    """Ratio to a copy on as many threads, and how much faster than on one thread."""
    counts = [1 << i for i in range((os.cpu_count() or 1).bit_length())]
    title = f"{SIZES['memory']} elements: of a copy on as many threads (faster than on one thread by)"
    table, found = Table("", *map(str, counts), title=title, title_justify="left"), {}
    for threads in counts:
        torch.set_num_threads(threads)
        found[threads] = fastest(calls_of_the_kernel(names, SIZES["memory"], threads))
    torch.set_num_threads(1)
    for name in ("copy", *names):
        cells = [(f[name] / f["copy"], found[1][name] / f[name]) for f in found.values()]
        table.add_row(name, *(f"{ratio:.2f} ({faster:.2f})" for ratio, faster in cells))
    return table


def on_gpu(names: list[str]) -> Table:
    """The kernel that a CUDA device gets, and torch operators there: forward / forward and backward."""
    x, gradient = torch.randn(GPU_SHAPE, device="cuda"), torch.randn(GPU_SHAPE, device="cuda")
    weight, found = x.clone().requires_grad_(), choice.status("cuda")
    title = f"{GPU_SHAPE} float32 on {torch.cuda.get_device_name()}, ratio to x.clone(); {found.reason}"
    table = Table("", found.kernel, "torch", title=title, title_justify="left")
    for name in names:
        quantizer = Quantizer(get_format(name), -1)
        for label, call in (
            (name, lambda q=quantizer: q(x)),
            (f"{name}, forward + backward", lambda q=quantizer: torch.autograd.grad(q(weight), weight, gradient)),
        ):
            figures = ratios({"kernel": call, "torch": without_kernel(call)}, x)
            table.add_row(label, *(f"{figures[column]:.2f}" for column in ("kernel", "torch")))
    return table


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    kept = keep_freed_memory()
    x = torch.randn(SHAPE)
    target = torch.empty_like(x)
    in_place = ratios({"copy": lambda: target.copy_(x)}, x)["copy"]
    title = f"{SHAPE} float32, one thread, ratio to x.clone() (a copy in place: {in_place:.2f})"
    notes = native.status().reason + ("" if kept else "; page faults count")
    table = Table("", *COLUMNS, title=f"{title}; {notes}", title_justify="left")
    training_rows, memory_rows = [], []
    for name in names:
        forward, training = candidates(name, x)
        add_row(table, name, ratios(forward, x), FORWARD)
        training_rows.append((f"{name}, forward + backward", ratios(training, x), TRAINING))
        memory_rows.append((f"{name}, peak memory", memory(training), MEMORY))
    for rows in (training_rows, memory_rows):
        table.add_section()
        for row in rows:
            add_row(table, *row)
    console = Console(width=max(Console().width, 120))
    console.print(table)
    if native.status().active:
        console.print(on_sizes(names))
        console.print(on_threads(names))
    if torch.cuda.is_available():
        console.print(on_gpu(names))
    else:
        console.print(f"No CUDA device: the kernel for GPUs was not timed ({choice.status('cuda').reason}).")


if __name__ == "__main__":
    main(sys.argv[1:] or list(MX_FORMATS))
