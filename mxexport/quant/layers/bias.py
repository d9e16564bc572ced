"""Integer biases: whole multiples of the step of the product they are added to.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, section 2.4: S_bias = S_input * S_weight, zero point 0, 32 bits. Where groups share power-of-two scales the
step is the smallest product of scales that meet in a sum, which divides all the others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mxexport.errors import FormatError
from mxexport.quant.kernels import transforms
from mxexport.quant.quantizers.sources import LearnedScale, StoredScale

BIAS_FORMATS = ("float", "int32")
_LARGEST = 2.0**31 - 128  # the largest float32 that an int32 holds


def check_bias_format(bias_format: str) -> str:
    """`bias_format` itself, or FormatError if it is not one of `BIAS_FORMATS`."""
    if bias_format not in BIAS_FORMATS:
        raise FormatError(f"unknown bias format {bias_format!r}; expected one of {', '.join(BIAS_FORMATS)}")
    return bias_format


def check_integer_bias(layer: nn.Module) -> None:
    """Raise FormatError unless the scales of the layer's product are known before its inputs are, on one grid."""
    weight, activation = layer.weight_quant, layer.input_quant
    if not isinstance(activation, (StoredScale, LearnedScale)) or weight is None:
        found = "float" if activation is None or weight is None else "dynamic"
        raise FormatError(
            f"an integer bias needs a quantized weight and constant input scales, found {found} ones; give "
            'activation=QuantSpec(format, source="static")'
        )
    for name, q in (("weight", weight), ("activation", activation)):
        if q.format.is_float:
            raise FormatError(f"an integer bias needs integer elements, found {q.format.name} ({name})")
        if q.scaling_per_output == "group" and not q.format.is_mx:
            raise FormatError(
                f"an integer bias needs one step in every sum, but the float scales of {q.format.name} ({name}) "
                "differ from group to group; scale per tensor or channel, or use an MX format"
            )
    if activation.scaling_per_output == "channel" and not activation.format.is_mx:
        raise FormatError("an integer bias needs one step in every sum, but the input has a float scale per channel")


def integer_bias(layer: nn.Module) -> Tensor:
    """The bias in multiples of the product's step, dtype and shape of the bias; straight-through gradient.

    The bias itself while the input's static scale is not frozen.
    """
    bias, activation = layer.bias, layer.input_quant
    if isinstance(activation, StoredScale) and not activation.calibrated:
        return bias
    with torch.no_grad():
        step = product_step(layer)
        values = (torch.round(bias.float() / step).clamp(-_LARGEST, _LARGEST) * step).to(bias.dtype)
    if not (transforms.active() or (torch.is_grad_enabled() and bias.requires_grad)):
        return values
    return transforms.straight_through(values, bias)


@torch.no_grad()
def product_step(layer: nn.Module) -> Tensor:
    """float32 step of each output's product [O]: the smallest input step times the smallest weight step of its sum."""
    weight, activation = layer.weight, layer.input_quant
    inputs = activation.stored_scale if isinstance(activation, StoredScale) else activation.scale(weight.new_zeros(1))
    steps = layer.weight_quant.scale(weight)
    channel = layer.channel_axis
    if steps.shape[channel] == 1:
        per_output = steps.flatten().amin(0).expand(layer.bias.shape[0])
    else:
        others = [d for d in range(steps.ndim) if d != channel]
        per_output = steps.amin(others)
        per_output = per_output.repeat(layer.bias.shape[0] // len(per_output))  # transposed: [I, O / groups, ...]
    return per_output.float() * inputs.flatten().amin(0)
