from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.numbers import spatial
from mxexport.ops import _body
from mxexport.ops._attributes import LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port


class WideLeakyRelu(Operator):
    """Dataflow unit: leaky ReLU on wide integers (v * 2**lsb_exp).

    Y = X where X >= 0, else rne(X * slope / 2**shift), ties to even.
    """

    role = "dataflow"
    attributes = {
        "slope": Attribute("i", "of negative values, times 2**shift", 0, 2**24 - 1, "Slope"),
        "shift": Attribute("i", "fraction bits of slope", 0, 62, "Shift"),
        "width": WIDTH.called("Width"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {"X": Port("int64", "wide integers of at most 39 bits")}
    outputs = {"Y": Port("int64", "wide integers, same width and lsb_exp")}

    @classmethod
    def compute(cls, x, *, slope, shift, width, lsb_exp):
        return (np.where(x < 0, spatial.divide(np.minimum(x, 0) * np.int64(slope), 1 << shift), x),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        x, zero = b.inputs["X"], b.int(0)
        product = b.Mul(b.Min(x, zero), b.attr("slope"))
        leaked = _body.int_divide(b, product, _body.int_pow2(b, b.attr("shift")))
        return {"Y": b.Where(b.Less(x, zero), leaked, x)}
