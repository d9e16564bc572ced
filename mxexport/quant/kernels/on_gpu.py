"""Calling the Triton kernels: what they take, how a tensor is cut into programs, and why they may not be there.

triton is optional and imported when the first tensor of a GPU comes. With TRITON_INTERPRET=1, set before that, and
MXEXPORT_NATIVE=triton its interpreter runs the same kernels on CPU tensors: slow, for tests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import struct
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from mxexport.quant.kernels import native

INTERPRETER = "TRITON_INTERPRET"
KINDS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
TILE = 2048  # elements of a program: 16 for each thread of four warps, so that loads are wide and registers suffice
LONGEST_CHUNK = 256  # elements of a group at a time: more would leave too few groups side by side
BLOCK = 1024
_WIDE = 1 << 30  # elements from which offsets, the next tile's included, are counted in 64 bits
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}  # there is nothing to fuse; said so that triton does not ask


def missing(device: torch.device) -> str | None:
    """Why tensors on `device` cannot take the Triton kernels; None where they can."""
    if device.type == "cpu" and os.environ.get(native.SWITCH, "") != "triton":
        return f"CPU tensors take them in triton's interpreter only ({native.SWITCH}=triton, {INTERPRETER}=1)"
    if device.type == "cpu" and os.environ.get(INTERPRETER, "") != "1":
        return f"triton's interpreter is off; {INTERPRETER}=1 switches it on"
    if device.type not in ("cuda", "cpu"):
        return f"they run on CUDA devices, not on {device.type!r}"
    return _trial(device)


@cache
def _trial(device: torch.device) -> str | None:
    """What goes wrong when the kernels are built and started on `device` for a tensor of zeros.

    Any error counts: triton builds with a compiler of its own and one for C, for a driver and a card it may not know,
    and each of them fails in its own way. The reason is kept, and torch computes the same bits.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    try:
        x, mask = torch.zeros(1, 32, 1, device=device), torch.zeros(4, dtype=torch.uint8, device=device)
        quantize_dequantize(x, torch.empty_like(x), x.new_empty(1, 1, 1), mask, 32, native.Format(max_val=1, limit=1))
        mask_gradient(x.view(-1), mask, torch.empty(32, device=device))
    except Exception as error:
        return f"triton could not run a kernel: {type(error).__name__}: {error}"
    return None


@cache
def _kernels() -> ModuleType:
    from mxexport.quant.kernels import triton_kernels

    return triton_kernels


def _current(device: torch.device) -> contextlib.AbstractContextManager:
    """Triton starts kernels on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


# --- calling --------------------------------------------------------------------------------------------------


def quantize_dequantize(
    x: Tensor, values: Tensor, scale: Tensor, mask: Tensor | None, group_size: int, fmt: native.Format
) -> Tensor | None:
    """Fill values, scale and, where it can be packed on the way, mask. All contiguous, on one device.

    x and values [outer, length, inner] of a type in `KINDS`, scale float32 [outer, n, inner], mask packed uint8.
    Returns what is left to pack where the elements of a byte lie in several groups: uint8 0 or 1, one per element.
    """
    kernels = _kernels()
    outer, length, inner = x.shape
    layout = kernels.Layout(scale.numel(), scale.shape[1], length, inner, group_size)
    chunk = min(_power_of_two(min(group_size, length)), LONGEST_CHUNK)
    lanes = TILE // chunk
    aligned = inner == 1 and group_size % 8 == 0 and length % 8 == 0
    packing = "none" if mask is None else "along" if aligned else "across" if inner % 8 == 0 else "bytes"
    inside = torch.empty(x.numel(), dtype=torch.uint8, device=x.device) if packing == "bytes" else None
    with _current(x.device):
        kernels.quantize_dequantize[(-(-scale.numel() // lanes),)](
            _bits(x), _bits(values), _bits(scale), scale if mask is None else mask if inside is None else inside,
            layout, _format(fmt), KIND=KINDS[x.dtype], PACKING=packing, ALIGNED=aligned, WIDE=x.numel() >= _WIDE,
            WHOLE=chunk >= min(group_size, length), LANES=lanes, CHUNK=chunk, **_OPTIONS,
        )  # fmt: skip
    return inside


def mask_gradient(grad: Tensor, mask: Tensor, out: Tensor) -> None:
    """Fill `out`: grad where the mask is set, else 0. Contiguous, grad and out of one floating type, mask packed."""
    count = grad.numel()
    with _current(grad.device):
        _kernels().mask_gradient[(-(-count // BLOCK),)](
            _bits(grad), mask, _bits(out), count, WIDE=count >= _WIDE, BLOCK=BLOCK, **_OPTIONS
        )


def _bits(x: Tensor) -> Tensor:
    return x.view(_INTEGERS[x.element_size()])


def _power_of_two(count: int) -> int:
    """The next one, at least 8: a byte of the mask."""
    return max(8, 1 << (count - 1).bit_length())


def _format(f: native.Format):
    shared = (f.emax, f.round_bias, f.frac_bits, f.code_min, f.code_max)
    lowest, shift = (f.emin + 127) << 23, (23 - f.mantissa_bits) << 23
    signed_zero = math.copysign(1, f.zero) < 0
    return _kernels().Format(*shared, lowest, shift, _float_bits(f.max_val), _float_bits(f.limit), int(signed_zero))


def _float_bits(value: float) -> int:
    return struct.unpack("<i", struct.pack("<f", value))[0]
