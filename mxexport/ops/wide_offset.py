from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_shape


class WideOffset(Operator):
    """Dataflow unit: a constant of its own for every place of a frame of wide integers: positions of tokens. Exact.

    Y = X * 2**x_shift + offset, in units of 2**lsb_exp.
    """

    role = "dataflow"
    attributes = {
        "x_shift": Attribute("i", "bits by which X is moved up", 0, 62, "XShift"),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {
        "X": Port("int64", "wide integers [N, ...]"),
        "offset": Port("int64", "what is added [...], in units of the result"),
    }
    outputs = {"Y": Port("int64", "wide integers of width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_shape(cls.op_type(), "offset", given.get("offset", whole[1:]), whole[1:])

    @classmethod
    def compute(cls, x, offset, *, x_shift, width, lsb_exp):
        return ((x << np.int64(x_shift)) + offset,)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        moved = b.Mul(b.inputs["X"], _body.int_pow2(b, b.attr("x_shift")))
        return {"Y": b.Add(moved, b.inputs["offset"])}
