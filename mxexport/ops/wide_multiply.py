from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.numbers import spatial
from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_shape


class WideMultiply(Operator):
    """Dataflow unit: the product of two tensors of wide integers, element by element, rounded once.

    Y = rne(A * B / 2**shift), ties to even; Y stands for Y * 2**lsb_exp.
    """

    role = "dataflow"
    attributes = {
        "shift": Attribute("i", "bits that the rounding takes off", 0, 62, "Shift"),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"A": Port("int64", "wide integers"), "B": Port("int64", "wide integers, shape of A")}
    outputs = {"Y": Port("int64", "wide integers of width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_shape(cls.op_type(), "B", given.get("B", whole), whole)

    @classmethod
    def compute(cls, a, b, *, shift, width, lsb_exp):
        return (spatial.divide(a * b, np.int64(1) << np.int64(shift)),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        product = b.Mul(b.inputs["A"], b.inputs["B"])
        return {"Y": _body.int_divide(b, product, _body.int_pow2(b, b.attr("shift")))}
