from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port


class WideClip(Operator):
    """Dataflow unit: wide integers (v * 2**lsb_exp) kept between two bounds: Y = min(max(X, low), high). Exact."""

    role = "dataflow"
    attributes = {
        "low": Attribute("i", "lower bound, as a wide integer", -(2**61), 2**61),
        "high": Attribute("i", "upper bound, as a wide integer", -(2**61), 2**61),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"X": Port("int64", "wide integers")}
    outputs = {"Y": Port("int64", "wide integers of width, same lsb_exp")}

    @classmethod
    def compute(cls, x, *, low, high, width, lsb_exp):
        return (np.minimum(np.maximum(x, low), high),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        return {"Y": _body.int_clip(b, b.inputs["X"], b.attr("low"), b.attr("high"))}
