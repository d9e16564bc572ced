from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_shape


class WideAdd(Operator):
    """Dataflow unit: the sum of two tensors of wide integers, brought to one least significant bit. Exact.

    Y = A * 2**a_shift + B * 2**b_shift, which stands for Y * 2**lsb_exp.
    """

    role = "dataflow"
    attributes = {
        "a_shift": Attribute("i", "bits that A has below its own in Y", 0, 62, "AShift"),
        "b_shift": Attribute("i", "bits that B has below its own in Y", 0, 62, "BShift"),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"A": Port("int64", "wide integers"), "B": Port("int64", "wide integers, shape of A")}
    outputs = {"Y": Port("int64", "wide integers of width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_shape(cls.op_type(), "B", given.get("B", whole), whole)

    @classmethod
    def compute(cls, a, b, *, a_shift, b_shift, width, lsb_exp):
        return ((a << np.int64(a_shift)) + (b << np.int64(b_shift)),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        sides = [
            b.Mul(b.inputs[side], _body.int_pow2(b, b.attr(shift)))
            for side, shift in (("A", "a_shift"), ("B", "b_shift"))
        ]
        return {"Y": b.Add(*sides)}
