"""What a graph for export holds for a `Quantizer`: scale and elements of an MX format as one operator.

Tracing costs time for every operator, so a graph for export holds one for each quantizer; the exporter writes it as the
two nodes it stands for (`MXScale`, then `MXFloatQuant` or `GroupwiseQuant`). Arguments are the attributes of both. The
operators are defined without autograd, so only graphs traced without gradients hold them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mxexport.quant.kernels import operators

_SHARED = "Tensor x, int axis, int group_size, int emax, int round_bias, int frac_bits, int code_min, int code_max"
_library = torch.library.Library("mxexport", "FRAGMENT")
_library.define(
    f"mx_then_float_quant({_SHARED}, int exponent_bits, int mantissa_bits, int exponent_bias, float max_val, "
    "int signed, int signed_zero) -> Tensor"
)
_library.define(f"mx_then_groupwise_quant({_SHARED}, int bit_width, int signed, int narrow) -> Tensor")

QUANTIZER_OF = {"mx_then_float_quant": "MXFloatQuant", "mx_then_groupwise_quant": "GroupwiseQuant"}


def _float(x: Tensor, axis: int, group_size: int, *rest) -> Tensor:
    scale = operators.mx_scale(x, axis, group_size, *rest[:5])
    return operators.mx_float_quant(x, scale, axis, group_size, *rest[5:])


def _integer(x: Tensor, axis: int, group_size: int, *rest) -> Tensor:
    scale = operators.mx_scale(x, axis, group_size, *rest[:5])
    return operators.groupwise_quant(x, scale, None, axis, group_size, *rest[5:])


for _name, _function in (("mx_then_float_quant", _float), ("mx_then_groupwise_quant", _integer)):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"mxexport::{_name}", lambda x, *rest: torch.empty_like(x), lib=_library)
