from __future__ import annotations

from mxexport import numerics
from mxexport.ops import _body
from mxexport.ops._attributes import AXIS, GROUP_SIZE, LARGEST, POSITIVE, Attribute
from mxexport.ops._operator import Operator, Port, contracted


class GroupwiseZeroPoint(Operator):
    """Zero point of each group, found at run time: clip(rne(-min / scale), 0, levels); min is never above 0."""

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
        x, zero = b.inputs["X"], b.const(0)
        clean = b.Where(b.Or(b.IsNaN(x), b.IsInf(x)), zero, x)
        grouped, inner = _body.split_groups(b, clean)
        low = b.Min(b.ReduceMin(grouped, inner, keepdims=0), zero)
        scale = b.inputs["scale"]
        safe = b.Where(b.IsNaN(scale), b.const(1), scale)
        z = b.Clip(b.Round(b.Div(b.Abs(low), safe)), zero, b.attr("levels", "f"))
        return {"zero_point": b.Where(b.IsNaN(scale), zero, z)}
