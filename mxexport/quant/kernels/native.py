"""The compiled kernel, `mxexport/native/fake_quantization.c`: built once per machine by the C compiler that is there,
loaded with ctypes.

Without a compiler, or with the environment variable MXEXPORT_NATIVE=0, `fused` computes the same bits in torch.
`status()` says which of the two it is, and why.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from mxexport.native.building import HERE, SWITCH as SWITCH, Status, build, switched_off

SOURCE = HERE / "fake_quantization.c"
_ELEMENTS_PER_THREAD = 1 << 19  # less is not worth a thread


class Format(ctypes.Structure):
    """What a kernel must know of a format; the fields of `Format` in fake_quantization.c, in its order."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("emax", "round_bias", "frac_bits", "code_min", "code_max")),
        *((name, ctypes.c_int32) for name in ("mantissa_bits", "emin")),
        *((name, ctypes.c_float) for name in ("max_val", "limit", "zero")),
        ("streamed", ctypes.c_int32),
    ]


def status() -> Status:
    """Which kernel CPU tensors get. Compiles it if that has not been tried in this process."""
    return switched_off() or _load()[0]


# --- loading --------------------------------------------------------------------------------------------------


@cache
def _load() -> tuple[Status, ctypes.CDLL | None]:
    built = build(SOURCE)
    if built.library is None:
        return built, None
    try:
        library = ctypes.CDLL(str(built.library))
    except OSError as error:
        return Status(False, f"{built.library} cannot be loaded: {error}"), None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.mx_quantize_dequantize.argtypes = [pointer] * 4 + [integer] * 4 + [ctypes.POINTER(Format)]
    for entry in (library.mask_gradient_16, library.mask_gradient_32, library.mask_gradient_64):
        entry.argtypes, entry.restype = [pointer] * 3 + [integer], None
    return built, library


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
