from __future__ import annotations

import onnx_ir as ir

from mxexport.numbers import numerics
from mxexport.ops import _body
from mxexport.ops._attributes import Attribute
from mxexport.ops._elements import IntegerOperator
from mxexport.ops._groups import Groups
from mxexport.ops._operator import Port


class GroupwiseQuant(IntegerOperator):
    """Integer quantize-dequantize: Y = (clip(rne(X / scale + zero_point), lo, hi) - zero_point) * scale + 0.

    MX integers are this operator with a power-of-two step. `narrow` leaves the most negative code unused.
    """

    role = "quantizer"
    attributes = IntegerOperator.element_attributes | {
        "narrow": Attribute("i", "1: signed codes stay within +-(2**(bit_width-1) - 1)", 0, 1),
    }
    inputs = {
        "X": Port("float", "values"),
        "scale": Port("float", "contracted step: ceil(K / group_size) on the axis, X elsewhere"),
        "zero_point": Port("float", "whole values, shaped like scale; absent means 0", optional=True),
    }
    outputs = {"Y": Port("float", "dequantized values, shape of X")}

    @classmethod
    def compute(cls, x, scale, zero_point=None, *, axis, group_size, **element):
        return (numerics.groupwise_quant(x, scale, zero_point, axis, group_size, **element),)

    @classmethod
    def body(cls, b, present):
        scale, zero, one = b.inputs["scale"], b.const(0), b.const(1)
        groups = Groups.of(b, b.inputs["X"])
        z = groups.spread(b.inputs["zero_point"]) if "zero_point" in present else None
        # Not by a scale that is zero, or flushed to zero: what it divides becomes zero in the end, NaN would stay.
        divisor = b.Add(scale, b.Cast(b.Equal(scale, zero), to=ir.DataType.FLOAT))
        v = b.Div(groups.split(b.inputs["X"]), groups.spread(divisor))
        if z is not None:
            v = b.Add(v, z)
        signed = b.Equal(b.attr("signed"), b.int(1))
        narrow = b.Cast(b.attr("narrow"), to=ir.DataType.FLOAT)
        codes = _body.pow2(b, b.attr("bit_width"))
        half = b.Mul(codes, b.const(0.5))
        low = b.Where(signed, b.Sub(narrow, half), zero)
        high = b.Where(signed, b.Sub(half, one), b.Sub(codes, one))
        q = b.Clip(b.Round(v), low, high)
        # 0 - (z - q) * s: a runtime that drops the addition of 0 would leave -0 where q or the scale is 0.
        less = b.Mul(q, groups.spread(b.Neg(scale))) if z is None else b.Mul(b.Sub(z, q), groups.spread(scale))
        return {"Y": groups.join(b.Sub(zero, less))}

    @classmethod
    def attributes_of(cls, element) -> dict[str, int]:
        """The element attributes of a `formats.IntElement`."""
        return {"bit_width": element.bits, "signed": int(element.signed), "narrow": int(element.signed)}
