"""PyTorch side: quant tensors, fake quantization, QAT layers, model conversion."""

from mxexport.quant.convert import quantize_model
from mxexport.quant.fake import Quantizer, fake_quantize
from mxexport.quant.layers import QuantConv2d, QuantLayer, QuantLinear
from mxexport.quant.quantizers import (
    ScaleSource,
    activation_quantizer,
    freeze_scales,
    weight_quantizer,
)
from mxexport.quant.storage import load_file, save_file
from mxexport.quant.tensor import (
    GroupwiseFloatQuantTensor,
    GroupwiseIntQuantTensor,
    GroupwiseQuantTensor,
    quantize,
    quantize_with,
)

__all__ = [
    "GroupwiseFloatQuantTensor",
    "GroupwiseIntQuantTensor",
    "GroupwiseQuantTensor",
    "QuantConv2d",
    "QuantLayer",
    "QuantLinear",
    "Quantizer",
    "ScaleSource",
    "activation_quantizer",
    "fake_quantize",
    "freeze_scales",
    "load_file",
    "quantize",
    "quantize_model",
    "quantize_with",
    "save_file",
    "weight_quantizer",
]
