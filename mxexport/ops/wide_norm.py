from __future__ import annotations

import numpy as np
import onnx_ir as ir
from qonnx.core.datatype import DataType

from mxexport.errors import FormatError
from mxexport.numbers import normalization, spatial
from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._body import Body
from mxexport.ops._operator import Operator, Port, check_shape


class WideNorm(Operator):
    """Dataflow unit: LayerNorm (center = 1) or RMSNorm (center = 0) of wide integers over the last axis, without a
    division.

    With K channels, S1 = center * sum(X) and S2 = sum(X * X), exact: V = K * S2 - S1**2 + epsilon is K**2 times the
    variance plus epsilon, C = K * X - S1 is K times the deviation. half = floor(log2(V) / 2), and with
    M = floor(V * 2**root_bits / 4**half), J = M div 2**L, T = M mod 2**L, L = root_bits - segment_bits:
    R = roots[J - 2**segment_bits] + up(slopes[J - 2**segment_bits] * T, L), N = up(up(C * 2**fraction, half) * R,
    root_bits), Y = rne((N * gain + offset) / 2**shift). up(v, s) is v / 2**s to nearest with ties up, rne has ties to
    even. N is the normalized value with `fraction` bits below the point; Y stands for Y * 2**lsb_exp. V has to stay
    below 2**62.
    """

    role = "dataflow"
    attributes = {
        "center": Attribute("i", "1: the mean is taken off, 0: it counts as 0", 0, 1, "Center"),
        "epsilon": Attribute("i", "what is added to K**2 times the variance, in squares of X's step", 1, 2**62 - 1),
        "segment_bits": Attribute("i", "2**segment_bits chords of the table to a unit of [1, 4)", 1, 8, "SegmentBits"),
        "root_bits": Attribute("i", "fraction bits of M and R", 2, 24, "RootBits"),
        "fraction": Attribute("i", "fraction bits of N", 1, 20, "Fraction"),
        "shift": Attribute("i", "bits that the last rounding takes off", 1, 62, "Shift"),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {
        "X": Port("int64", "wide integers [..., K]"),
        "gain": Port("int64", "factors [K]"),
        "offset": Port("int64", "offsets in units of the product [K]"),
        "roots": Port("int64", "values of 2**root_bits / sqrt(m) where chords begin [3 * 2**segment_bits]"),
        "slopes": Port("int64", "what each chord gains until it ends [3 * 2**segment_bits]"),
    }
    outputs = {"Y": Port("int64", "wide integers of width and lsb_exp")}

    @classmethod
    def check(cls, shapes, attributes):
        super().check(shapes, attributes)
        if attributes["root_bits"] <= attributes["segment_bits"]:
            raise FormatError(
                f"{cls.op_type()}: root_bits is {attributes['root_bits']}; expected more than segment_bits"
            )

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        table = (3 << attributes["segment_bits"],)
        for name, expected in (("gain", whole[-1:]), ("offset", whole[-1:]), ("roots", table), ("slopes", table)):
            check_shape(cls.op_type(), name, given.get(name, expected), expected)

    @classmethod
    def compute(cls, x, gain, offset, roots, slopes, *, center, epsilon, fraction, shift, width, lsb_exp, **table):
        deviations, variance = normalization.scaled_variance(x, bool(center), epsilon)
        half, root = normalization.inverse_root(variance, roots, slopes, **table)
        value = normalization.normalized(deviations, half, root, fraction, table["root_bits"])
        return (spatial.divide(value * gain + offset, np.int64(1) << np.int64(shift)),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        deviations, variance = _scaled_variance(b)
        half, root = _inverse_root(b, variance)
        fraction, zero = b.attr("fraction"), b.int(0)
        up = b.Mul(deviations, _body.int_pow2(b, b.Max(b.Sub(fraction, half), zero)))
        moved = _body.int_half_up(b, up, b.Max(b.Sub(half, fraction), zero))
        value = _body.int_half_up(b, b.Mul(moved, root), b.attr("root_bits"))
        total = b.Add(b.Mul(value, b.inputs["gain"]), b.inputs["offset"])
        return {"Y": _body.int_divide(b, total, _body.int_pow2(b, b.attr("shift")))}


def _scaled_variance(b: Body) -> tuple[ir.Value, ir.Value]:
    """normalization.scaled_variance."""
    x, last = b.inputs["X"], b.int([-1])
    length = b.Slice(b.Shape(x), last, b.int([2**31 - 1]))
    total = b.Mul(b.Unsqueeze(_body.int_sum(b, x), last), b.attr("center"))
    squares = b.Unsqueeze(_body.int_sum(b, b.Mul(x, x)), last)
    spread = b.Sub(b.Mul(squares, length), b.Mul(total, total))
    return b.Sub(b.Mul(x, length), total), b.Add(spread, b.attr("epsilon"))


def _inverse_root(b: Body, variance: ir.Value) -> tuple[ir.Value, ir.Value]:
    """normalization.inverse_root."""
    zero, root_bits = b.int(0), b.attr("root_bits")
    half = b.Div(_body.int_floor_log2(b, variance), b.int(2))
    drop = b.Sub(b.Mul(half, b.int(2)), root_bits)
    raised = b.Mul(variance, _body.int_pow2(b, b.Max(b.Neg(drop), zero)))
    mantissa = b.Div(raised, _body.int_pow2(b, b.Max(drop, zero)))
    low = b.Sub(root_bits, b.attr("segment_bits"))
    unit = _body.int_pow2(b, low)
    place = b.Div(mantissa, unit)
    segment = b.Sub(place, _body.int_pow2(b, b.attr("segment_bits")))
    within = b.Sub(mantissa, b.Mul(place, unit))
    gained = _body.int_half_up(b, b.Mul(b.Gather(b.inputs["slopes"], segment), within), low)
    return half, b.Add(b.Gather(b.inputs["roots"], segment), gained)
