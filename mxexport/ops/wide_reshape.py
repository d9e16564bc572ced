from __future__ import annotations

import math

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.errors import ShapeError
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port


class WideReshape(Operator):
    """Dataflow unit: the same integers in the same order, in other vectors or in other units; without logic.

    Channels as heads of channels, heads as channels again, images as tokens; a factor of a power of two is in lsb_exp.
    """

    role = "dataflow"
    attributes = {
        "frame": Attribute("ints", "shape of a frame of Y", 1),
        "width": WIDTH.called("Width"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"X": Port("int64", "wide integers [N, ...]")}
    outputs = {"Y": Port("int64", "wide integers [N, *frame] of the same width, in units of 2**lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        came, goes = whole[1:], list(attributes["frame"])
        if all(isinstance(n, int) for n in came) and math.prod(came) != math.prod(goes):
            raise ShapeError(f"{cls.op_type()}: X has frames of {list(came)}; expected as many values as {goes}")

    @classmethod
    def compute(cls, x, *, frame, width, lsb_exp):
        return (np.ascontiguousarray(x).reshape(len(x), *frame),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [(shapes[0][0], *attributes["frame"])]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        first = b.Slice(b.Shape(b.inputs["X"]), b.int([0]), b.int([1]))
        return {"Y": b.Reshape(b.inputs["X"], b.Concat(first, b.attr("frame", "ints"), axis=0), allowzero=1)}
