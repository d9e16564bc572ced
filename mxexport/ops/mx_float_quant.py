from __future__ import annotations

from mxexport.numbers import numerics
from mxexport.ops import _body
from mxexport.ops._attributes import LARGEST, POSITIVE, Attribute
from mxexport.ops._elements import FloatOperator
from mxexport.ops._operator import Port


class MXFloatQuant(FloatOperator):
    """Quantize-dequantize to a minifloat: Y = round(X / scale) * scale.

    Rounds to nearest even on the element's grid, keeps subnormals, saturates at max_val, keeps NaN and (where the
    format has it) the sign of zero (OCP MX v1.0 sections 5.3 and 6.3). Under a scale of zero everything finite or
    infinite becomes zero.
    """

    role = "quantizer"
    attributes = FloatOperator.element_attributes | {
        "max_val": Attribute("f", "largest finite value of the element", POSITIVE, LARGEST),
        "signed": Attribute("i", "0: negative values become 0 (after ReLU)", 0, 1),
    }
    inputs = {
        "X": Port("float", "values"),
        "scale": Port("float", "contracted scale: ceil(K / group_size) on the axis, X elsewhere"),
    }
    outputs = {"Y": Port("float", "dequantized values, shape of X")}

    @classmethod
    def compute(cls, x, scale, *, axis, group_size, **element):
        return (numerics.mx_float_quant(x, scale, axis, group_size, **element),)

    @classmethod
    def body(cls, b, present):
        x, zero = b.inputs["X"], b.const(0)
        scale = _body.expand(b, b.inputs["scale"], x)
        # Where adds its two sides in onnxruntime, which turns -0 into +0: magnitudes here, the sign by a product.
        negative = b.Or(b.Less(x, zero), b.Less(b.Reciprocal(x), zero))
        v = _body.divide(b, b.Abs(x), scale)
        largest = b.attr("max_val", "f")
        saturated = b.Where(b.Less(v, largest), v, largest)
        rounded = _body.round_to_grid(b, saturated, b.attr("mantissa_bits"), b.attr("exponent_bias"))
        signed = b.Equal(b.attr("signed"), b.int(1))
        rounded = b.Where(b.And(negative, b.Not(signed)), zero, rounded)
        zero_keeps_sign = b.Equal(b.attr("signed_zero"), b.int(1))
        keeps_sign = b.And(signed, b.Or(zero_keeps_sign, b.Greater(rounded, zero)))
        sign = b.Where(b.And(negative, keeps_sign), b.const(-1), b.const(1))
        return {"Y": b.Mul(b.Mul(b.Where(b.IsNaN(v), v, rounded), sign), scale)}

    @classmethod
    def attributes_of(cls, element):
        return super().attributes_of(element) | {"max_val": element.max_val, "signed": 1}
