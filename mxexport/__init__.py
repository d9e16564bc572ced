"""mxexport: groupwise (OCP microscaling) quantized PyTorch models to QONNX and to FPGA dataflow, bit-exact.

Attributes load on first use, so `import mxexport` is light and works without torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOME = {
    "get_format": "mxexport.numbers.formats",
    "quantize": "mxexport.quant",
    "quantize_model": "mxexport.quant",
    "QuantSpec": "mxexport.quant",
    "GroupwiseIntQuantTensor": "mxexport.quant",
    "GroupwiseFloatQuantTensor": "mxexport.quant",
    "QuantAdd": "mxexport.quant",
    "QuantConv1d": "mxexport.quant",
    "QuantConv2d": "mxexport.quant",
    "QuantConv3d": "mxexport.quant",
    "QuantConvTranspose1d": "mxexport.quant",
    "QuantConvTranspose2d": "mxexport.quant",
    "QuantConvTranspose3d": "mxexport.quant",
    "QuantEmbedding": "mxexport.quant",
    "QuantIdentity": "mxexport.quant",
    "conversion_report": "mxexport.quant",
    "freeze_scales": "mxexport.quant",
    "sensitivity": "mxexport.quant",
    "QuantLinear": "mxexport.quant",
    "QuantMatMul": "mxexport.quant",
    "QuantMultiheadAttention": "mxexport.quant",
    "QuantReLU": "mxexport.quant",
    "export": "mxexport.exporting.exporter",
    "from_brevitas": "mxexport.frontends.brevitas",
    "from_torchao": "mxexport.frontends.torchao",
    "clean": "mxexport.passes.driver.cleaning",
    "check": "mxexport.targets.check",
    "convert": "mxexport.targets",
    "run": "mxexport.running.executors",
    "Session": "mxexport.running.executors",
    "verify": "mxexport.running.verification",
    "compile": "mxexport.fpga",
    "open_design": "mxexport.fpga",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mxexport' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
