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
        scale, zero, groups = b.inputs["scale"], b.const(0), Groups.of(b, b.inputs["X"])
        largest, mantissa_bits, bias = b.attr("max_val", "f"), b.attr("mantissa_bits"), b.attr("exponent_bias")
        signed, signed_zero = (b.Cast(b.attr(name), to=ir.DataType.FLOAT) for name in ("signed", "signed_zero"))
        # Minus the quotient, because of the difference below.
        minus_v = cls._quotient(b, groups.split(b.inputs["X"]), scale, groups.spread(b.Neg(scale)))
        minus_v = b.Clip(minus_v, b.Neg(largest), b.Mul(largest, signed))
        unit, smallest_normal = _body.pow2(b, b.Neg(mantissa_bits)), _body.pow2(b, b.Sub(b.int(1), bias))
        floor = b.Mul(smallest_normal, unit)
        step = b.choose(
            b.LessOrEqual(largest, b.const(_floats.MOST)),
            lambda branch: _floats.float_step(branch, minus_v, unit, floor),
            lambda branch: _floats.any_float_step(branch, minus_v, mantissa_bits, bias),
        )
        minus_rounded = b.Mul(b.Round(b.Div(minus_v, step)), step)
        # -0 less a zero keeps its sign and 0 less a zero clears it; a runtime may drop the addition of either.
        nothing = b.Mul(zero, b.Sub(zero, b.Mul(signed, signed_zero)))
        return {"Y": groups.join(b.Mul(b.Sub(nothing, minus_rounded), groups.spread(scale)))}

    @staticmethod
    def _quotient(b, grouped, scale, divisor):
        """grouped / divisor. The reference leaves zeros alone: where a scale is not above 0 they are divided by -1."""

        def careful(branch):
            is_zero = branch.Cast(branch.Equal(grouped, b.const(0)), to=ir.DataType.FLOAT)
            others = branch.Mul(divisor, branch.Sub(b.const(1), is_zero))
            return branch.Div(grouped, branch.Sub(others, is_zero))

        all_positive = b.Greater(b.ReduceMin(scale, keepdims=0), b.const(0))
        return b.choose(all_positive, lambda branch: branch.Div(grouped, divisor), careful)

    @classmethod
    def attributes_of(cls, element):
        return super().attributes_of(element) | {"max_val": element.max_val, "signed": 1}
