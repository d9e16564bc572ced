from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.numbers import groups, packing
from mxexport.ops import _body
from mxexport.ops._attributes import SHAPE
from mxexport.ops._elements import IntegerOperator
from mxexport.ops._operator import Port


class GroupwiseDequant(IntegerOperator):
    """Packed integer codes -> values: Y = (code - zero_point) * scale + 0. The most negative code is decoded, too.

    codes has the rank of Y; on the axis it holds ceil(K / group_size) * ceil(group_size * bit_width / 8) bytes,
    elsewhere it is as long as Y. Codes are packed LSB first along the axis; every group starts on a byte and the last
    group is padded to a whole one.
    """

    role = "dequantizer"
    attributes = IntegerOperator.element_attributes | {"shape": SHAPE}
    inputs = {
        "codes": Port("uint8", "packed codes"),
        "scale": Port("float", "contracted step: ceil(K / group_size) on the axis, Y elsewhere"),
        "zero_point": Port("float", "whole values, shaped like scale; absent means 0", optional=True),
    }
    outputs = {"Y": Port("float", "dequantized values")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        super().check_shapes(whole, given, attributes)
        cls.check_packed(whole, given, attributes["bit_width"], attributes)

    @classmethod
    def compute(cls, codes, scale, zero_point=None, *, axis, group_size, bit_width, signed, shape):
        shape = tuple(shape)
        axis = groups.normalize_axis(axis, len(shape), cls.op_type())
        q = packing.unpack_codes(codes, bit_width, axis, group_size, shape[axis]).astype(np.float32)
        if signed:
            q -= np.float32(2**bit_width) * (q >= 2 ** (bit_width - 1))
        if zero_point is not None:
            q = q - groups.expand(zero_point, axis, group_size, shape[axis])
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return (q * groups.expand(scale, axis, group_size, shape[axis]) + np.float32(0),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [tuple(attributes["shape"])]

    @classmethod
    def body(cls, b, present):
        # 0 - (z - q) * s: a runtime that drops the addition of 0 would leave -0 where the scale is 0.
        z_less_q = _body.decode_packed(b, b.inputs["codes"], b.attr("bit_width"), cls._negative_table(b))
        if "zero_point" in present:
            z_less_q = b.Add(z_less_q, _body.expand_to_shape(b, b.inputs["zero_point"]))
        return {"Y": b.Sub(b.const(0), b.Mul(z_less_q, _body.expand_to_shape(b, b.inputs["scale"])))}

    @staticmethod
    def _negative_table(b):
        """float32 [256]: minus the value of every code; codes above bit_width bits do not occur."""
        code, count = b.Range(b.int(0), b.int(256), b.int(1)), _body.int_pow2(b, b.attr("bit_width"))
        negative = b.And(b.Equal(b.attr("signed"), b.int(1)), b.GreaterOrEqual(b.Add(code, code), count))
        return b.Cast(b.Sub(b.Where(negative, count, b.int(0)), code), to=ir.DataType.FLOAT)
