"""The ONNX domain `mxexport.ops`, version 1: one file per operator.

qonnx finds the operators here because the domain is this module's import path; onnx finds their schemas because
importing this module registers them. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import defs

from mxexport.ops import _checking, qonnx_general
from mxexport.ops._operator import DOMAIN, VERSION, Operator
from mxexport.ops.eltwise import Eltwise
from mxexport.ops.groupwise_dequant import GroupwiseDequant
from mxexport.ops.groupwise_quant import GroupwiseQuant
from mxexport.ops.groupwise_scale import GroupwiseScale
from mxexport.ops.groupwise_zero_point import GroupwiseZeroPoint
from mxexport.ops.mx_depthwise import MXDepthwise
from mxexport.ops.mx_dequantize import MXDequantize
from mxexport.ops.mx_float_dequant import MXFloatDequant
from mxexport.ops.mx_float_quant import MXFloatQuant
from mxexport.ops.mx_insert import MXInsert
from mxexport.ops.mx_matmul import MXMatMul
from mxexport.ops.mx_product import MXProduct
from mxexport.ops.mx_quantize import MXQuantize
from mxexport.ops.mx_quantize_tokens import MXQuantizeTokens
from mxexport.ops.mx_scale import MXScale
from mxexport.ops.mx_scale_dequant import MXScaleDequant
from mxexport.ops.mx_window import MXWindow
from mxexport.ops.nvfp4_scale import NVFP4Scale
from mxexport.ops.nvfp4_scale_dequant import NVFP4ScaleDequant
from mxexport.ops.wide_activation import WideActivation
from mxexport.ops.wide_add import WideAdd
from mxexport.ops.wide_affine import WideAffine
from mxexport.ops.wide_arg_max import WideArgMax
from mxexport.ops.wide_average_pool import WideAveragePool
from mxexport.ops.wide_clip import WideClip
from mxexport.ops.wide_concat import WideConcat
from mxexport.ops.wide_embedding import WideEmbedding
from mxexport.ops.wide_gain import WideGain
from mxexport.ops.wide_hard_swish import WideHardSwish
from mxexport.ops.wide_keep import WideKeep
from mxexport.ops.wide_leaky_relu import WideLeakyRelu
from mxexport.ops.wide_max_pool import WideMaxPool
from mxexport.ops.wide_multiply import WideMultiply
from mxexport.ops.wide_norm import WideNorm
from mxexport.ops.wide_offset import WideOffset
from mxexport.ops.wide_pad import WidePad
from mxexport.ops.wide_reorder import WideReorder
from mxexport.ops.wide_reshape import WideReshape
from mxexport.ops.wide_slice import WideSlice
from mxexport.ops.wide_softmax import WideMaskedSoftmax, WideSoftmax
from mxexport.ops.wide_upsample import WideUpsample

OPERATORS: dict[str, type[Operator]] = {
    op.op_type(): op
    for op in (
        MXScale,
        NVFP4Scale,
        MXFloatQuant,
        GroupwiseScale,
        GroupwiseZeroPoint,
        GroupwiseQuant,
        MXFloatDequant,
        GroupwiseDequant,
        MXScaleDequant,
        NVFP4ScaleDequant,
        MXQuantize,
        MXQuantizeTokens,
        MXDequantize,
        MXMatMul,
        MXProduct,
        MXDepthwise,
        MXWindow,
        MXInsert,
        WideMaxPool,
        WideAveragePool,
        WideAdd,
        WideAffine,
        WideConcat,
        WideClip,
        WideKeep,
        WideLeakyRelu,
        WideGain,
        WideHardSwish,
        WideActivation,
        WideEmbedding,
        WideArgMax,
        WideMultiply,
        WideNorm,
        WideOffset,
        WideUpsample,
        WidePad,
        WideSlice,
        WideSoftmax,
        WideMaskedSoftmax,
        WideReorder,
        WideReshape,
        Eltwise,
    )
}
__all__ = [*OPERATORS]


def of_role(*roles: str) -> frozenset[str]:
    """Names of the operators with one of these roles (see `_operator.ROLES`)."""
    return frozenset(name for name, op in OPERATORS.items() if op.role in roles)


for _op in OPERATORS.values():
    if not defs.has(_op.op_type(), DOMAIN):
        defs.register_schema(_op.schema())


def functions_for(nodes: Iterable[onnx.NodeProto], opset: int) -> list[onnx.FunctionProto]:
    """Function bodies of every operator of ours that `nodes` use, for a model of `opset`.

    A function has one signature per model, so the nodes of one operator must agree on which inputs they give.

    Raises:
        UnsupportedError: a node of the domain that is no operator of ours.
    """
    present: dict[str, set[str]] = {}
    for node in nodes:
        if node.domain == DOMAIN:
            _checking.check_known(node, OPERATORS)
            names = {name for name, given in zip(OPERATORS[node.op_type].inputs, node.input, strict=False) if given}
            present.setdefault(node.op_type, set()).update(names)
    return [OPERATORS[op_type].function(opset, present[op_type]) for op_type in OPERATORS if op_type in present]


def check_nodes(proto: onnx.ModelProto) -> None:
    """Raise UnsupportedError or ShapeError for the first node of ours whose attributes or inputs make no sense."""
    _checking.check_nodes(proto, OPERATORS)


__all__ += ["DOMAIN", "VERSION", "OPERATORS", "Operator", "check_nodes", "functions_for", "of_role", "qonnx_general"]
