"""mxexport: groupwise (OCP microscaling) quantized PyTorch models to QONNX and to FPGA dataflow, bit-exact.

Attributes load on first use, so `import mxexport` is light and works without torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers; test_typing holds both together
    from mxexport.exporting.exporter import export as export
    from mxexport.fpga import compile as compile, open_design as open_design
    from mxexport.frontends.brevitas import from_brevitas as from_brevitas
    from mxexport.frontends.checkpoints import from_checkpoint as from_checkpoint
    from mxexport.frontends.live import from_fake_quantized as from_fake_quantized
    from mxexport.frontends.torchao import from_torchao as from_torchao
    from mxexport.numbers.formats import get_format as get_format
    from mxexport.passes.driver.cleaning import clean as clean
    from mxexport.quant import (
        GroupwiseFloatQuantTensor as GroupwiseFloatQuantTensor,
        GroupwiseIntQuantTensor as GroupwiseIntQuantTensor,
        QuantAdd as QuantAdd,
        QuantConv1d as QuantConv1d,
        QuantConv2d as QuantConv2d,
        QuantConv3d as QuantConv3d,
        QuantConvTranspose1d as QuantConvTranspose1d,
        QuantConvTranspose2d as QuantConvTranspose2d,
        QuantConvTranspose3d as QuantConvTranspose3d,
        QuantEmbedding as QuantEmbedding,
        QuantGRU as QuantGRU,
        QuantIdentity as QuantIdentity,
        QuantLinear as QuantLinear,
        QuantLSTM as QuantLSTM,
        QuantMatMul as QuantMatMul,
        QuantMultiheadAttention as QuantMultiheadAttention,
        QuantReLU as QuantReLU,
        QuantRNN as QuantRNN,
        QuantScaledDotProductAttention as QuantScaledDotProductAttention,
        QuantSpec as QuantSpec,
        conversion_report as conversion_report,
        freeze_scales as freeze_scales,
        quantize as quantize,
        quantize_model as quantize_model,
        sensitivity as sensitivity,
    )
    from mxexport.running.executors import Session as Session, run as run
    from mxexport.running.native_operators import ort_library as ort_library
    from mxexport.running.verification import verify as verify
    from mxexport.searching import search as search
    from mxexport.targets import convert as convert
    from mxexport.targets.check import check as check

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
    "QuantGRU": "mxexport.quant",
    "QuantIdentity": "mxexport.quant",
    "QuantLSTM": "mxexport.quant",
    "conversion_report": "mxexport.quant",
    "freeze_scales": "mxexport.quant",
    "sensitivity": "mxexport.quant",
    "QuantLinear": "mxexport.quant",
    "QuantMatMul": "mxexport.quant",
    "QuantMultiheadAttention": "mxexport.quant",
    "QuantReLU": "mxexport.quant",
    "QuantRNN": "mxexport.quant",
    "QuantScaledDotProductAttention": "mxexport.quant",
    "export": "mxexport.exporting.exporter",
    "from_brevitas": "mxexport.frontends.brevitas",
    "from_checkpoint": "mxexport.frontends.checkpoints",
    "from_fake_quantized": "mxexport.frontends.live",
    "from_torchao": "mxexport.frontends.torchao",
    "clean": "mxexport.passes.driver.cleaning",
    "check": "mxexport.targets.check",
    "convert": "mxexport.targets",
    "run": "mxexport.running.executors",
    "Session": "mxexport.running.executors",
    "ort_library": "mxexport.running.native_operators",
    "verify": "mxexport.running.verification",
    "search": "mxexport.searching",
    "compile": "mxexport.fpga",
    "open_design": "mxexport.fpga",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    return attribute_of(__name__, _HOME, name)


def attribute_of(package: str, home: Mapping[str, str], name: str) -> Any:
    """What the `__getattr__` of a package gives whose names load on first use; `home`: name -> its module."""
    if name not in home:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home[name]), name)
    setattr(sys.modules[package], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
