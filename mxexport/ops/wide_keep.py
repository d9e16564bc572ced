from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.errors import ShapeError
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port


class WideKeep(Operator):
    """Dataflow unit: a one or a zero for all channels of each vector, as its key says.

    Y[..., c] = 1 where X[..., 0] is above zero with keep 1, or is not with keep 0; else 0.
    """

    role = "dataflow"
    attributes = {
        "channels": Attribute("i", "values of a vector of Y", 1, 2**31 - 1, "K"),
        "keep": Attribute("i", "1: keys above zero give ones; 0: the others do", 0, 1, "Keep"),
        "width": WIDTH,
        "lsb_exp": LSB_EXP,
    }
    inputs = {"X": Port("int64", "keys [..., 1]")}
    outputs = {"Y": Port("int64", "zeros and ones [..., channels]")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        if isinstance(whole[-1], int) and whole[-1] != 1:
            raise ShapeError(f"{cls.op_type()}: X has vectors of {whole[-1]}; expected one key each")

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [(*shapes[0][:-1], attributes["channels"])]

    @classmethod
    def compute(cls, x, *, channels, keep, width, lsb_exp):
        return (np.repeat(((x > 0) == bool(keep)).astype(np.int64), channels, axis=-1),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        x, one = b.inputs["X"], b.int(1)
        above = b.Where(b.Greater(x, b.int(0)), one, b.int(0))
        kept = b.Where(b.Equal(b.attr("keep"), one), above, b.Sub(one, above))
        shape = b.Shape(x)
        count = b.Reshape(b.attr("channels"), b.int([1]))
        front = b.Slice(shape, b.int([0]), b.int([-1]))
        return {"Y": b.Expand(kept, b.Concat(front, count, axis=0))}
