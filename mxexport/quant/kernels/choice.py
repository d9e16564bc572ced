"""Which kernel a tensor gets, and why: decided here and nowhere else.

`triton` (`on_gpu`) on CUDA devices, `native` on the CPU, torch operators where the one that fits is missing or the
environment variable MXEXPORT_NATIVE is 0. All three give the same bits.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mxexport.native.building import switched_off
from mxexport.quant.kernels import native, on_gpu

Kernel = Literal["native", "triton", "torch"]


@dataclass(frozen=True)
class Status:
    """The kernel that runs; `reason` in words: why it runs, or for torch operators why no other does."""

    kernel: Kernel
    reason: str


def kernel_for(x: Tensor) -> Kernel:
    """The kernel for a tensor where it is."""
    return _choose(x.device).kernel


def status(device: torch.device | str = "cpu") -> Status:
    """Which kernel tensors on `device` get. Builds it if that has not been tried in this process."""
    return _choose(torch.device(device))


def _choose(device: torch.device) -> Status:
    if (off := switched_off()) is not None:
        return Status("torch", off.reason)
    why_no_triton = on_gpu.missing(device)
    if why_no_triton is None:
        how = "on the device" if device.type == "cuda" else "in its interpreter"
        return Status("triton", f"triton runs {how}")
    if device.type != "cpu":
        return Status("torch", why_no_triton)
    compiled = native.status()
    asked_for = os.environ.get(native.SWITCH, "") == "triton"
    reason = f"{compiled.reason}; {why_no_triton}" if asked_for else compiled.reason
    return Status("native" if compiled.active else "torch", reason)
