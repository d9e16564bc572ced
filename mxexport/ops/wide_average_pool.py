from __future__ import annotations

from qonnx.core.datatype import DataType

from mxexport.numbers import spatial
from mxexport.ops import _body
from mxexport.ops._attributes import KERNEL_SHAPE, LSB_EXP, PADS, STRIDES, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port
from mxexport.ops._windows import check_window, output_sizes


class WideAveragePool(Operator):
    """Dataflow unit: the average of every window of wide integers (v * 2**lsb_exp), rounded once.

    Y = rne(sum * 2**shift / divisor), ties to even; taps outside the frame count as zeros. The result has
    lsb_exp - shift; a divisor of 2**shift rounds nothing.
    """

    role = "dataflow"
    attributes = {
        "kernel_shape": KERNEL_SHAPE,
        "strides": STRIDES,
        "pads": PADS,
        "divisor": Attribute("i", "what the sum is divided by", 1, 2**31 - 1, "Divisor"),
        "shift": Attribute("i", "bits that the result has below those of X", 0, 62, "Shift"),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"X": Port("int64", "wide integers [N, H, W, C]")}
    outputs = {"Y": Port("int64", "wide integers [N, OH, OW, C] of width and lsb_exp")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_window(cls.op_type(), whole, attributes)

    @classmethod
    def compute(cls, x, *, kernel_shape, strides, pads, divisor, shift, width, lsb_exp):
        total = spatial.taps(x, kernel_shape, strides, pads, (1, 1), 0).sum(-2)
        return (spatial.divide(total << shift, divisor),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [(shapes[0][0], *output_sizes(shapes[0], attributes), shapes[0][3])]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        taps = _body.taps(b, b.inputs["X"], b.int(0), dilated=False)
        total = _body.int_sum(b, b.Transpose(taps, perm=[0, 1, 2, 4, 3]))
        return {"Y": _body.int_divide(b, b.Mul(total, _body.int_pow2(b, b.attr("shift"))), b.attr("divisor"))}
