"""Codes of a quant tensor and back, as torch.library ops (opaque to torch.compile).

Codes are not stored: dequantized values and contracted scales determine them, and dividing restores them exactly, also
where a value overflowed to Inf, as long as what was quantized was finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mxexport.numbers.formats import GroupFormat, get_format
from mxexport.numbers.numerics import NVFP4_SCALE
from mxexport.quant.kernels import operators


@torch.library.custom_op("mxexport::element_codes", mutates_args=())
def element_codes(value_: Tensor, scale_: Tensor, zero_point_: Tensor | None, fmt: str) -> Tensor:
    """Codes (..., n, G, ...): uint8 bit patterns; int8 / uint8 for signed / unsigned integers."""
    element = get_format(fmt).element
    # Inf is the largest finite number rounded up to 2**128 (float16: 2**16), which only one code can have been.
    value = value_.float().clamp(*_finite_range(value_.dtype))
    quotient = torch.where(value == 0, value, value / scale_)
    if get_format(fmt).is_float:
        return operators.encode_float(quotient, element)
    if zero_point_ is not None:
        quotient = quotient + zero_point_
    low, high = operators.int_limits(element.bits, element.signed, narrow=False)  # half precision may round past them
    return torch.round(torch.nan_to_num(quotient)).clamp(low, high).to(_code_dtype(get_format(fmt)))


def _finite_range(dtype: torch.dtype) -> tuple[float, float]:
    """Of the values as float32, in which they were computed."""
    largest = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
    return -largest, largest


@torch.library.custom_op("mxexport::shared_scale_codes", mutates_args=())
def shared_scale_codes(scale_: Tensor, tensor_scale: Tensor | None, fmt: str) -> Tensor:
    """Codes (..., n, 1, ...) uint8 of scales: E8M0, for nvfp4 E4M3."""
    if tensor_scale is not None:
        return operators.encode_float(scale_ / tensor_scale, NVFP4_SCALE)
    return operators.scale_codes(scale_, get_format(fmt).step_frac_bits)


def _code_dtype(fmt: GroupFormat) -> torch.dtype:
    return torch.int8 if not fmt.is_float and fmt.element.signed else torch.uint8


@element_codes.register_fake
def _(value_, scale_, zero_point_, fmt):
    return torch.empty_like(value_, dtype=_code_dtype(get_format(fmt)))


@shared_scale_codes.register_fake
def _(scale_, tensor_scale, fmt):
    return torch.empty_like(scale_, dtype=torch.uint8)


def decode(codes: Tensor, scale_: Tensor, zero_point_: Tensor | None, fmt: GroupFormat) -> Tensor:
    """Contracted float32 values of contracted codes and scales."""
    if fmt.is_float:
        return operators.decode_float(codes, fmt.element) * scale_
    q = codes.float()
    return (q if zero_point_ is None else q - zero_point_) * scale_ + 0.0
