from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.ops._attributes import LSB_EXP, WIDTH
from mxexport.ops._operator import Operator, Port


class WideArgMax(Operator):
    """Dataflow unit: which channel of every vector holds the largest wide integer, the first among equals. Exact."""

    role = "dataflow"
    attributes = {"width": WIDTH.called("OutWidth"), "lsb_exp": LSB_EXP}
    inputs = {"X": Port("int64", "wide integers [..., C]")}
    outputs = {"Y": Port("int64", "numbers of channels [..., 1]; lsb_exp is 0")}

    @classmethod
    def compute(cls, x, *, width, lsb_exp):
        return (x.argmax(-1)[..., None].astype(np.int64),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [(*shapes[0][:-1], 1)]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        return {"Y": b.ArgMax(b.inputs["X"], axis=-1, keepdims=1)}
