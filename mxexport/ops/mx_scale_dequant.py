from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.numbers import numerics
from mxexport.ops import _body
from mxexport.ops._attributes import FRAC_BITS
from mxexport.ops._operator import Operator, Port


class MXScaleDequant(Operator):
    """Stored E8M0 codes -> scale: 2**(code - 127 - frac_bits), code 255 -> NaN (OCP MX v1.0 section 5.4.1).

    A file keeps one byte per group while the scale stays a float32 edge. Exact, subnormal scales included.
    """

    role = "stored_scale"
    attributes = {"frac_bits": FRAC_BITS}
    inputs = {"codes": Port("uint8", "E8M0 codes, contracted")}
    outputs = {"scale": Port("float", "contracted scale, shape of codes")}

    @classmethod
    def compute(cls, codes, *, frac_bits):
        return (numerics.scale_from_codes(codes, frac_bits),)

    @classmethod
    def body(cls, b, present):
        codes = b.Range(b.int(0), b.int(255), b.int(1))
        exponents = b.Sub(b.Sub(codes, b.int(127)), b.attr("frac_bits"))
        table = b.Concat(_body.pow2(b, exponents), b.const([np.nan]), axis=0)
        return {"scale": b.Gather(table, b.Cast(b.inputs["codes"], to=ir.DataType.INT32))}
