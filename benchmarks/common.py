"""Timing that compares within one run: every figure is a ratio to a memory copy measured beside it."""

from __future__ import annotations

import argparse
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt of glibc


def write(text: str, path: Path, markers: tuple[str, str]) -> None:
    """Put `text` between the markers of the document at `path`."""
    before, rest = path.read_text().split(markers[0])
    after = rest.split(markers[1])[1]
    path.write_text(f"{before}{markers[0]}\n{text}\n{markers[1]}{after}")


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, so that nobody's figures contain page faults; False where it cannot."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and bool(mallopt(_TRIM_THRESHOLD, 1 << 30) and mallopt(_MMAP_THRESHOLD, 1 << 25))


def ratios(functions: dict[str, Callable[[], object]], x: torch.Tensor, seconds: float = 1.5) -> dict[str, float]:
    """Median time of every function over that of `x.clone()`, a copy into a new tensor: all of them return one.

    Each function takes turns with the copy, `seconds` long and five turns at least: what slows the machine down hits
    both, and both get their memory from the same allocator. The first call of each (compilation) does not count.
    """
    found = {}
    for name, function in functions.items():
        function()
        copies, times, end = [], [], time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            copies.append(_time(x.clone, x.is_cuda))
            times.append(_time(function, x.is_cuda))
        found[name] = median(times) / median(copies)
    return found


def _time(function: Callable[[], object], on_gpu: bool) -> float:
    start = time.perf_counter()
    function()
    if on_gpu:
        torch.cuda.synchronize()  # calls return before the work is done
    return time.perf_counter() - start


def fastest(
    functions: dict[str, Callable[[], object]],
    calls: int = 1,
    rounds: int = 30,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds of a call of every function: that of the fastest of many short rounds of so many `calls`, in which the
    functions take turns. What else the machine does only makes a round slower, so the fastest is the function's own.
    With `clock` time.thread_time the time of other processes does not count, nor that of other threads."""
    found = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            for _ in range(calls):
                function()
            found[name] = min(found[name], (clock() - start) / calls)
    return found


def peak_memory(function: Callable[[], object]) -> int:
    """Most bytes that torch had allocated at once during the call, beyond what was there before."""
    with _silent_stderr(), torch.profiler.profile(profile_memory=True) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """The profiler's C++ library reports every start and stop on file descriptor 2."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """The variable `name` set to `value` within the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.__setitem__(name, before)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Options that say where tasks run; `cluster_of` reads them."""
    parser.add_argument("--workers", type=int, help="processes on this machine that take tasks; otherwise this one")
    parser.add_argument("--scheduler", help="address of a dask scheduler, whose workers do")


def cluster_of(options: argparse.Namespace) -> int | str | None:
    """What `mxexport.cluster.connected` takes."""
    return options.scheduler or options.workers


def verdict(value: float, target: float) -> str:
    return f"{value:.2f} ({'met' if value <= target else 'MISSED'})"
