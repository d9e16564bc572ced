from __future__ import annotations

import math

from qonnx.core.datatype import DataType

from mxexport.numbers import fixedpoint, groups
from mxexport.ops import _body
from mxexport.ops._attributes import GROUP_SIZE, LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_code_bits, check_shape


class MXMatMul(Operator):
    """Dataflow unit: exact MX matrix product over the last axis, accumulated in fixed point.

    Y = bias + sum over blocks of (integer dot product << (X_scale + W_scale - scale_offset)). All integer: the
    result does not depend on order or folding. Y stands for Y * 2**lsb_exp.
    """

    role = "dataflow"
    attributes = {
        "group_size": GROUP_SIZE.called("Group"),
        "x_exponent_bits": Attribute("i", "exponent bits of the activation element; 0: integer", 0, 7, "AExpBits"),
        "x_mantissa_bits": Attribute("i", "mantissa (or fraction) bits of the activation element", 0, 7, "AManBits"),
        "w_exponent_bits": Attribute("i", "exponent bits of the weight element; 0: integer", 0, 7, "WExpBits"),
        "w_mantissa_bits": Attribute("i", "mantissa (or fraction) bits of the weight element", 0, 7, "WManBits"),
        "scale_offset": Attribute("i", "smallest sum of the two scale codes (shift 0)", 0, 508, "ScaleOffset"),
        "width": WIDTH.called("AccWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {
        "X_codes": Port("uint8", "activation element bit patterns [..., K]"),
        "X_scale": Port("uint8", "activation E8M0 codes [..., n]"),
        "W_codes": Port("uint8", "weight element bit patterns [O, K]"),
        "W_scale": Port("uint8", "weight E8M0 codes [O, n]"),
        "bias": Port("int64", "bias in units of the accumulator's least significant bit [O]"),
    }
    outputs = {"Y": Port("int64", "wide integers [..., O]")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        for side in "xw":
            check_code_bits(cls.op_type(), attributes[f"{side}_exponent_bits"], attributes[f"{side}_mantissa_bits"])
        codes, weights = given["X_codes"], given.get("W_codes", (None, None))
        check_shape(cls.op_type(), "X_codes", codes, (None,) * max(len(codes), 2))
        check_shape(cls.op_type(), "W_codes", weights, (None, codes[-1]))
        for name, whole in (("X_scale", codes), ("W_scale", (weights[0], codes[-1]))):
            expected = groups.contracted_shape(whole, len(whole) - 1, attributes["group_size"])
            check_shape(cls.op_type(), name, given.get(name, (None,) * len(whole)), expected)
        check_shape(cls.op_type(), "bias", given.get("bias", (None,)), (weights[0],))

    @classmethod
    def compute(cls, x_codes, x_scale, w_codes, w_scale, bias, *, group_size, scale_offset, **a):
        x_table = fixedpoint.linear_table(a["x_exponent_bits"], a["x_mantissa_bits"])
        w_table = fixedpoint.linear_table(a["w_exponent_bits"], a["w_mantissa_bits"])
        rows = [a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) for a in (x_codes, x_scale)]
        y = fixedpoint.mx_matmul(*rows, w_codes, w_scale, bias, x_table, w_table, scale_offset, group_size)
        return (y.reshape(*x_codes.shape[:-1], len(w_codes)),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [(*shapes[0][:-1], shapes[2][0] if len(shapes) > 2 and shapes[2] else None)]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        blocks, x_shape = {}, b.Shape(b.inputs["X_codes"])
        leading = b.Slice(x_shape, b.int([0]), b.int([-1]))
        rows = b.Reshape(b.Size(b.Expand(b.int(1), leading)), b.int([1]))
        given = dict(b.inputs)
        for name in ("X_codes", "X_scale"):
            length = b.Slice(b.Shape(b.inputs[name]), b.int([-1]), b.int([2**31 - 1]))
            given[name] = b.Reshape(b.inputs[name], b.Concat(rows, length, axis=0), allowzero=1)
        for side in ("X", "W"):
            e, m = b.attr(f"{side.lower()}_exponent_bits"), b.attr(f"{side.lower()}_mantissa_bits")
            blocks[side] = cls._blocks(b, _body.linearize(b, given[f"{side}_codes"], e, m))
        sums = b.MatMul(b.Transpose(blocks["X"], perm=[1, 0, 2]), b.Transpose(blocks["W"], perm=[1, 2, 0]))
        scales = [b.Transpose(b.Cast(given[name], to=7), perm=[1, 0]) for name in ("X_scale", "W_scale")]
        shift = b.Add(b.Unsqueeze(scales[0], b.int([2])), b.Unsqueeze(scales[1], b.int([1])))
        shifted = b.Mul(sums, _body.int_pow2(b, b.Sub(shift, b.attr("scale_offset"))))
        total = _body.int_sum(b, b.Transpose(shifted, perm=[1, 2, 0]))
        shape = b.Concat(leading, b.Shape(b.inputs["bias"]), axis=0)
        return {"Y": b.Reshape(b.Add(total, b.inputs["bias"]), shape, allowzero=1)}

    @staticmethod
    def _blocks(b, values):
        """[R, K] -> zero-padded [R, n, G]."""
        size, shape = b.Reshape(b.attr("group_size"), b.int([1])), b.Shape(values)
        rows, length = b.Gather(shape, b.int([0])), b.Gather(shape, b.int([1]))
        count = b.Div(b.Add(length, b.Sub(size, b.int([1]))), size)
        pads = b.Concat(b.int([0]), b.Sub(b.Mul(count, size), length), axis=0)
        padded = b.Pad(values, pads, None, b.int([1]))
        return b.Reshape(padded, b.Concat(rows, count, size, axis=0), allowzero=1)
