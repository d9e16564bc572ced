from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_shape


class WideActivation(Operator):
    """Dataflow unit: smooth functions of wide integers, exact but for a curve of bounded height that a table holds.

    V = |X| * 2**shift, rounded to nearest, ties up, where shift is negative. The curve C of V is made of straight
    segments, 2**segment_bits to an octave as the mantissas of a minifloat are: those below 2**first, with
    first = segment_bits + position_bits, are 2**position_bits long, and twice as long in every octave that follows.
    With d = max(floor(log2(V)) - first, 0), n = V * 2**(octaves - 1 - d) and P = position_bits + octaves - 1, segment
    i = d * 2**segment_bits + floor(n / 2**P) holds V, and C = base[i] + floor((slope[i] * (n mod 2**P) + 2**(P - 1)) /
    2**P). From V = 2**(first + octaves) on, C = limit, or low_limit of negative X. With two sides, the curve of
    negative X stands behind that of the others.

    With gate 1, Y = relu(X) - C, relu(X) being V of positive X: functions near 0 and near X at the ends; with gate 2,
    Y = relu(X) + C. Without, Y = offset + C, and offset - C of negative X: functions symmetric about a point. Y stands
    for Y * 2**lsb_exp.
    """

    role = "dataflow"
    attributes = {
        "shift": Attribute("i", "bits by which |X| is moved up; negative: by which it is rounded", -62, 62, "Up"),
        "segment_bits": Attribute("i", "binary logarithm of the segments of an octave", 1, 8, "SegmentBits"),
        "position_bits": Attribute("i", "bits of a place inside one of the shortest segments", 1, 24, "PositionBits"),
        "octaves": Attribute("i", "octaves behind the shortest segments", 2, 16, "Octaves"),
        "sides": Attribute("i", "2: negative X have a curve of their own", 1, 2, "Sides"),
        "gate": Attribute("i", "1: relu(X) - C; 2: relu(X) + C; 0: offset + C or offset - C", 0, 2, "Gate"),
        "offset": Attribute("i", "Y of 0, without gate", 0, 2**30, "Offset"),
        "limit": Attribute("i", "C behind the last segment", 0, 2**30, "Limit"),
        "low_limit": Attribute("i", "the same of negative X", 0, 2**30, "LowLimit"),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {
        "X": Port("int64", "wide integers"),
        "base": Port("int64", "C where a segment starts [sides * (octaves + 1) * 2**segment_bits]"),
        "slope": Port("int64", "by how much C is more where it ends, of the same shape"),
    }
    outputs = {"Y": Port("int64", "wide integers of width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        words = attributes["sides"] * (attributes["octaves"] + 1) << attributes["segment_bits"]
        for name in ("base", "slope"):
            check_shape(cls.op_type(), name, given.get(name, (words,)), (words,))

    @classmethod
    def compute(
        cls, x, base, slope, *, shift, segment_bits, position_bits, octaves, sides, gate, offset, limit, low_limit,
        width, lsb_exp,
    ):  # fmt: skip
        down = np.int64(max(-shift, 0))
        value = ((np.abs(x) << np.int64(max(shift, 0))) + (np.int64(1) << down >> 1)) >> down
        first, places = segment_bits + position_bits, np.int64(position_bits + octaves - 1)
        end = np.int64(1) << np.int64(first + octaves)
        near = np.minimum(value, end - 1)
        octave = sum((near >= np.int64(1) << np.int64(first + i)).astype(np.int64) for i in range(1, octaves))
        near = near << (octaves - 1 - octave)
        turned = (x < 0) * np.int64((sides - 1) * (octaves + 1))
        segment = ((octave + turned) << np.int64(segment_bits)) + (near >> places)
        place = near & ((np.int64(1) << places) - 1)
        more = (slope[segment] * place + (np.int64(1) << places - 1)) >> places
        curve = np.where(value < end, base[segment] + more, np.where(x < 0, np.int64(low_limit), np.int64(limit)))
        if gate:
            return (np.where(x < 0, 0, value) + (curve if gate == 2 else -curve),)
        return (offset + np.where(x < 0, -curve, curve),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        zero, one, octaves = b.int(0), b.int(1), b.attr("octaves")
        pieces = _body.int_pow2(b, b.attr("segment_bits"))
        value = cls._value(b)
        first = b.Add(b.attr("segment_bits"), b.attr("position_bits"))
        places = b.Sub(b.Add(b.attr("position_bits"), octaves), one)
        end, unit = _body.int_pow2(b, b.Add(first, octaves)), _body.int_pow2(b, places)
        near = b.Min(value, b.Sub(end, one))
        octave = b.Max(b.Sub(_body.int_floor_log2(b, near), first), zero)
        near = b.Mul(near, _body.int_pow2(b, b.Sub(b.Sub(octaves, one), octave)))
        piece = b.Div(near, unit)
        negative = b.Less(b.inputs["X"], zero)
        other = b.Mul(b.Sub(b.attr("sides"), one), b.Add(octaves, one))
        turned = b.Add(octave, b.Where(negative, other, zero))
        segment = b.Add(b.Mul(turned, pieces), piece)
        place = b.Sub(near, b.Mul(piece, unit))
        more = b.Add(b.Mul(b.Gather(b.inputs["slope"], segment), place), b.Div(unit, b.int(2)))
        inside = b.Add(b.Gather(b.inputs["base"], segment), _body.int_floor_divide(b, more, unit))
        behind = b.Where(negative, b.attr("low_limit"), b.attr("limit"))
        curve = b.Where(b.Less(value, end), inside, behind)
        raised = b.Where(b.Equal(b.attr("gate"), one), b.Neg(curve), curve)
        gated = b.Add(b.Where(negative, zero, value), raised)
        plain = b.Add(b.attr("offset"), b.Where(negative, b.Neg(curve), curve))
        return {"Y": b.Where(b.Equal(b.attr("gate"), zero), plain, gated)}

    @classmethod
    def _value(cls, b):
        """V."""
        shift, zero = b.attr("shift"), b.int(0)
        down = _body.int_pow2(b, b.Max(b.Neg(shift), zero))
        moved = b.Mul(b.Abs(b.inputs["X"]), _body.int_pow2(b, b.Max(shift, zero)))
        return b.Div(b.Add(moved, b.Div(down, b.int(2))), down)
