from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.ops._attributes import LSB_EXP, WIDTH
from mxexport.ops._operator import Operator, Port, check_shape


class WideEmbedding(Operator):
    """Dataflow unit: a row of a table for every number that comes: embeddings of tokens. Exact.

    Y = table[min(max(X, 0), V - 1)], in units of 2**lsb_exp.
    """

    role = "dataflow"
    attributes = {"width": WIDTH.called("OutWidth"), "lsb_exp": LSB_EXP}
    inputs = {
        "X": Port("int64", "whole numbers [..., 1]"),
        "table": Port("int64", "rows [V, C], in units of the result"),
    }
    outputs = {"Y": Port("int64", "wide integers [..., C] of width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_shape(cls.op_type(), "X", whole, (*whole[:-1], 1))
        check_shape(cls.op_type(), "table", given.get("table", (None, None)), (None, None))

    @classmethod
    def compute(cls, x, table, *, width, lsb_exp):
        return (table[np.clip(x[..., 0], 0, len(table) - 1)],)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [(*shapes[0][:-1], shapes[1][1] if len(shapes) > 1 and shapes[1] else None)]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        rows = b.Sub(b.Gather(b.Shape(b.inputs["table"]), b.int(0)), b.int(1))
        index = b.Min(b.Max(b.Squeeze(b.inputs["X"], b.int([-1])), b.int(0)), rows)
        return {"Y": b.Gather(b.inputs["table"], index, axis=0)}
