from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.numbers import spatial
from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port


class WideHardSwish(Operator):
    """Dataflow unit: x * relu6(x + 3) / 6 on wide integers, rounded once.

    V = X * 2**shift and one = 2**fraction. Y = V where V >= 3 one, 0 where V <= -3 one, else
    rne(V * (V + 3 one) / (6 one)), ties to even; Y stands for Y * 2**lsb_exp with lsb_exp = -fraction.
    """

    role = "dataflow"
    attributes = {
        "shift": Attribute("i", "bits by which X is moved up", 0, 62, "Up"),
        "fraction": Attribute("i", "fraction bits of X * 2**shift and of Y", 1, 24, "Fraction"),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"X": Port("int64", "wide integers")}
    outputs = {"Y": Port("int64", "wide integers of width and lsb_exp")}

    @classmethod
    def compute(cls, x, *, shift, fraction, width, lsb_exp):
        value, three = x << np.int64(shift), np.int64(3) << np.int64(fraction)
        near = np.clip(value, -three, three)
        return (spatial.divide(near * (near + three), 2 * three) + np.maximum(value - three, 0),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        value = b.Mul(b.inputs["X"], _body.int_pow2(b, b.attr("shift")))
        three = b.Mul(_body.int_pow2(b, b.attr("fraction")), b.int(3))
        near = b.Max(b.Min(value, three), b.Neg(three))
        product = b.Mul(near, b.Add(near, three))
        curve = _body.int_divide(b, product, b.Mul(three, b.int(2)))
        return {"Y": b.Add(curve, b.Max(b.Sub(value, three), b.int(0)))}
