from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.numbers import fixedpoint, groups, spatial
from mxexport.ops import _body
from mxexport.ops._attributes import (
    CODE_MIN,
    DILATIONS,
    GROUP_SIZE,
    KERNEL_SHAPE,
    LSB_EXP,
    PADS,
    STRIDES,
    WIDTH,
    Attribute,
)
from mxexport.ops._operator import Operator, Port, check_code_bits, check_shape
from mxexport.ops._windows import check_window, output_sizes


class MXDepthwise(Operator):
    """Dataflow unit: exact depthwise convolution of MX blocks, accumulated in fixed point.

    Y[c] = bias[c] + sum over taps of (x * w[c] << (X_scale + W_scale[c] - scale_offset)): every weight has a scale of
    its own. Taps outside the frame count as zeros of scale code_min. All integer; Y stands for Y * 2**lsb_exp.
    """

    role = "dataflow"
    attributes = {
        "group_size": GROUP_SIZE.called("Group"),
        "kernel_shape": KERNEL_SHAPE,
        "strides": STRIDES,
        "pads": PADS,
        "dilations": DILATIONS,
        "code_min": CODE_MIN.called("PadScale"),
        "x_exponent_bits": Attribute("i", "exponent bits of the activation element; 0: integer", 0, 7, "AExpBits"),
        "x_mantissa_bits": Attribute("i", "mantissa (or fraction) bits of the activation element", 0, 7, "AManBits"),
        "w_exponent_bits": Attribute("i", "exponent bits of the weight element; 0: integer", 0, 7, "WExpBits"),
        "w_mantissa_bits": Attribute("i", "mantissa (or fraction) bits of the weight element", 0, 7, "WManBits"),
        "scale_offset": Attribute("i", "smallest sum of the two scale codes (shift 0)", 0, 508, "ScaleOffset"),
        "width": WIDTH.called("AccWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {
        "X_codes": Port("uint8", "activation element bit patterns [N, H, W, C]"),
        "X_scale": Port("uint8", "activation E8M0 codes [N, H, W, n]"),
        "W_codes": Port("uint8", "weight element bit patterns [taps, C]"),
        "W_scale": Port("uint8", "weight E8M0 codes [taps, C]"),
        "bias": Port("int64", "bias in units of the accumulator's least significant bit [C]"),
    }
    outputs = {"Y": Port("int64", "wide integers [N, OH, OW, C]")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        for side in "xw":
            check_code_bits(cls.op_type(), attributes[f"{side}_exponent_bits"], attributes[f"{side}_mantissa_bits"])
        check_window(cls.op_type(), whole, attributes)
        taps = attributes["kernel_shape"][0] * attributes["kernel_shape"][1]
        scales = groups.contracted_shape(whole, 3, attributes["group_size"])
        expected = {
            "X_scale": scales, "W_codes": (taps, whole[3]), "W_scale": (taps, whole[3]), "bias": (whole[3],)
        }  # fmt: skip
        for name, shape in expected.items():
            check_shape(cls.op_type(), name, given.get(name, shape), shape)

    @classmethod
    def compute(cls, x_codes, x_scale, w_codes, w_scale, bias, *, group_size, code_min, scale_offset, **a):
        window = [a[name] for name in ("kernel_shape", "strides", "pads", "dilations")]
        x_table = fixedpoint.linear_table(a["x_exponent_bits"], a["x_mantissa_bits"])
        w_table = fixedpoint.linear_table(a["w_exponent_bits"], a["w_mantissa_bits"])
        scales = groups.expand(x_scale.astype(np.int64), 3, group_size, x_codes.shape[3])
        shift = spatial.taps(scales, *window, code_min) + w_scale.astype(np.int64) - scale_offset
        return (((x_table[spatial.taps(x_codes, *window, 0)] * w_table[w_codes]) << shift).sum(-2) + bias,)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [(shapes[0][0], *output_sizes(shapes[0], attributes), shapes[0][3])]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        elements = [
            _body.linearize(b, codes, b.attr(f"{side}_exponent_bits"), b.attr(f"{side}_mantissa_bits"))
            for side, codes in (("x", b.inputs["X_codes"]), ("w", b.inputs["W_codes"]))
        ]
        length = b.Gather(b.Shape(b.inputs["X_codes"]), b.int(3))
        group = b.Div(b.Range(b.int(0), length, b.int(1)), b.attr("group_size"))
        scales = b.Gather(b.Cast(b.inputs["X_scale"], to=7), group, axis=3)
        x, x_scale = _body.taps(b, elements[0], b.int(0)), _body.taps(b, scales, b.attr("code_min"))
        shift = b.Sub(b.Add(x_scale, b.Cast(b.inputs["W_scale"], to=7)), b.attr("scale_offset"))
        products = b.Mul(b.Mul(x, elements[1]), _body.int_pow2(b, shift))
        return {"Y": b.Add(_body.int_sum(b, b.Transpose(products, perm=[0, 1, 2, 4, 3])), b.inputs["bias"])}
