"""Stored weights by what the file holds: names and dtypes of a layer's tensors say which of these layouts it is.

    tensors                                         elements, scales                        written by
    weight_packed u8, weight_scale u8               MXFP4 [O, K/2], MXFP6 [O, 3K/4]         compressed-tensors
    weight_packed u8, weight_scale e4m3,
      weight_global_scale                           NVFP4; scale = fl(e4m3 / global)        compressed-tensors
    weight e4m3 or e5m2, weight_scale u8            MXFP8                                   the same, ModelOpt
    weight u8, weight_scale u8                      MXFP4, MXFP6 (which one: the config)    ModelOpt, Quark
    weight u8, weight_scale e4m3, weight_scale_2    NVFP4; scale = fl(e4m3 * scale_2)       ModelOpt

Codes of 4 and 6 bits are packed LSB first along K; u8 scales are E8M0 codes, one for 32 columns. Format names in
configs are not trusted: tools have written wrong ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mxexport.errors import UnsupportedError
from mxexport.frontends.stored import StoredWeight, stored_weight
from mxexport.numbers import numerics, packing
from mxexport.numbers.formats import E8M0_NAN, GroupFormat, get_format

PARTS = {"weight", "weight_packed", "weight_scale", "weight_global_scale", "weight_scale_2"}
"""Last parts of names that belong to a weight."""
INPUT_PARTS = {"input_global_scale", "input_scale"}
_BYTES = {torch.float8_e4m3fn: "mxfp8_e4m3", torch.float8_e5m2: "mxfp8_e5m2"}
_PACKED = {4: "mxfp4_e2m1", 6: "mxfp6_e2m3"}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_SCALE_CODES = (torch.uint8, torch.float8_e8m0fnu)


def is_quantized(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these tensors of a layer are more than a float weight."""
    return bool(set(tensors) & (PARTS - {"weight"})) or any(t.dtype not in _FLOATS for t in tensors.values())


def read_weight(tensors: Mapping[str, Tensor], shape: tuple[int, int], six_bits: str | None = None) -> StoredWeight:
    """The weight [O, K] of a layer that has `shape`.

    `six_bits`: the format that the config names, where codes of 6 bits may be one of two.

    Raises:
        UnsupportedError: other tensors or dtypes, a shape that is not the layer's, or values that are no numbers.
    """
    tensors = _one_naming(tensors)
    parts = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    data, scale = tensors.get("weight"), tensors.get("weight_scale")
    if data is None or scale is None:
        raise UnsupportedError(f"a quantized weight needs elements and scales, found {_listed(parts)}")
    upper = [name for name in ("weight_global_scale", "weight_scale_2") if name in tensors]
    if scale.dtype == torch.float8_e4m3fn and data.dtype == torch.uint8 and len(upper) == 1:
        return _nvfp4(data, scale, tensors[upper[0]], shape, divided=upper[0] == "weight_global_scale")
    if scale.dtype in _SCALE_CODES and not upper and (data.dtype in _BYTES or data.dtype == torch.uint8):
        return _mx(data, scale, shape, six_bits)
    raise UnsupportedError(f"no layout that is known has {_listed(parts)}; see mxexport.frontends.checkpoints.weights")


def _one_naming(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weight` and `weight_scale`, whatever the tool calls them."""
    if {"weight", "weight_packed"} <= tensors.keys():
        raise UnsupportedError("its weight is stored twice: weight, weight_packed")
    return {"weight" if n == "weight_packed" else n: tensor for n, tensor in tensors.items() if n in PARTS}


def _listed(parts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} of {dtype}" for name, dtype in sorted(parts.items())) or "none of its tensors"


def _mx(data: Tensor, scale: Tensor, shape: tuple[int, int], six_bits: str | None) -> StoredWeight:
    rows, columns = shape
    if data.dtype in _BYTES:
        fmt = get_format(_BYTES[data.dtype])
    else:
        bits = data.shape[-1] * 8 // columns if data.ndim == 2 else 0
        if bits not in _PACKED or data.shape[-1] * 8 != bits * columns:
            raise UnsupportedError(
                f"packed codes {tuple(data.shape)} are not those of a weight {shape}: 4 bits make "
                f"{(rows, columns // 2)}, 6 bits {(rows, columns * 3 // 4)}"
            )
        fmt = get_format((six_bits if bits == 6 else None) or _PACKED[bits])
    codes = _codes(data, fmt, shape)
    found = _bytes(_scales(scale, fmt, shape))
    if (found == E8M0_NAN).any():
        raise UnsupportedError(f"{int((found == E8M0_NAN).sum())} scales have code 255, which is NaN (OCP E8M0)")
    return _finite(stored_weight(codes, numerics.scale_from_codes(found), fmt))


def _nvfp4(data: Tensor, scale: Tensor, upper: Tensor, shape: tuple[int, int], divided: bool) -> StoredWeight:
    """`divided`: the upper scale is a reciprocal. Then no product of two scales has the bits of the quotient, and the
    weight is one of float32 scales."""
    fmt = get_format("nvfp4")
    codes, level = _codes(data, fmt, shape), positive(upper, "its upper scale")
    block = numerics.decode(_bytes(_scales(scale, fmt, shape)), numerics.NVFP4_SCALE)
    if not (block >= 0).all() or np.signbit(block).any():
        raise UnsupportedError("its block scales hold NaN or negative numbers")
    if divided:
        with np.errstate(over="ignore"):  # refused with the values
            return _finite(stored_weight(codes, block / level.numpy(), get_format("float_e2m1_g16")))
    with np.errstate(over="ignore"):
        return _finite(stored_weight(codes, level.numpy() * block, fmt, level))


def positive(scale: Tensor, what: str) -> Tensor:
    """A float32 scalar. Raises UnsupportedError unless it is one number above 0."""
    if scale.numel() != 1 or scale.dtype not in _FLOATS:
        raise UnsupportedError(f"{what} is {scale.dtype} {tuple(scale.shape)}; expected one float32 number")
    scale = scale.reshape(()).float()
    if not (scale.isfinite() and scale > 0):
        raise UnsupportedError(f"{what} is {float(scale)}; expected a number above 0")
    return scale


def _codes(data: Tensor, fmt: GroupFormat, shape: tuple[int, int]) -> np.ndarray:
    """Element codes uint8 [O, K]."""
    rows, columns = shape
    if columns % fmt.group_size:
        raise UnsupportedError(f"{columns} columns are no whole groups of {fmt.group_size}")
    bits = fmt.element.bits
    expected = (rows, columns * bits // 8)
    if tuple(data.shape) != expected:
        raise UnsupportedError(f"its elements have shape {tuple(data.shape)}; a {fmt.name} {shape} has {expected}")
    packed = _bytes(data)
    return packed if bits == 8 else packing.unpack_codes(packed, bits, 1, fmt.group_size, columns)


def _scales(scale: Tensor, fmt: GroupFormat, shape: tuple[int, int]) -> Tensor:
    """Scale codes [O, K / group size]; ModelOpt also stores them in one column."""
    expected = (shape[0], shape[1] // fmt.group_size)
    if tuple(scale.shape) not in (expected, (expected[0] * expected[1], 1)):
        raise UnsupportedError(f"its scales have shape {tuple(scale.shape)}; a {fmt.name} {shape} has {expected}")
    return scale.reshape(expected)


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().view(torch.uint8).numpy()


def _finite(stored: StoredWeight) -> StoredWeight:
    if not np.isfinite(stored.values).all():
        count = int((~np.isfinite(stored.values)).sum())
        raise UnsupportedError(f"{count} of its values are NaN, Inf, or beyond float32")
    return stored
