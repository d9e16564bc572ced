from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.numbers import spatial
from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_shape


class WideAffine(Operator):
    """Dataflow unit: every channel of wide integers times its own gain, plus its own offset, rounded once.

    Y = rne((X * gain + offset) / 2**shift) along the last axis, ties to even; Y stands for Y * 2**lsb_exp.
    """

    role = "dataflow"
    attributes = {
        "shift": Attribute("i", "bits that the rounding takes off", 1, 62, "Shift"),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {
        "X": Port("int64", "wide integers [..., C]"),
        "gain": Port("int64", "factors [C]"),
        "offset": Port("int64", "offsets in units of the product [C]"),
    }
    outputs = {"Y": Port("int64", "wide integers of width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        for name in ("gain", "offset"):
            check_shape(cls.op_type(), name, given.get(name, whole[-1:]), whole[-1:])

    @classmethod
    def compute(cls, x, gain, offset, *, shift, width, lsb_exp):
        return (spatial.divide(x * gain + offset, np.int64(1) << np.int64(shift)),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        total = b.Add(b.Mul(b.inputs["X"], b.inputs["gain"]), b.inputs["offset"])
        return {"Y": _body.int_divide(b, total, _body.int_pow2(b, b.attr("shift")))}
