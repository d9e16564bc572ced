from __future__ import annotations

import numpy as np

from mxexport.numbers import numerics
from mxexport.ops import _body
from mxexport.ops._attributes import AXIS, GROUP_SIZE
from mxexport.ops._operator import Operator, Port, contracted

_LARGEST = float(numerics.NVFP4_SCALE.max_val)


class NVFP4Scale(Operator):
    """NVFP4's scale in two levels, found at run time: scale = e4m3(amax / 6 * s_enc) * (1 / s_enc).

    s_enc = min(6 * 448 / largest magnitude of X, 2**126), 1 for zeros; groups with NaN or Inf get a NaN scale and do
    not count there. A group whose E4M3 scale rounds to zero has scale 0 and holds zeros.
    """

    role = "scale"
    attributes = {"axis": AXIS, "group_size": GROUP_SIZE}
    inputs = {"X": Port("float", "values")}
    outputs = {"scale": Port("float", "contracted scale: ceil(K / group_size) on the axis, X elsewhere")}

    @classmethod
    def compute(cls, x, *, axis, group_size):
        return (numerics.nvfp4_scale(x, axis, group_size)[0],)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [contracted(shapes[0], attributes)]

    @classmethod
    def body(cls, b, present):
        zero, one = b.const(0), b.const(1)
        amax, not_finite = _body.group_amax(b, b.inputs["X"])
        amax = b.Where(not_finite, zero, amax)
        largest = b.ReduceMax(amax, keepdims=0)
        s_enc = b.Min(b.Div(b.const(6 * _LARGEST), largest), b.const(2.0**126))
        s_enc = b.Where(b.Greater(largest, zero), s_enc, one)
        block = b.Min(b.Mul(b.Div(amax, b.const(6)), s_enc), b.const(_LARGEST))
        element = numerics.NVFP4_SCALE
        block = _body.round_to_grid(b, block, b.int(element.mantissa_bits), b.int(element.bias))
        # 2 / (2 s_enc) is 1 / s_enc; onnxruntime would turn a product with 1 / s into one division, which rounds once.
        tensor_scale = b.Div(b.const(2), b.Add(s_enc, s_enc))
        return {"scale": b.Where(not_finite, b.const(np.nan), b.Mul(block, tensor_scale))}
