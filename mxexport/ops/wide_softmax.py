from __future__ import annotations

from qonnx.core.datatype import DataType

from mxexport.errors import FormatError, ShapeError
from mxexport.numbers import groups, softmax
from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_shape


class WideSoftmax(Operator):
    """Dataflow unit: softmax of wide integers over the last axis; entries whose mask is 0 take no part and give 0.

    With F = fraction, L = F - segment_bits, over the entries that take part: D = min(floor((max - X) / 2**drop),
    2**distance_bits - 1), T = up(D * factor, 16), N = min(floor(T / 2**F), exp_bits + 2), J = (T mod 2**F) div 2**L,
    E = up(values[J] + up(slopes[J] * (T mod 2**L), L), N); R = floor(2**(exp_bits + reciprocal_bits) / sum(E)),
    Y = up(E * R, exp_bits + reciprocal_bits - out_bits). up(v, s) is v / 2**s to nearest with ties up. Y stands for
    Y * 2**-out_bits; rows of which nothing takes part give zeros.
    """

    role = "dataflow"
    attributes = {
        "factor": Attribute("i", "steps of T to a distance, with 16 bits below the point", 1, 2**31 - 1, "Factor"),
        "drop": Attribute("i", "bits of a distance that are cut off", 0, 62, "Drop"),
        "distance_bits": Attribute("i", "bits of a distance; longer ones count as the longest", 1, 31, "DistanceBits"),
        "fraction": Attribute("i", "fraction bits of T", 2, 16, "Fraction"),
        "segment_bits": Attribute("i", "2**segment_bits chords of the table over [0, 1)", 1, 8, "SegmentBits"),
        "exp_bits": Attribute("i", "fraction bits of E: the largest is 2**exp_bits", 8, 24, "ExpBits"),
        "reciprocal_bits": Attribute("i", "fraction bits of R", 8, 32, "ReciprocalBits"),
        "out_bits": Attribute("i", "fraction bits of Y", 4, 31, "OutBits"),
        "width": WIDTH,
        "lsb_exp": LSB_EXP,
    }
    inputs = {
        "X": Port("int64", "wide integers [..., T]"),
        "values": Port("int64", "2**exp_bits * 2**-f where chords begin [2**segment_bits]"),
        "slopes": Port("int64", "what each chord gains until it ends [2**segment_bits]"),
        "mask": Port("uint8", "1 where an entry takes part, of a shape that broadcasts to X"),
    }
    outputs = {"Y": Port("int64", "wide integers of width and lsb_exp = -out_bits")}

    @classmethod
    def check(cls, shapes, attributes):
        super().check(shapes, attributes)
        if attributes["fraction"] <= attributes["segment_bits"]:
            raise FormatError(f"{cls.op_type()}: fraction is {attributes['fraction']}; expected more than segment_bits")

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        table = (1 << attributes["segment_bits"],)
        for name in ("values", "slopes"):
            check_shape(cls.op_type(), name, given.get(name, table), table)
        mask = given.get("mask", ())
        fits = len(mask) <= len(whole) and all(
            m == 1 or m == n or groups.is_open(m) or groups.is_open(n)
            for m, n in zip(mask[::-1], whole[::-1], strict=False)
        )
        if not fits:
            raise ShapeError(f"{cls.op_type()}: mask has shape {mask}, expected one that broadcasts to {whole}")

    @classmethod
    def compute(cls, x, values, slopes, mask, *, reciprocal_bits, out_bits, width, lsb_exp, **a):
        e = softmax.exponentials(x, mask, values, slopes, **a)
        return (softmax.shares(e, a["exp_bits"], reciprocal_bits, out_bits),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def _kept(cls, b):
        """Which entries take part."""
        return b.Cast(b.inputs["mask"], to=9)

    @classmethod
    def body(cls, b, present):
        x, last = b.inputs["X"], b.int([-1])
        exp_bits, fraction = b.attr("exp_bits"), b.attr("fraction")
        kept = cls._kept(b)
        top = b.ReduceMax(b.Where(kept, x, b.int(-(2**62))), last, keepdims=1)
        distance = b.Div(b.Sub(top, b.Min(x, top)), _body.int_pow2(b, b.attr("drop")))
        distance = b.Min(distance, b.Sub(_body.int_pow2(b, b.attr("distance_bits")), b.int(1)))
        t = _up(b, b.Mul(distance, b.attr("factor")), b.int(softmax.FACTOR_BITS))
        step, low = _body.int_pow2(b, fraction), b.Sub(fraction, b.attr("segment_bits"))
        whole = b.Div(t, step)
        below, unit = b.Sub(t, b.Mul(whole, step)), _body.int_pow2(b, low)
        segment = b.Div(below, unit)
        within = b.Sub(below, b.Mul(segment, unit))
        gained = _body.int_half_up(b, b.Mul(b.Gather(b.inputs["slopes"], segment), within), low)
        found = b.Add(b.Gather(b.inputs["values"], segment), gained)
        e = _up(b, found, b.Min(whole, b.Add(exp_bits, b.int(2))))
        e = b.Where(kept, e, b.int(0))
        bits = b.Add(exp_bits, b.attr("reciprocal_bits"))
        total = b.Unsqueeze(b.Max(_body.int_sum(b, e), b.int(1)), last)
        reciprocal = b.Div(_body.int_pow2(b, bits), total)
        return {"Y": _up(b, b.Mul(e, reciprocal), b.Sub(bits, b.attr("out_bits")))}


class WideMaskedSoftmax(WideSoftmax):
    """Dataflow unit: WideSoftmax whose entries take part frame by frame, as a second stream says: sequences that are
    shorter than others.

    An entry takes part where its key is above zero (keep = 1) or is not (keep = 0), and its mask is 1.
    """

    attributes = WideSoftmax.attributes | {
        "keep": Attribute("i", "1: entries with keys above zero take part, 0: the others", 0, 1, "Keep")
    }
    inputs = {
        "X": WideSoftmax.inputs["X"],
        "keys": Port("int64", "one number for each entry, for all vectors of a frame [N, T]"),
        **{name: port for name, port in WideSoftmax.inputs.items() if name != "X"},
    }

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        super().check_shapes(whole, given, attributes)
        wanted = (whole[0], whole[-1])
        check_shape(cls.op_type(), "keys", given.get("keys", wanted), wanted)

    @classmethod
    def compute(cls, x, keys, values, slopes, mask, *, keep, **attributes):
        kept = ((keys > 0) == bool(keep)).reshape(len(keys), *[1] * (x.ndim - 2), keys.shape[-1])
        return super().compute(x, values, slopes, (mask != 0) & kept, **attributes)

    @classmethod
    def _kept(cls, b):
        shape, size = b.Shape(b.inputs["X"]), b.Size(b.Shape(b.inputs["X"]))
        ones = b.Expand(b.int([1]), b.Reshape(b.Sub(size, b.int(2)), b.int([1])))
        ends = [b.Slice(shape, b.int([start]), b.int([end])) for start, end in ((0, 1), (-1, 2**31 - 1))]
        keys = b.Reshape(b.inputs["keys"], b.Concat(ends[0], ones, ends[1], axis=0))
        own = b.Equal(b.Cast(b.Greater(keys, b.int(0)), to=7), b.attr("keep"))
        return b.And(super()._kept(b), own)


def _up(b, value, shift):
    """softmax.half_up of what is not below zero."""
    unit = _body.int_pow2(b, shift)
    return b.Div(b.Add(value, b.Div(unit, b.int(2))), unit)
