from __future__ import annotations

import math

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.numbers import groups, spatial
from mxexport.ops import _body
from mxexport.ops._attributes import CODE_MIN, DILATIONS, GROUP_SIZE, KERNEL_SHAPE, PADS, STRIDES
from mxexport.ops._operator import Operator, Port, check_shape
from mxexport.ops._windows import check_window, output_sizes


class MXWindow(Operator):
    """Dataflow unit: the taps of every output pixel of a convolution, side by side.

    Each tap brings the blocks of its pixel, padded with zeros to whole groups; taps outside the frame are zero blocks
    of scale code_min. MXMatMul behind it, with weights in the same order, is the convolution.
    """

    role = "dataflow"
    attributes = {
        "group_size": GROUP_SIZE,
        "kernel_shape": KERNEL_SHAPE,
        "strides": STRIDES,
        "pads": PADS,
        "dilations": DILATIONS,
        "code_min": CODE_MIN.called("PadScale"),
    }
    inputs = {
        "X_codes": Port("uint8", "element bit patterns [N, H, W, C]"),
        "X_scale": Port("uint8", "E8M0 codes [N, H, W, n]"),
    }
    outputs = {
        "codes": Port("uint8", "element bit patterns [N, OH, OW, taps * n * group_size]"),
        "scale_codes": Port("uint8", "E8M0 codes [N, OH, OW, taps * n]"),
    }

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_window(cls.op_type(), whole, attributes)
        expected = groups.contracted_shape(whole, 3, attributes["group_size"])
        check_shape(cls.op_type(), "X_scale", given.get("X_scale", expected), expected)

    @classmethod
    def compute(cls, codes, scale, *, group_size, kernel_shape, strides, pads, dilations, code_min):
        window = (kernel_shape, strides, pads, dilations)
        padding = scale.shape[-1] * group_size - codes.shape[-1]
        whole = np.pad(codes, ((0, 0), (0, 0), (0, 0), (0, padding)))
        found = spatial.taps(whole, *window, 0), spatial.taps(scale, *window, code_min)
        return tuple(a.reshape(*a.shape[:3], -1) for a in found)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        first, *_, channels = shapes[0]
        size = output_sizes(shapes[0], attributes)
        count = groups.contracted_shape((channels,), 0, attributes["group_size"])[0]
        blocks = None if groups.is_open(count) else math.prod(attributes["kernel_shape"]) * count
        return [(first, *size, None if blocks is None else blocks * attributes["group_size"]), (first, *size, blocks)]

    def output_datatypes(self):
        return [DataType["UINT8"], DataType["UINT8"]]

    @classmethod
    def body(cls, b, present):
        codes, scale = b.inputs["X_codes"], b.inputs["X_scale"]
        size = b.Reshape(b.attr("group_size"), b.int([1]))
        length, count = b.Gather(b.Shape(codes), b.int([3])), b.Gather(b.Shape(scale), b.int([3]))
        more = b.Sub(b.Mul(count, size), length)
        whole = b.Pad(codes, b.Concat(b.int([0] * 7), more, axis=0), b.const(0, np.uint8))
        found = {}
        for name, x, fill in (
            ("codes", whole, b.const(0, np.uint8)),
            ("scale_codes", scale, b.Cast(b.attr("code_min"), to=2)),
        ):
            taps = _body.taps(b, x, fill)
            found[name] = b.Reshape(taps, b.Concat(b.Slice(b.Shape(taps), b.int([0]), b.int([3])), b.int([-1]), axis=0))
        return found
