from __future__ import annotations

from qonnx.core.datatype import DataType

from mxexport.numbers import groups
from mxexport.ops._attributes import LSB_EXP, WIDTH
from mxexport.ops._operator import Operator, Port, check_shape


class WideReorder(Operator):
    """Dataflow unit: images of wide integers (v * 2**lsb_exp) as vectors, channel by channel.

    What Flatten makes of [N, C, H, W]; streams bring images pixel by pixel. Exact.
    """

    role = "dataflow"
    attributes = {"width": WIDTH.called("Width"), "lsb_exp": LSB_EXP}
    inputs = {"X": Port("int64", "wide integers [N, H, W, C]")}
    outputs = {"Y": Port("int64", "wide integers [N, C * H * W], same width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_shape(cls.op_type(), "X", whole, (None,) * 4)

    @classmethod
    def compute(cls, x, *, width, lsb_exp):
        return (x.transpose(0, 3, 1, 2).reshape(len(x), x.shape[1] * x.shape[2] * x.shape[3]),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        first, *frame = shapes[0]
        return [(first, None if any(map(groups.is_open, frame)) else frame[0] * frame[1] * frame[2])]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        return {"Y": b.Flatten(b.Transpose(b.inputs["X"], perm=[0, 3, 1, 2]), axis=1)}
