from __future__ import annotations

from qonnx.core.datatype import DataType

from mxexport.numbers import spatial
from mxexport.ops import _body
from mxexport.ops._attributes import KERNEL_SHAPE, LSB_EXP, PADS, STRIDES, WIDTH
from mxexport.ops._operator import Operator, Port
from mxexport.ops._windows import check_window, output_sizes

_LEAST = -(2**62)


class WideMaxPool(Operator):
    """Dataflow unit: the largest value of every window of wide integers (v * 2**lsb_exp). Exact."""

    role = "dataflow"
    attributes = {
        "kernel_shape": KERNEL_SHAPE,
        "strides": STRIDES,
        "pads": PADS,
        "width": WIDTH.called("Width"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"X": Port("int64", "wide integers [N, H, W, C]")}
    outputs = {"Y": Port("int64", "wide integers [N, OH, OW, C], same width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_window(cls.op_type(), whole, attributes)

    @classmethod
    def compute(cls, x, *, kernel_shape, strides, pads, width, lsb_exp):
        return (spatial.taps(x, kernel_shape, strides, pads, (1, 1), _LEAST).max(-2),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [(shapes[0][0], *output_sizes(shapes[0], attributes), shapes[0][3])]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        taps = _body.taps(b, b.inputs["X"], b.int(_LEAST), dilated=False)
        return {"Y": b.ReduceMax(taps, b.int([3]), keepdims=0)}
