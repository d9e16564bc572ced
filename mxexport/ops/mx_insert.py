from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.numbers import groups
from mxexport.ops._attributes import CODE_MIN, GROUP_SIZE, Attribute
from mxexport.ops._operator import Operator, Port, check_shape


class MXInsert(Operator):
    """Dataflow unit: zero blocks between pixels of MX blocks: what a transposed convolution slides over.

    Pixel (y, x) goes to (y * steps[0], x * steps[1]); all others are zeros of scale code_min, more[0] rows below and
    more[1] columns beside the last pixel among them.
    """

    role = "dataflow"
    attributes = {
        "group_size": GROUP_SIZE,
        "steps": Attribute("ints", "from one pixel to the next, down and across", 1, rtl="StepH StepW"),
        "more": Attribute("ints", "rows and columns of zeros behind the last pixel", 0),
        "code_min": CODE_MIN.called("PadScale"),
    }
    inputs = {
        "X_codes": Port("uint8", "element bit patterns [N, H, W, C]"),
        "X_scale": Port("uint8", "E8M0 codes [N, H, W, n]"),
    }
    outputs = {
        "codes": Port("uint8", "element bit patterns [N, OH, OW, C]"),
        "scale_codes": Port("uint8", "E8M0 codes [N, OH, OW, n]"),
    }

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        check_shape(cls.op_type(), "X_codes", whole, (None,) * 4)
        expected = groups.contracted_shape(whole, 3, attributes["group_size"])
        check_shape(cls.op_type(), "X_scale", given.get("X_scale", expected), expected)

    @classmethod
    def compute(cls, codes, scale, *, group_size, steps, more, code_min):
        return tuple(_spread(x, steps, more, fill) for x, fill in ((codes, 0), (scale, code_min)))

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        first, *size, channels = shapes[0]
        blocks = groups.contracted_shape((channels,), 0, attributes["group_size"])[0]
        places = zip(size, attributes["steps"], attributes["more"], strict=True)
        grown = [None if groups.is_open(n) else (n - 1) * s + 1 + m for n, s, m in places]
        return [(first, *grown, channels), (first, *grown, blocks)]

    def output_datatypes(self):
        return [DataType["UINT8"], DataType["UINT8"]]

    @classmethod
    def body(cls, b, present):
        found, steps, more = {}, b.attr("steps", "ints"), b.attr("more", "ints")
        fills = (b.const(0, np.uint8), b.Cast(b.attr("code_min"), to=2))
        for name, port, fill in zip(("codes", "scale_codes"), ("X_codes", "X_scale"), fills, strict=True):
            x = b.inputs[port]
            for axis in (0, 1):
                step, shape = b.Gather(steps, b.int([axis])), b.Shape(x)
                before, size, after = (
                    b.Slice(shape, b.int([i]), b.int([j]))
                    for i, j in ((0, axis + 1), (axis + 1, axis + 2), (axis + 2, 4))
                )
                one, zero, zeros = b.int([1]), b.int([0]), b.int([0] * (axis + 2))
                wider = b.Unsqueeze(x, b.int([axis + 2]))
                rest = b.int([0] * (2 - axis))
                pads = b.Concat(b.int([0] * 5), zeros, b.Sub(step, one), rest, axis=0)
                padded = b.Pad(wider, pads, fill)
                joined = b.Reshape(padded, b.Concat(before, b.Mul(size, step), after, axis=0), allowzero=1)
                last = b.Add(b.Mul(b.Sub(size, one), step), one)
                kept = b.Slice(joined, zero, last, b.int([axis + 1]))
                extra = b.Gather(more, b.int([axis]))
                pads = b.Concat(b.int([0] * 4), b.int([0] * (axis + 1)), extra, b.int([0] * (2 - axis)), axis=0)
                x = b.Pad(kept, pads, fill)
            found[name] = x
        return found


def _spread(x: np.ndarray, steps, more, fill: int) -> np.ndarray:
    n, height, width, channels = x.shape
    size = [max((count - 1) * s + 1, 0) + m for count, s, m in zip((height, width), steps, more, strict=True)]
    found = np.full((n, *size, channels), fill, x.dtype)
    found[:, : (height - 1) * steps[0] + 1 : steps[0], : (width - 1) * steps[1] + 1 : steps[1]] = x
    return found
