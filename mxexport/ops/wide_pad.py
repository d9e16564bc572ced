from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.numbers import groups
from mxexport.ops._attributes import LSB_EXP, PADS, WIDTH
from mxexport.ops._operator import Operator, Port, check_shape


class WidePad(Operator):
    """Dataflow unit: a border of zeros around frames of wide integers (v * 2**lsb_exp). Exact."""

    role = "dataflow"
    attributes = {"pads": PADS, "width": WIDTH.called("Width"), "lsb_exp": LSB_EXP}
    inputs = {"X": Port("int64", "wide integers [N, H, W, C]")}
    outputs = {"Y": Port("int64", "wide integers, larger by pads, same width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_shape(cls.op_type(), "X", whole, (None,) * 4)

    @classmethod
    def compute(cls, x, *, pads, width, lsb_exp):
        top, left, bottom, right = pads
        return (np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        first, *size, channels = shapes[0]
        pads = attributes["pads"]
        grown = [None if groups.is_open(n) else n + pads[i] + pads[i + 2] for i, n in enumerate(size)]
        return [(first, *grown, channels)]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        pads, zero = b.attr("pads", "ints"), b.int([0])
        before, after = b.Slice(pads, b.int([0]), b.int([2])), b.Slice(pads, b.int([2]), b.int([4]))
        return {"Y": b.Pad(b.inputs["X"], b.Concat(zero, before, zero, zero, after, zero, axis=0), b.int(0))}
