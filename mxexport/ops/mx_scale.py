from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.numbers import numerics
from mxexport.ops import _body
from mxexport.ops._attributes import AXIS, CODE_MAX, CODE_MIN, EMAX, FRAC_BITS, GROUP_SIZE, ROUND_BIAS
from mxexport.ops._operator import Operator, Port, contracted


class MXScale(Operator):
    """Shared power-of-two scale of each group, found at run time (OCP MX v1.0 section 6.3).

    A = float32 bits of the group's largest magnitude;
    code = clamp(((A + round_bias) >> 23) - emax, code_min, code_max); scale = 2**(code - 127 - frac_bits).
    A group that holds NaN or Inf gets a NaN scale; a zero group gets the lowest code.
    """

    role = "scale"
    attributes = {
        "axis": AXIS,
        "group_size": GROUP_SIZE,
        "emax": EMAX,
        "round_bias": ROUND_BIAS,
        "frac_bits": FRAC_BITS,
        "code_min": CODE_MIN,
        "code_max": CODE_MAX,
    }
    inputs = {"X": Port("float", "values")}
    outputs = {"scale": Port("float", "contracted scale: ceil(K / group_size) on the axis, X elsewhere")}

    @classmethod
    def compute(cls, x, *, axis, group_size, emax, round_bias, frac_bits, code_min, code_max):
        return (numerics.mx_scale(x, axis, group_size, emax, round_bias, frac_bits, code_min, code_max),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [contracted(shapes[0], attributes)]

    @classmethod
    def body(cls, b, present):
        amax, not_finite = _body.group_amax(b, b.inputs["X"])
        smallest_normal = b.const(np.ldexp(np.float32(1), -126))
        exponent = _body.floor_log2(b, b.Max(amax, smallest_normal))
        # amax = fraction * 2**exponent with fraction in [1, 2), or in [0, 1) for subnormals: the float32 fields.
        fraction = b.Div(amax, _body.pow2(b, exponent))
        normal = b.GreaterOrEqual(fraction, b.const(1))
        mantissa = b.Where(normal, b.Sub(fraction, b.const(1)), fraction)
        # (mantissa + round_bias) carries into the exponent when mantissa >= 1 - round_bias * 2**-23, all exact.
        bias = b.Mul(b.Cast(b.attr("round_bias"), to=ir.DataType.FLOAT), b.const(2.0**-23))
        carry = b.GreaterOrEqual(mantissa, b.Sub(b.const(1), bias))
        field = b.Add(b.Add(exponent, b.int(126)), b.Cast(normal, to=ir.DataType.INT64))
        code = b.Sub(b.Add(field, b.Cast(carry, to=ir.DataType.INT64)), b.attr("emax"))
        code = _body.int_clip(b, code, b.attr("code_min"), b.attr("code_max"))
        scale = _body.pow2(b, b.Sub(b.Sub(code, b.int(127)), b.attr("frac_bits")))
        return {"scale": b.Where(not_finite, b.const(np.nan), scale)}
