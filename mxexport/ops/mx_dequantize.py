from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.numbers import fixedpoint, groups
from mxexport.ops import _body
from mxexport.ops._attributes import AXIS, GROUP_SIZE, LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_code_bits, check_shape, contracted


class MXDequantize(Operator):
    """Dataflow unit: MX blocks -> wide integers, exact.

    Y = linear(code) * 2**(scale - scale_offset), which stands for Y * 2**lsb_exp; no scale lies below scale_offset.
    """

    role = "dataflow"
    attributes = {
        "axis": AXIS,
        "group_size": GROUP_SIZE.called("Group"),
        "exponent_bits": Attribute("i", "exponent bits of the element; 0: integer", 0, 7, "ExpBits"),
        "mantissa_bits": Attribute("i", "mantissa bits of the element; integer: fraction bits", 0, 7, "ManBits"),
        "scale_offset": Attribute("i", "scale code of shift 0", 0, 254, "ScaleOffset"),
        "width": WIDTH.called("OutWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {
        "codes": Port("uint8", "element bit patterns"),
        "scale_codes": Port("uint8", "E8M0 codes, contracted"),
    }
    outputs = {"Y": Port("int64", "wide integers, shape of codes")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        super().check_shapes(whole, given, attributes)
        check_code_bits(cls.op_type(), attributes["exponent_bits"], attributes["mantissa_bits"])
        if "scale_codes" in given:
            check_shape(cls.op_type(), "scale_codes", given["scale_codes"], contracted(whole, attributes))

    @classmethod
    def compute(cls, codes, scale_codes, *, axis, group_size, exponent_bits, mantissa_bits, scale_offset, **_):
        values = fixedpoint.linear_table(exponent_bits, mantissa_bits)[codes]
        shift = scale_codes.astype(np.int64) - scale_offset
        return (values << groups.expand(shift, axis, group_size, codes.shape[axis]),)

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        values = _body.linearize(b, b.inputs["codes"], b.attr("exponent_bits"), b.attr("mantissa_bits"))
        shift = b.Sub(b.Cast(b.inputs["scale_codes"], to=7), b.attr("scale_offset"))
        return {"Y": b.Mul(values, _body.int_pow2(b, _body.expand(b, shift, values)))}
