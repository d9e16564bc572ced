from __future__ import annotations

import onnx_ir as ir

from mxexport.numbers import numerics
from mxexport.ops import _body, _floats
from mxexport.ops._attributes import AXIS, CODE_MAX, CODE_MIN, EMAX, FRAC_BITS, GROUP_SIZE, ROUND_BIAS
from mxexport.ops._groups import Groups
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
        groups = Groups.of(b, b.inputs["X"])
        amax, odd = _floats.group_amax(b, groups, groups.split(b.inputs["X"]))
        # The first place of large magnitudes is found 32 binades below, where nothing overflows.
        large = b.GreaterOrEqual(amax, b.const(2.0**96))
        a = b.Mul(amax, b.Where(large, b.const(2.0**-32), b.const(1)))
        unit = b.Max(_floats.unit_in_first_place(b, a), b.const(_floats.SMALLEST_NORMAL))
        # round_bias units in the last place carry into the exponent, or leave the first place where it is.
        last_place = b.Mul(unit, b.Mul(b.Cast(b.attr("round_bias"), to=ir.DataType.FLOAT), b.const(2.0**-23)))
        first_place = b.Max(_floats.unit_in_first_place(b, b.Add(a, last_place)), b.const(2.0**-127))
        down = _body.pow2(b, b.Neg(b.attr("emax")))
        scale = b.Mul(b.Mul(first_place, down), b.Where(large, b.const(2.0**32), b.const(1)))
        low, high = (_body.pow2(b, b.Sub(b.attr(end), b.int(127))) for end in ("code_min", "code_max"))
        scale = b.Mul(b.Clip(scale, low, high), _body.pow2(b, b.Neg(b.attr("frac_bits"))))
        return {"scale": b.Add(scale, odd)}
