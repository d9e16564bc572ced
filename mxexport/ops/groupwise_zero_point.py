from __future__ import annotations

import numpy as np

from mxexport.numbers import numerics
from mxexport.ops import _body
from mxexport.ops._attributes import AXIS, GROUP_SIZE, LARGEST, POSITIVE, Attribute
from mxexport.ops._groups import Groups
from mxexport.ops._operator import Operator, Port, contracted


class GroupwiseZeroPoint(Operator):
    """Zero point of each group, found at run time: clip(rne(-min / scale), 0, levels); min is never above 0.

    0 where the scale is not finite; else NaN for a group with NaN. A zero min has the zero point 0 under any scale.
    """

    role = "zero_point"
    attributes = {
        "axis": AXIS,
        "group_size": GROUP_SIZE,
        "levels": Attribute("f", "largest code, 2**bits - 1", POSITIVE, LARGEST),
    }
    inputs = {"X": Port("float", "values"), "scale": Port("float", "contracted scale")}
    outputs = {"zero_point": Port("float", "whole values, shaped like scale")}

    @classmethod
    def compute(cls, x, scale, *, axis, group_size, levels):
        return (numerics.groupwise_zero_point(x, scale, axis, group_size, levels),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [contracted(shapes[0], attributes)]

    @classmethod
    def body(cls, b, present):
        scale, zero = b.inputs["scale"], b.const(0)
        groups = Groups.of(b, b.inputs["X"])
        grouped = groups.split(b.inputs["X"])
        low = b.Min(b.ReduceMin(grouped, groups.inner, keepdims=0), zero)
        total = b.ReduceSum(b.Abs(grouped), groups.inner, keepdims=0)
        finite = b.Not(b.Or(b.IsNaN(scale), b.IsInf(scale)))
        quotient = _body.divide(b, b.Abs(low), b.Where(finite, scale, b.const(1)))
        z = b.Clip(b.Round(quotient), zero, b.attr("levels", "f"))
        return {"zero_point": b.Where(finite, b.Where(b.IsNaN(total), b.const(np.nan), z), zero)}
