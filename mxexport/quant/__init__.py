"""PyTorch side: quant tensors, fake quantization, QAT layers, model conversion."""

from mxexport.quant.convert import quantize_model
from mxexport.quant.kernels.fake_quantization import Quantizer, fake_quantize
from mxexport.quant.layers.all_layers import (
    QUANT_LAYERS,
    QuantAdd,
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantEmbedding,
    QuantGRU,
    QuantIdentity,
    QuantLayer,
    QuantLinear,
    QuantLSTM,
    QuantMatMul,
    QuantMultiheadAttention,
    QuantReLU,
    QuantRNN,
    QuantScaledDotProductAttention,
    QuantTransposedLinear,
)
from mxexport.quant.post_training.sensitivity import Sensitivity, sensitivity
from mxexport.quant.quantizers.factory import activation_quantizer, freeze_scales, weight_quantizer
from mxexport.quant.quantizers.sources import ScaleSource
from mxexport.quant.quantizers.spec import QuantSpec
from mxexport.quant.report import ConversionReport, conversion_report
from mxexport.quant.tensors.storage import load_file, save_file
from mxexport.quant.tensors.tensor import (
    GroupwiseFloatQuantTensor,
    GroupwiseIntQuantTensor,
    GroupwiseQuantTensor,
    quantize,
    quantize_with,
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
    "QuantGRU",
    "QuantIdentity",
    "QuantLSTM",
    "QuantLayer",
    "QuantLinear",
    "QuantMatMul",
    "QuantMultiheadAttention",
    "QuantRNN",
    "QuantReLU",
    "QuantScaledDotProductAttention",
    "QuantTransposedLinear",
    "QuantSpec",
    "Quantizer",
    "ScaleSource",
    "Sensitivity",
    "activation_quantizer",
    "conversion_report",
    "fake_quantize",
    "freeze_scales",
    "load_file",
    "quantize",
    "quantize_model",
    "quantize_with",
    "save_file",
    "sensitivity",
    "weight_quantizer",
]
