"""The standard QONNX quantizers as torch.library ops: what export turns into `Quant`, `FloatQuant`, `BipolarQuant`.

Equal in bits to the function bodies in `mxexport.ops.qonnx_general` and to qonnx. For inference: they have no
gradient. Parameters are tensors, as the operators want them, and broadcast to `x`.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUND = {"ROUND": torch.round, "FLOOR": torch.floor, "CEIL": torch.ceil, "DOWN": torch.trunc}
"""The modes that Brevitas has."""


@torch.library.custom_op("mxexport::quant", mutates_args=())
def quant(
    x: Tensor, scale: Tensor, zero_point: Tensor, bit_width: Tensor, signed: bool, narrow: bool, rounding_mode: str
) -> Tensor:
    codes = 2.0 ** int(bit_width)
    low = narrow - codes / 2 if signed else 0.0
    high = codes / 2 - 1 if signed else codes - 1 - narrow
    v = x / scale + zero_point
    if signed and codes == 2:
        return (torch.where(v >= 0, 1.0, -1.0) - zero_point) * scale
    q = _ROUND[rounding_mode](v).clamp(low, high)
    return (q - zero_point) * scale


@torch.library.custom_op("mxexport::float_quant", mutates_args=())
def float_quant(
    x: Tensor,
    scale: Tensor,
    exponent_bit_width: Tensor,
    mantissa_bit_width: Tensor,
    exponent_bias: Tensor,
    max_val: Tensor,
    has_inf: bool,
    has_nan: bool,
    has_subnormal: bool,
    saturation: bool,
    rounding_mode: str,
) -> Tensor:
    v = x.abs() / scale
    magnitude = torch.minimum(v, max_val)
    smallest = torch.ldexp(torch.ones((), dtype=torch.float32), 1 - exponent_bias.int())
    binade = torch.frexp(torch.maximum(magnitude, smallest)).exponent - 1
    step = torch.ldexp(torch.ones((), dtype=torch.float32), binade - mantissa_bit_width.int())
    rounded = _ROUND[rounding_mode](torch.copysign(magnitude / step, x)).abs() * step
    return torch.where(torch.isfinite(v), torch.copysign(rounded, x), torch.nan) * scale


@torch.library.custom_op("mxexport::bipolar_quant", mutates_args=())
def bipolar_quant(x: Tensor, scale: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0) * scale


for _op in (quant, float_quant, bipolar_quant):
    _op.register_fake(lambda x, *rest: torch.empty_like(x))

TORCH_OPS = {"quant": "Quant", "float_quant": "FloatQuant", "bipolar_quant": "BipolarQuant"}
