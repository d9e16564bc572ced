"""The fused CPU kernel (native.c): compiled once where a C compiler is present, else not used.

`status()` says which path runs and why; `MXEXPORT_NATIVE=0` in the environment switches the kernel off.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mxexport.cache import cached, digest
from mxexport.groups import contracted_shape
from mxexport.quant.kernels import MXSpec

SOURCE = Path(__file__).with_name("native.c")
# No contraction and no fast-math: the kernel must round as IEEE 754 says.
FLAGS = ("-O3", "-march=native", "-std=c11", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC")


class _Spec(ctypes.Structure):
    """`Spec` of native.c."""

    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("outer", "length", "inner", "group")],
        *[(name, ctypes.c_int32) for name in ("emax", "round_bias", "frac_bits", "code_min", "code_max")],
        *[(name, ctypes.c_int32) for name in ("is_float", "mantissa_bits", "exponent_bias")],
        ("max_val", ctypes.c_float),
    ]


def status() -> str:
    """`native`, or why the kernel is not used."""
    return _load()[1]


def available() -> bool:
    return _load()[0] is not None


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("MXEXPORT_NATIVE") == "0":
        return None, "torch: MXEXPORT_NATIVE=0"
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        return None, "torch: no C compiler (install gcc, or set CC)"
    try:
        return _bind(_compile(compiler)), "native"
    except (subprocess.CalledProcessError, OSError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        return None, f"torch: {compiler} failed: {reason.strip()[:300]}"


def _compile(compiler: str) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = digest([version, *FLAGS, SOURCE.read_bytes(), _processor()])

    def make(directory: Path) -> None:
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(directory / "native.so")]
        subprocess.run(command, capture_output=True, text=True, check=True)

    return cached("native", key, make) / "native.so"


def _processor() -> str:
    """What -march=native depends on, so that a cache shared between machines stays safe."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), *sorted(set(flags))])


def _bind(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.mx_quantize_dequantize.argtypes = [ctypes.c_void_p] * 4
    library.mx_straight_through.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_float, ctypes.c_void_p]
    for function in (library.mx_quantize_dequantize, library.mx_straight_through):
        function.restype = None
    return library


def _native_spec(shape: torch.Size, spec: MXSpec) -> _Spec:
    axis = spec.axis
    return _Spec(
        shape[:axis].numel(),
        shape[axis],
        shape[axis + 1 :].numel(),
        spec.group_size,
        spec.emax,
        spec.round_bias,
        spec.frac_bits,
        0,
        254,
        spec.is_float,
        spec.mantissa_bits,
        spec.exponent_bias,
        spec.max_val,
    )


def mx_quantize_dequantize(x: Tensor, spec: MXSpec) -> tuple[Tensor, Tensor]:
    """As `kernels.mx_quantize_dequantize`, for a float32 CPU tensor."""
    x = x.contiguous()
    values, scale = torch.empty_like(x), x.new_empty(contracted_shape(tuple(x.shape), spec.axis, spec.group_size))
    native = _native_spec(x.shape, spec)
    _load()[0].mx_quantize_dequantize(x.data_ptr(), values.data_ptr(), scale.data_ptr(), ctypes.addressof(native))
    return values, scale


def straight_through(x: Tensor, scale: Tensor, grad: Tensor, spec: MXSpec) -> Tensor:
    """As `kernels.straight_through`, for float32 CPU tensors."""
    x, grad = x.contiguous(), grad.contiguous()
    out, native = torch.empty_like(grad), _native_spec(x.shape, spec)
    pointers = (tensor.data_ptr() for tensor in (x, scale, grad, out))
    _load()[0].mx_straight_through(*pointers, spec.clip_limit, ctypes.addressof(native))
    return out
