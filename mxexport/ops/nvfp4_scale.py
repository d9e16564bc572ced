from __future__ import annotations

from mxexport.numbers import numerics
from mxexport.ops import _floats
from mxexport.ops._attributes import AXIS, GROUP_SIZE
from mxexport.ops._groups import Groups
from mxexport.ops._operator import Operator, Port, contracted

_E4M3 = numerics.NVFP4_SCALE
_LARGEST = float(_E4M3.max_val)
_SMALLEST_STEP = 1 - _E4M3.bias - _E4M3.mantissa_bits  # as an exponent


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
        groups = Groups.of(b, b.inputs["X"])
        amax, odd = _floats.group_amax(b, groups, groups.split(b.inputs["X"]))
        amax = b.Where(b.IsNaN(odd), zero, amax)
        largest = b.ReduceMax(amax, keepdims=0)
        s_enc = b.Min(b.Div(b.const(6 * _LARGEST), largest), b.const(2.0**126))
        s_enc = b.Where(b.Greater(largest, zero), s_enc, one)
        block = b.Min(b.Mul(b.Div(amax, b.const(6)), s_enc), b.const(_LARGEST))
        step = _floats.float_step(b, block, b.const(2.0**-_E4M3.mantissa_bits), b.const(2.0**_SMALLEST_STEP))
        block = b.Mul(b.Round(b.Div(block, step)), step)
        # 2 / (2 s_enc) is 1 / s_enc; onnxruntime would turn a product with 1 / s into one division, which rounds once.
        tensor_scale = b.Div(b.const(2), b.Add(s_enc, s_enc))
        return {"scale": b.Add(b.Mul(block, tensor_scale), odd)}
