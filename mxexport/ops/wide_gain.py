from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.numbers import spatial
from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_shape


class WideGain(Operator):
    """Dataflow unit: every place of a frame of wide integers times a factor of its own, rounded once: rotary positions.

    Y = rne(X * gain / 2**shift), ties to even; Y stands for Y * 2**lsb_exp.
    """

    role = "dataflow"
    attributes = {
        "shift": Attribute("i", "bits that the rounding takes off", 1, 62, "Shift"),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {
        "X": Port("int64", "wide integers [N, ...]"),
        "gain": Port("int64", "factors [...]"),
    }
    outputs = {"Y": Port("int64", "wide integers of width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_shape(cls.op_type(), "gain", given.get("gain", whole[1:]), whole[1:])

    @classmethod
    def compute(cls, x, gain, *, shift, width, lsb_exp):
        return (spatial.divide(x * gain, np.int64(1) << np.int64(shift)),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        product = b.Mul(b.inputs["X"], b.inputs["gain"])
        return {"Y": _body.int_divide(b, product, _body.int_pow2(b, b.attr("shift")))}
