from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.numbers import groups, numerics, packing
from mxexport.ops import _body
from mxexport.ops._attributes import SHAPE, Attribute
from mxexport.ops._elements import FloatOperator
from mxexport.ops._groups import Groups
from mxexport.ops._operator import Port
from mxexport.ops._packed import PackedCodes


class MXFloatDequant(FloatOperator):
    """Packed minifloat codes -> values: Y = decode(code) * scale. Every code is decoded, Inf and NaN included.

    codes has the rank of Y; on the axis it holds ceil(K / group_size) * ceil(group_size * bits / 8) bytes, elsewhere it
    is as long as Y. Codes of bits = 1 + exponent_bits + mantissa_bits each are packed LSB first along the axis; every
    group starts on a byte and the last group is padded to a whole one. A code is sign, exponent field and mantissa from
    the most significant bit on; its magnitude is the code without the sign.
    """

    role = "dequantizer"
    attributes = FloatOperator.element_attributes | {
        "max_code": Attribute("i", "largest finite magnitude; those above are NaN", 0, 127),
        "has_inf": Attribute("i", "1: the magnitude after max_code is Inf", 0, 1),
        "shape": SHAPE,
    }
    inputs = {
        "codes": Port("uint8", "packed codes"),
        "scale": Port("float", "contracted scale: ceil(K / group_size) on the axis, Y elsewhere"),
    }
    outputs = {"Y": Port("float", "dequantized values")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        super().check_shapes(whole, given, attributes)
        bits = 1 + attributes["exponent_bits"] + attributes["mantissa_bits"]
        cls.check_packed(whole, given, bits, attributes)

    @classmethod
    def compute(cls, codes, scale, *, axis, group_size, shape, **described):
        element, shape = cls.element_of(described), tuple(shape)
        axis = groups.normalize_axis(axis, len(shape), cls.op_type())
        plain = packing.unpack_codes(codes, element.bits, axis, group_size, shape[axis])
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return (numerics.decode(plain, element) * groups.expand(scale, axis, group_size, shape[axis]),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [tuple(attributes["shape"])]

    @classmethod
    def body(cls, b, present):
        bits = b.Add(b.Add(b.attr("exponent_bits"), b.attr("mantissa_bits")), b.int(1))
        groups = Groups.of_shape(b)
        values = _body.look_up(b, cls._table(b), PackedCodes(b, groups, bits).unpack(), bits)
        return {"Y": groups.join(b.Mul(values, groups.spread(b.inputs["scale"])))}

    @staticmethod
    def _table(b):
        """float32 [256]: the value of every code; codes of narrow formats repeat."""
        zero, one, hidden = b.int(0), b.int(1), _body.int_pow2(b, b.attr("mantissa_bits"), 8)
        code = b.Range(zero, b.int(256), one)
        half = _body.int_pow2(b, b.Add(b.attr("exponent_bits"), b.attr("mantissa_bits")), 8)
        magnitude = b.Mod(code, half)
        field = b.Div(magnitude, hidden)
        significand = b.Add(b.Mod(magnitude, hidden), b.Where(b.Greater(field, zero), hidden, zero))
        exponent = b.Sub(b.Max(field, one), b.Add(b.attr("exponent_bias"), b.attr("mantissa_bits")))
        value = b.Mul(b.Cast(significand, to=ir.DataType.FLOAT), _body.pow2(b, exponent))
        last = b.Add(b.attr("max_code"), b.attr("has_inf"))
        value = b.Where(b.Greater(magnitude, b.attr("max_code")), b.const(np.inf), value)
        no_negative_zero = b.And(b.Equal(b.attr("signed_zero"), zero), b.Equal(code, half))
        value = b.Where(b.Or(b.Greater(magnitude, last), no_negative_zero), b.const(np.nan), value)
        # A product, because onnxruntime's Where adds its two sides and loses -0.
        return b.Mul(value, b.Where(b.GreaterOrEqual(code, half), b.const(-1), b.const(1)))

    @classmethod
    def attributes_of(cls, element):
        limits = {"max_code": element.max_code, "has_inf": int(element.inf_code is not None)}
        return super().attributes_of(element) | limits
