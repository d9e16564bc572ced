"""gpt-oss style: `quant_method` "mxfp4". Matrices of experts, several in one parameter, as MXFP4; all else is float.

`X_blocks` u8 [E, O, K/32, 16] and `X_scales` u8 [E, O, K/32] hold the parameter X, which the model has as [E, K, O].
Activations are not quantized. The tool's decoder makes 2^128 of scale code 255, which is NaN (OCP E8M0): refused here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.checkpoints import weights
from mxexport.frontends.checkpoints.plans import FLOAT, LayerPlan
from mxexport.frontends.stored import StoredParameter

BLOCKS, SCALES = "_blocks", "_scales"
_GROUP, _BYTES = 32, 16


class GptOss:
    tool = "the tool"

    def __init__(self, config: Mapping):
        """Which modules are float (`modules_to_not_convert`) shows in the files, too."""

    def layer(self, name: str, module: nn.Module) -> LayerPlan:
        return FLOAT


def read_parameter(blocks: Tensor, scales: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, StoredParameter]:
    """Values float32 of `shape` [E, K, O], and the quantizer that leaves them as they are. Raises UnsupportedError."""
    if len(shape) != 3 or shape[1] % _GROUP:
        raise UnsupportedError(f"the model's parameter has shape {shape}; expected [E, K, O] with K a multiple of 32")
    experts, columns, rows = shape
    expected = (experts, rows, columns // _GROUP)
    if tuple(blocks.shape) != (*expected, _BYTES) or tuple(scales.shape) != expected:
        raise UnsupportedError(
            f"blocks {tuple(blocks.shape)} and scales {tuple(scales.shape)}; a parameter {shape} has "
            f"{(*expected, _BYTES)} and {expected}"
        )
    if not blocks.dtype == scales.dtype == torch.uint8:
        raise UnsupportedError(f"blocks of {blocks.dtype} and scales of {scales.dtype}; expected uint8")
    packed = {"weight": blocks.reshape(experts * rows, -1), "weight_scale": scales.reshape(experts * rows, -1)}
    stored = weights.read_weight(packed, (experts * rows, columns))
    values, scale = (torch.from_numpy(part).unflatten(0, (experts, rows)).mT for part in (stored.values, stored.scale))
    return values.contiguous(), StoredParameter(stored.format, 1, scale.contiguous())
