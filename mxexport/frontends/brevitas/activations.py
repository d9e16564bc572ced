"""Activations: static scales are read, and edge values check them; `run_time` has those found at run time."""

from __future__ import annotations

import torch
from torch import nn

from mxexport.frontends.brevitas import rules
from mxexport.frontends.brevitas.quantizers import equal_bits
from mxexport.frontends.brevitas.reading import HALF, Reading, read_standard, refuse, refuse_half, rounding_of
from mxexport.frontends.brevitas.run_time import is_run_time, read_run_time


def read_activation(name: str, proxy: nn.Module, clipped: float | None, dtype: torch.dtype) -> Reading:
    """The quantizer of an activation of `dtype`. `clipped`: measured share of saturated values, None if not measured.

    Raises:
        UnsupportedError: a scale found at run time by a rule that has no operator, or bits that differ.
    """
    if not proxy.is_quant_enabled:
        return Reading()
    if is_run_time(proxy):
        return read_run_time(name, proxy, clipped, dtype)
    if dtype in HALF:
        raise refuse_half(name, dtype, "a scale without groups, for which QONNX's operators take float32,")
    tensor_quant = proxy.fused_activation_quant_proxy.tensor_quant
    q = proxy.create_quant_tensor(tensor_quant(torch.tensor(0.0)), x=None)
    reading = read_standard(name, proxy, q, rounding_of(name, proxy))
    _check_static(name, reading, tensor_quant)
    return reading


def _check_static(name: str, reading: Reading, tensor_quant) -> None:
    values = rules.edge_groups(8).flatten()
    shape = reading.tensors["scale"].shape
    x = values.reshape(-1, *[1] * (len(shape) - 1)).expand(-1, *shape[1:]).contiguous() if len(shape) else values
    ordered = tuple(reading.tensors[n] for n in reading.quantizer.tensor_names)
    expected, actual = tensor_quant(x)[0], reading.quantizer(x, *ordered)
    same = equal_bits(expected, actual)
    if not same.all():
        where = tuple(int(i) for i in torch.argwhere(~same)[0])
        raise refuse(
            name,
            f"{float(x[where])!r} gives {float(expected[where])!r} in Brevitas and {float(actual[where])!r} here "
            f"({int((~same).sum())} of {same.numel()} probes)",
        )
