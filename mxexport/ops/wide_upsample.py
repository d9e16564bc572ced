from __future__ import annotations

from qonnx.core.datatype import DataType

from mxexport.numbers import groups
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_shape


class WideUpsample(Operator):
    """Dataflow unit: every pixel of wide integers (v * 2**lsb_exp) several times, down and across. Exact."""

    role = "dataflow"
    attributes = {
        "scales": Attribute("ints", "how often, down and across", 1, rtl="ScaleH ScaleW"),
        "width": WIDTH.called("Width"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"X": Port("int64", "wide integers [N, H, W, C]")}
    outputs = {"Y": Port("int64", "wide integers [N, H * scales[0], W * scales[1], C], same width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_shape(cls.op_type(), "X", whole, (None,) * 4)

    @classmethod
    def compute(cls, x, *, scales, width, lsb_exp):
        return (x.repeat(scales[0], 1).repeat(scales[1], 2),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        first, *size, channels = shapes[0]
        grown = [None if groups.is_open(n) else n * s for n, s in zip(size, attributes["scales"], strict=True)]
        return [(first, *grown, channels)]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        x = b.inputs["X"]
        shape = b.Shape(x)
        for axis in (0, 1):
            scale = b.Gather(b.attr("scales", "ints"), b.int(axis))
            length = b.Mul(b.Gather(shape, b.int(axis + 1)), scale)
            x = b.Gather(x, b.Div(b.Range(b.int(0), length, b.int(1)), scale), axis=axis + 1)
        return {"Y": x}
