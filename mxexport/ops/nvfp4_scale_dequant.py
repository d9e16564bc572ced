from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.numbers import numerics
from mxexport.ops._operator import Operator, Port, check_shape


class NVFP4ScaleDequant(Operator):
    """Stored NVFP4 scales -> scale: e4m3(code) * tensor_scale. One byte per group and one float32 per tensor."""

    role = "stored_scale"
    attributes = {}
    inputs = {
        "codes": Port("uint8", "E4M3 codes (OCP), contracted"),
        "tensor_scale": Port("float", "scale of the whole tensor, a scalar"),
    }
    outputs = {"scale": Port("float", "contracted scale, shape of codes")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        if "tensor_scale" in given:
            check_shape(cls.op_type(), "tensor_scale", given["tensor_scale"], ())

    @classmethod
    def compute(cls, codes, tensor_scale):
        with np.errstate(over="ignore"):
            return (numerics.decode(codes, numerics.NVFP4_SCALE) * np.float32(tensor_scale),)

    @classmethod
    def body(cls, b, present):
        table = b.const(numerics.decode_table(numerics.NVFP4_SCALE))
        return {
            "scale": b.Mul(b.Gather(table, b.Cast(b.inputs["codes"], to=ir.DataType.INT32)), b.inputs["tensor_scale"])
        }
