from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.numbers import groups, packing
from mxexport.ops import _body
from mxexport.ops._attributes import SHAPE
from mxexport.ops._elements import IntegerOperator
from mxexport.ops._groups import Groups
from mxexport.ops._operator import Port
from mxexport.ops._packed import PackedCodes


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
        groups, bits = Groups.of_shape(b), b.attr("bit_width")
        code = b.Cast(PackedCodes(b, groups, bits).unpack(), to=ir.DataType.FLOAT)
        count = _body.pow2(b, bits)
        # Minus the element: codes from half of them on stand for themselves less all of them.
        upper = b.Floor(b.Mul(code, b.Div(b.const(2), count)))
        z_less_q = b.Sub(b.Mul(upper, b.Mul(count, b.Cast(b.attr("signed"), to=ir.DataType.FLOAT))), code)
        if "zero_point" in present:
            z_less_q = b.Add(z_less_q, groups.spread(b.inputs["zero_point"]))
        # 0 - (z - q) * s: a runtime that drops the addition of 0 would leave -0 where the scale is 0.
        return {"Y": groups.join(b.Sub(b.const(0), b.Mul(z_less_q, groups.spread(b.inputs["scale"]))))}
