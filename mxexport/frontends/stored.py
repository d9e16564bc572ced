"""Weights that another tool has quantized and stored: their codes and scales are carried, never found again.

A quantizer under given scales returns values that are codes times these scales as they are, and so their codes.
`check_fixed_point` makes sure of it for every weight, whatever tool or file it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.numbers import groups, numerics
from mxexport.numbers.bits import equal_bits
from mxexport.numbers.formats import FloatElement, GroupFormat, get_format
from mxexport.ops import MXFloatQuant
from mxexport.quant import GroupwiseFloatQuantTensor, Quantizer, QuantLayer
from mxexport.quant.kernels import library


@dataclass(frozen=True)
class StoredWeight:
    """A weight of minifloats, unpacked. O rows, K columns, n = ceil(K / group size) groups.

    `values` [O, K] float32 dequantized, `scale` [O, n] float32, `tensor_scale` float32 scalar (NVFP4) or None.
    """

    format: GroupFormat
    values: np.ndarray
    scale: np.ndarray
    tensor_scale: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape

    @property
    def export_format(self) -> GroupFormat:
        """NVFP4's two scales multiply into one float32 scale; MX formats stay."""
        return get_format("float_e2m1_g16") if self.format.scale == "nvfp4" else self.format


def stored_weight(
    codes: np.ndarray, scale: np.ndarray, fmt: GroupFormat, tensor_scale: Tensor | None = None
) -> StoredWeight:
    """The weight of element codes uint8 [O, K] under float32 scales [O, n].

    Raises:
        UnsupportedError: values that no float32 weight can carry.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        values = numerics.decode(codes, fmt.element) * groups.expand(scale, 1, fmt.group_size, codes.shape[1])
    check_fixed_point(codes, values, scale, fmt)
    return StoredWeight(fmt, values, scale, tensor_scale)


def check_fixed_point(codes: np.ndarray, values: np.ndarray, scale: np.ndarray, fmt: GroupFormat) -> None:
    """Quantizing `values` under `scale` must give `values` and `codes` again (NaN has many codes, zero scale none)."""
    again = numerics.mx_float_quant(values, scale, 1, fmt.group_size, **MXFloatQuant.attributes_of(fmt.element))
    found = numerics.element_codes(values, scale, None, fmt, 1).reshape(codes.shape)
    empty = groups.expand(scale, 1, fmt.group_size, codes.shape[1]) == 0
    lost = ~equal_bits(again, values) | ((found != codes) & ~np.isnan(values) & ~empty)
    if lost.any():
        row, column = (int(i) for i in np.argwhere(lost)[0])
        raise UnsupportedError(
            f"{int(lost.sum())} weights are not float32 numbers of {fmt.name}, first at ({row}, {column}): element "
            f"code {int(codes[row, column]):#x} with scale {float(scale[row, column // fmt.group_size]):.9g}"
        )


class StoredLayer(QuantLayer):
    """A layer with one weight whose scales were read.

    `weight` [O, K] float32 holds the dequantized values and `weight_scale` [O, n] float32 their contracted scales:
    quantizing under the given scales is a fixed point, so the codes stay.
    """

    def _hold_stored(self, stored: StoredWeight) -> None:
        self.stored_format = stored.format.name
        self.weight = nn.Parameter(torch.from_numpy(stored.values), requires_grad=False)
        self.register_buffer("weight_scale", torch.from_numpy(stored.scale))
        self.register_buffer("tensor_scale", stored.tensor_scale)
        self.weight_quant = Quantizer(stored.export_format, self.weight_axis)

    def quant_weight(self) -> GroupwiseFloatQuantTensor:
        """The weight as it was stored: its format, codes, and scales (contracted)."""
        fmt = get_format(self.stored_format)
        value_ = self.weight.detach().unflatten(1, (-1, fmt.group_size))
        return GroupwiseFloatQuantTensor(
            value_, self.weight_scale.unsqueeze(2), None, fmt.name, 1, self.weight.shape[1], self.tensor_scale
        )

    def _stored_weight(self) -> Tensor:
        return self.weight_quant.apply(self.weight, self.weight_scale)


class StoredLinear(StoredLayer, nn.Linear):
    """A Linear with a stored weight. `input_quant`: what the tool does to its input, or None."""

    def __init__(self, stored: StoredWeight, bias: Tensor | None, input_quant: Quantizer | None):
        nn.Module.__init__(self)
        self.out_features, self.in_features = stored.shape
        self._hold_stored(stored)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone(), requires_grad=False)
        self.input_quant = input_quant

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.input_quant is None else self.input_quant(x)
        return nn.functional.linear(x, self._stored_weight(), self.bias)


class StoredEmbedding(StoredLayer, nn.Embedding):
    """An Embedding with a stored table [V, D]."""

    def __init__(self, stored: StoredWeight, padding_idx: int | None = None):
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = stored.shape
        self.padding_idx = padding_idx
        self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse = None, 2.0, False, False
        self._hold_stored(stored)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.embedding(x, self._stored_weight(), self.padding_idx)


class StoredParameter(QuantLayer):
    """A parametrization (`torch.nn.utils.parametrize`) of a parameter that no layer of ours holds: experts.

    The parameter holds the dequantized values, and `weight_scale` their contracted float32 scales along `axis`.
    """

    weight_names = ()

    def __init__(self, fmt: GroupFormat, axis: int, scale: Tensor):
        nn.Module.__init__(self)
        self.register_buffer("weight_scale", scale)
        self.weight_quant = Quantizer(fmt, axis)
        self.input_quant = None

    def _quantizers_of_weights(self) -> dict[str, str]:
        return {}

    def forward(self, values: Tensor) -> Tensor:
        return self.weight_quant.apply(values, self.weight_scale)


def to_nearest(x: Tensor, element: FloatElement) -> Tensor:
    """`x` rounded to values of `element`: the operator under scales of one, for each run along the last axis."""
    ones = torch.ones_like(x[..., :1])
    a = MXFloatQuant.attributes_of(element)
    a |= {"signed": bool(a["signed"]), "signed_zero": bool(a["signed_zero"])}
    return library.mx_float_quant(x, ones, x.ndim - 1, x.shape[-1], **a)
