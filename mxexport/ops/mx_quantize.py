from __future__ import annotations

import onnx_ir as ir
from qonnx.core.datatype import DataType

from mxexport.numbers import fixedpoint
from mxexport.ops import _body
from mxexport.ops._attributes import AXIS, CODE_MAX, CODE_MIN, EMAX, GROUP_SIZE, LSB_EXP, ROUND_BIAS, WIDTH, Attribute
from mxexport.ops._groups import Groups
from mxexport.ops._operator import Operator, Port, check_code_bits, contracted

QUANTIZER = {
    "group_size": GROUP_SIZE.called("Group"),
    "width": WIDTH.called("Width"),
    "lsb_exp": LSB_EXP.called("LsbExp"),
    "exponent_bits": Attribute("i", "exponent bits of the element; 0: integer", 0, 7, "ExpBits"),
    "mantissa_bits": Attribute("i", "mantissa bits of the element; integer: fraction bits", 0, 7, "ManBits"),
    "exponent_bias": Attribute("i", "exponent bias of the element; integer: 0", -126, 127, "Bias"),
    "max_code": Attribute("i", "largest magnitude code", 0, 255, "MaxCode"),
    "emax": EMAX.called("Emax"),
    "round_bias": ROUND_BIAS.called("RoundBias"),
    "code_min": CODE_MIN.called("CodeMin"),
    "code_max": CODE_MAX.called("CodeMax"),
}
"""Attributes of a quantizer along any axis."""


class MXQuantize(Operator):
    """Dataflow unit: wide integers (v * 2**lsb_exp) -> MX blocks, exact.

    The shared exponent comes from the block's largest magnitude by the rule of MXScale, clamped to
    [code_min, code_max]; elements are rounded to nearest even and saturate. An all-zero block carries code_min.
    """

    role = "dataflow"
    attributes = {"axis": AXIS, **QUANTIZER}
    inputs = {"X": Port("int64", "wide integers")}
    outputs = {
        "codes": Port("uint8", "element bit patterns, shape of X"),
        "scale_codes": Port("uint8", "E8M0 codes, contracted"),
    }

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        super().check_shapes(whole, given, attributes)
        exponent, mantissa = attributes["exponent_bits"], attributes["mantissa_bits"]
        check_code_bits(cls.op_type(), exponent, mantissa)

    @classmethod
    def compute(cls, x, *, axis, group_size, width, lsb_exp, **quantizer):
        codes, scale_codes, _ = fixedpoint.mx_quantize(
            x, lsb_exp, fixedpoint.BlockQuantizer(**quantizer), axis, group_size
        )
        return codes, scale_codes

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [shapes[0], contracted(shapes[0], attributes)]

    def output_datatypes(self):
        return [DataType["UINT8"], DataType["UINT8"]]

    @classmethod
    def body(cls, b, present):
        return quantized(b, b.inputs["X"])


def quantized(b: _body.Body, x: ir.Value, axis: int | None = None) -> dict[str, ir.Value]:
    """Codes and scale codes of `x` in groups along `axis`; None: the attribute of that name."""
    zero, one = b.int(0), b.int(1)
    magnitude, negative = b.Abs(x), b.Less(x, zero)
    scale = _scale_codes(b, magnitude, axis)
    # The element is magnitude * 2**exponent.
    exponent = b.Sub(b.Add(b.attr("lsb_exp"), b.int(127)), _body.expand(b, scale, x, axis))
    is_float = b.Greater(b.attr("exponent_bits"), zero)
    smallest = b.Sub(one, b.attr("exponent_bias"))
    own = b.Add(_body.int_floor_log2(b, magnitude), exponent)
    binade = b.Where(is_float, b.Max(own, smallest), zero)
    huge = b.And(b.Greater(own, b.Add(b.attr("emax"), one)), b.Greater(magnitude, zero))
    shift = b.Sub(b.Sub(binade, b.attr("mantissa_bits")), exponent)
    code = _round_shift(b, b.Where(huge, zero, magnitude), shift)
    mantissa_unit = _body.int_pow2(b, b.attr("mantissa_bits"))
    field = b.Where(is_float, b.Mul(b.Sub(binade, smallest), mantissa_unit), zero)
    code = b.Where(huge, b.attr("max_code"), b.Min(b.Add(code, field), b.attr("max_code")))
    code = b.Where(b.Equal(magnitude, zero), zero, code)
    is_int = b.Cast(b.Not(is_float), to=ir.DataType.INT64)
    magnitude_bits = b.Add(b.Add(b.attr("exponent_bits"), b.attr("mantissa_bits")), is_int)
    sign = _body.int_pow2(b, magnitude_bits)
    as_float = b.Add(code, sign)
    as_int = b.Where(b.Equal(code, zero), zero, b.Sub(b.Add(sign, sign), code))
    code = b.Where(negative, b.Where(is_float, as_float, as_int), code)
    return {
        "codes": b.Cast(code, to=ir.DataType.UINT8),
        "scale_codes": b.Cast(scale, to=ir.DataType.UINT8),
    }


def _scale_codes(b: _body.Body, magnitude: ir.Value, axis: int | None) -> ir.Value:
    zero, one, hidden = b.int(0), b.int(1), b.int(1 << 23)
    groups = Groups.of(b, magnitude, axis)
    amax = b.ReduceMax(groups.split(magnitude), groups.inner, keepdims=0)
    nonzero = b.Max(amax, one)
    top = _body.int_floor_log2(b, nonzero)
    unit = _body.int_pow2(b, b.Max(b.Sub(top, b.int(23)), zero))
    kept = b.Div(nonzero, unit)
    sticky = b.Sub(nonzero, b.Mul(kept, unit))
    fraction = b.Sub(b.Mul(kept, _body.int_pow2(b, b.Max(b.Sub(b.int(23), top), zero))), hidden)
    odd = b.Mod(fraction, b.int(2))
    jam = b.Where(b.Greater(sticky, zero), b.Sub(one, odd), zero)
    carry = b.Div(b.Add(b.Add(fraction, jam), b.attr("round_bias")), hidden)
    code = b.Sub(b.Add(b.Add(top, carry), b.Add(b.attr("lsb_exp"), b.int(127))), b.attr("emax"))
    code = b.Where(b.Equal(amax, zero), b.attr("code_min"), code)
    return _body.int_clip(b, code, b.attr("code_min"), b.attr("code_max"))


def _round_shift(b: _body.Body, magnitude: ir.Value, shift: ir.Value) -> ir.Value:
    zero, one, most = b.int(0), b.int(1), b.int(62)
    right = _body.int_clip(b, shift, zero, most)
    unit = _body.int_pow2(b, right)
    quotient = b.Div(magnitude, unit)
    rest = b.Sub(magnitude, b.Mul(quotient, unit))
    half = b.Div(unit, b.int(2))
    odd = b.Equal(b.Mod(quotient, b.int(2)), one)
    up = b.Or(b.Greater(rest, half), b.And(b.Equal(rest, half), odd))
    up = b.And(up, b.Greater(right, zero))
    rounded = b.Add(quotient, b.Cast(up, to=ir.DataType.INT64))
    left = _body.int_pow2(b, _body.int_clip(b, b.Neg(shift), zero, most))
    return b.Where(b.Greater(shift, most), zero, b.Mul(rounded, left))
