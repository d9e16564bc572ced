"""PyTorch side: quant tensors, fake quantization, QAT layers, model conversion."""

from mxexport.quant.convert import quantize_model
from mxexport.quant.fake import Quantizer, fake_quantize
from mxexport.quant.layers import (
    QUANT_LAYERS,
    QuantAdd,
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantEmbedding,
    QuantIdentity,
    QuantLayer,
    QuantLinear,
    QuantMatMul,
    QuantMultiheadAttention,
    QuantReLU,
)
from mxexport.quant.report import ConversionReport, conversion_report
from mxexport.quant.tensor import (
    GroupwiseFloatQuantTensor,
    GroupwiseIntQuantTensor,
    GroupwiseQuantTensor,
    quantize,
)

__all__ = [
    "QUANT_LAYERS",
    "ConversionReport",
    "GroupwiseFloatQuantTensor",
    "GroupwiseIntQuantTensor",
    "GroupwiseQuantTensor",
    "QuantAdd",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantEmbedding",
    "QuantIdentity",
    "QuantLayer",
    "QuantLinear",
    "QuantMatMul",
    "QuantMultiheadAttention",
    "QuantReLU",
    "Quantizer",
    "conversion_report",
    "fake_quantize",
    "quantize",
    "quantize_model",
]
