from __future__ import annotations

import numpy as np

from mxexport.numbers import numerics
from mxexport.ops import _floats
from mxexport.ops._attributes import AXIS, GROUP_SIZE, LARGEST, POSITIVE, Attribute
from mxexport.ops._groups import Groups
from mxexport.ops._operator import Operator, Port, contracted


class GroupwiseScale(Operator):
    """Float scale of each group, found at run time: amax / levels, or (max - min) / levels when asymmetric.

    The asymmetric range always includes 0. A zero quotient becomes 1; a group with NaN or Inf gets a NaN scale.
    """

    role = "scale"
    attributes = {
        "axis": AXIS,
        "group_size": GROUP_SIZE,
        "levels": Attribute("f", "what amax maps to, the largest element; asymmetric: 2**bits - 1", POSITIVE, LARGEST),
        "asymmetric": Attribute("i", "1: use the range max - min instead of the largest magnitude", 0, 1),
    }
    inputs = {"X": Port("float", "values")}
    outputs = {"scale": Port("float", "contracted scale: ceil(K / group_size) on the axis, X elsewhere")}

    @classmethod
    def compute(cls, x, *, axis, group_size, levels, asymmetric):
        rule = numerics.groupwise_range_scale if asymmetric else numerics.groupwise_scale
        return (rule(x, axis, group_size, levels),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        return [contracted(shapes[0], attributes)]

    @classmethod
    def body(cls, b, present):
        zero = b.const(0)
        groups = Groups.of(b, b.inputs["X"])
        grouped = groups.split(b.inputs["X"])
        amax, odd = _floats.group_amax(b, groups, grouped)
        high = b.Max(b.ReduceMax(grouped, groups.inner, keepdims=0), zero)
        low = b.Min(b.ReduceMin(grouped, groups.inner, keepdims=0), zero)
        width = b.Where(b.Equal(b.attr("asymmetric"), b.int(1)), b.Sub(high, low), amax)
        scale = b.Div(width, b.attr("levels", "f"))
        scale = b.Where(b.Equal(scale, zero), b.const(1), scale)
        return {"scale": b.Add(b.Where(b.IsInf(scale), b.const(np.nan), scale), odd)}
