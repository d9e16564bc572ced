from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_shape


class WideSlice(Operator):
    """Dataflow unit: a part of every frame of wide integers (v * 2**lsb_exp). Exact.

    Y = X[:, top : top + height, left : left + width, channel : channel + channels] of start = (top, left, channel) and
    size = (height, width, channels); vectors [N, C] have only the last of each, tokens [N, T, C] the last two.
    """

    role = "dataflow"
    attributes = {
        "start": Attribute("ints", "first row, column and channel", 0, rtl="Top Left Channel"),
        "size": Attribute("ints", "rows, columns and channels kept", 1, rtl="OutH OutW OutK"),
        "width": WIDTH.called("Width"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"X": Port("int64", "wide integers [N, H, W, C], [N, T, C] or [N, C]")}
    outputs = {"Y": Port("int64", "wide integers, same width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_shape(cls.op_type(), "X", whole, (None,) * min(max(len(whole), 2), 4))

    @classmethod
    def compute(cls, x, *, start, size, width, lsb_exp):
        kept = [slice(a, a + n) for a, n in zip(start, size, strict=True)]
        return (np.ascontiguousarray(x[(slice(None), *kept[4 - x.ndim :])]),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [(shapes[0][0], *attributes["size"][4 - len(shapes[0]) :])]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        rank = b.Size(b.Shape(b.inputs["X"]))
        unused = b.Reshape(b.Sub(b.int(4), rank), b.int([1]))
        start, size = (b.Slice(b.attr(name, "ints"), unused, b.int([3])) for name in ("start", "size"))
        return {"Y": b.Slice(b.inputs["X"], start, b.Add(start, size), b.Range(b.int(1), rank, b.int(1)))}
