"""PyTorch side: quant tensors, fake quantization, QAT layers, model conversion."""

from mxexport.quant.convert import quantize_model
from mxexport.quant.fake import Quantizer, fake_quantize
from mxexport.quant.layers import QuantConv2d, QuantLayer, QuantLinear
from mxexport.quant.tensor import (
    GroupwiseFloatQuantTensor,
    GroupwiseIntQuantTensor,
    GroupwiseQuantTensor,
    quantize,
)

__all__ = [
    "GroupwiseFloatQuantTensor",
    "GroupwiseIntQuantTensor",
    "GroupwiseQuantTensor",
    "QuantConv2d",
    "QuantLayer",
    "QuantLinear",
    "Quantizer",
    "fake_quantize",
    "quantize",
    "quantize_model",
]
