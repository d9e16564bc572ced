"""The compiled kernel `native.c`: built once per machine by the C compiler that is there, loaded with ctypes.

Without a compiler, or with the environment variable MXEXPORT_NATIVE=0, `fused` computes the same bits in torch.
`status()` says which of the two it is, and why.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mxexport.cache import cached, digest

SOURCE = Path(__file__).with_name("native.c")
SWITCH = "MXEXPORT_NATIVE"
# No -ffast-math and no contraction: rounding must be that of the source. Flags of the second list may be unknown.
_FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-shared")
_TUNING = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ())
_ELEMENTS_PER_THREAD = 1 << 19  # less is not worth a thread


@dataclass(frozen=True)
class Status:
    """Whether the compiled kernel is in use; `reason` in words; `library` is the file where there is one."""

    active: bool
    reason: str
    library: Path | None = None


class Format(ctypes.Structure):
    """What a kernel must know of a format; the fields of `Format` in native.c, in its order."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("emax", "round_bias", "frac_bits", "code_min", "code_max")),
        *((name, ctypes.c_int32) for name in ("mantissa_bits", "emin")),
        *((name, ctypes.c_float) for name in ("max_val", "limit", "zero")),
    ]


def status() -> Status:
    """Which kernel CPU tensors get. Compiles it if that has not been tried in this process."""
    if os.environ.get(SWITCH, "") == "0":
        return Status(False, f"switched off by {SWITCH}=0")
    return _load()[0]


# --- building -------------------------------------------------------------------------------------------------


@cache
def _load() -> tuple[Status, ctypes.CDLL | None]:
    if sys.byteorder != "little":
        return Status(False, "a mask's bits are laid out for little-endian processors only"), None
    compiler = _compiler()
    if compiler is None:
        return Status(False, "no C compiler found (looked for $CC, cc, gcc, clang)"), None
    try:
        path = _build(compiler)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        return Status(False, f"{' '.join(compiler)} could not build the kernel: {str(detail).strip()}"), None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.mx_quantize_dequantize.argtypes = [pointer] * 4 + [integer] * 4 + [ctypes.POINTER(Format)]
    for entry in (library.mask_gradient_16, library.mask_gradient_32, library.mask_gradient_64):
        entry.argtypes, entry.restype = [pointer] * 3 + [integer], None
    return Status(True, f"compiled by {' '.join(compiler)}", path), library


def _compiler() -> list[str] | None:
    named = [shlex.split(os.environ["CC"])] if os.environ.get("CC") else []
    for command in (*named, ["cc"], ["gcc"], ["clang"]):
        if shutil.which(command[0]):
            return command
    return None


def _build(compiler: list[str]) -> Path:
    """The shared library, from the cache where source, compiler and processor are the same."""
    version = _run([*compiler, "--version"])
    key = digest([SOURCE.read_bytes(), " ".join(compiler), version, repr((_FLAGS, _TUNING)), _processor()])
    return cached("kernel", key, lambda directory: _compile(compiler, directory)) / "native.so"


def _compile(compiler: list[str], directory: Path) -> None:
    for tuning in _TUNING:
        command = [*compiler, *_FLAGS, *tuning, str(SOURCE), "-o", str(directory / "native.so")]
        try:
            _run(command)
            return
        except subprocess.CalledProcessError:
            if tuning == _TUNING[-1]:
                raise


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def _processor() -> str:
    """What -march=native looks at: a cache shared between machines must not hand out code for another one."""
    lines = {platform.machine(), platform.system()}
    info = Path("/proc/cpuinfo")
    if info.exists():
        wanted = ("flags", "Features", "model name", "cpu family", "model\t", "stepping", "CPU part", "isa")
        lines |= {line for line in info.read_text().splitlines() if line.startswith(wanted)}
    return "\n".join(sorted(lines))


# --- calling --------------------------------------------------------------------------------------------------


def quantize_dequantize(
    pieces: list[tuple[Tensor, Tensor, Tensor, Tensor | None]], group_size: int, fmt: Format
) -> None:
    """Fill the (values, scale, mask) of every piece (x, values, scale, mask), the pieces in parallel.

    All contiguous; x and values float32 [outer, length, inner], scale float32 [outer, n, inner], mask packed uint8.
    """
    library = _load()[1]

    def one(piece):
        x, values, scale, mask = piece
        pointers = [None if t is None else t.data_ptr() for t in (x, values, scale, mask)]
        if library.mx_quantize_dequantize(*pointers, *x.shape, group_size, ctypes.byref(fmt)):
            raise MemoryError("mx_quantize_dequantize: no memory for the scales of one group")

    _in_parallel(one, pieces)


def mask_gradient(pieces: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Fill `out` of every piece (grad, mask, out), the pieces in parallel: flat, one floating type, the mask packed."""
    entry = getattr(_load()[1], f"mask_gradient_{8 * pieces[0][0].element_size()}")
    _in_parallel(lambda p: entry(*(t.data_ptr() for t in p), p[0].numel()), pieces)


def thread_count(elements: int) -> int:
    """Threads worth starting for a tensor of so many elements."""
    return max(1, min(torch.get_num_threads(), elements // _ELEMENTS_PER_THREAD))


def _in_parallel(work, pieces: list) -> None:
    """ctypes releases the interpreter lock; threads are made for the call, so that a fork finds none."""
    if len(pieces) == 1:
        work(pieces[0])
        return
    with ThreadPoolExecutor(min(len(pieces), torch.get_num_threads())) as pool:
        list(pool.map(work, pieces))
