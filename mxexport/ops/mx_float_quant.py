from __future__ import annotations

import onnx_ir as ir

from mxexport.numbers import numerics
from mxexport.ops import _body, _floats
from mxexport.ops._attributes import LARGEST, POSITIVE, Attribute
from mxexport.ops._elements import FloatOperator
from mxexport.ops._groups import Groups
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
        groups = Groups.of(b, x)
        scale = groups.spread(b.inputs["scale"])
        is_zero = b.Equal(scale, zero)
        largest, mantissa_bits, bias = b.attr("max_val", "f"), b.attr("mantissa_bits"), b.attr("exponent_bias")
        signed, signed_zero = (b.Cast(b.attr(name), to=ir.DataType.FLOAT) for name in ("signed", "signed_zero"))
        v = b.Div(groups.split(x), _floats.divisor(b, scale, is_zero))
        v = b.Clip(v, b.Mul(largest, b.Neg(signed)), largest)
        unit, smallest_normal = _body.pow2(b, b.Neg(mantissa_bits)), _body.pow2(b, b.Sub(b.int(1), bias))
        # Under a zero scale the smallest quotient counts as the largest: no subnormal may lose its sign by rounding.
        floor = b.Where(is_zero, b.const(_floats.SMALLEST_NORMAL), b.Mul(smallest_normal, unit))
        step = b.choose(
            b.LessOrEqual(largest, b.const(_floats.MOST)),
            lambda branch: _floats.float_step(branch, v, unit, floor),
            lambda branch: _floats.any_float_step(branch, v, mantissa_bits, bias),
        )
        rounded = b.Mul(b.Round(b.Div(v, step)), step)
        # -0 where the element has it: adding that keeps the sign of a zero, adding 0 clears it.
        nothing = b.Mul(zero, b.Sub(zero, b.Mul(signed, signed_zero)))
        return {"Y": groups.join(b.Mul(b.Add(rounded, nothing), scale))}

    @classmethod
    def attributes_of(cls, element):
        return super().attributes_of(element) | {"max_val": element.max_val, "signed": 1}
