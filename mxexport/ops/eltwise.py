from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port


class Eltwise(Operator):
    """Dataflow unit: element by element on wide integers (v * 2**lsb_exp). relu = 1: Y = max(X, 0). Exact."""

    role = "dataflow"
    attributes = {
        "relu": Attribute("i", "1: negative values become 0", 0, 1),
        "width": WIDTH.called("Width"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"X": Port("int64", "wide integers")}
    outputs = {"Y": Port("int64", "wide integers, same width and lsb_exp")}

    @classmethod
    def compute(cls, x, *, relu, width, lsb_exp):
        return (np.maximum(x, 0) if relu else x,)

    @classmethod
    def body(cls, b, present):
        x, zero = b.inputs["X"], b.int(0)
        return {"Y": b.Where(b.Equal(b.attr("relu"), b.int(1)), b.Max(x, zero), x)}

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]
