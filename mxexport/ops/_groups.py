"""Groups of a tensor inside a function body: a view (..., n, G, ...) against which contracted scales broadcast.

Expanding a scale to one entry per element is a Gather, which costs onnxruntime 10 ns an element on the last axis; a
product or quotient with a broadcast scale costs 0.3.
"""

from __future__ import annotations

import onnx_ir as ir

from mxexport.ops._body import Body

_END = 2**31 - 1  # of a Slice that goes to the end


class Groups:
    """How the attributes `axis` and `group_size` cut a tensor of `b` into groups.

    G is group_size, or the whole axis where that is shorter: the single channel of a depthwise kernel is not padded to
    32. Every member is an int64 tensor of one dimension, `before` and `after` being the lengths around the axis.
    """

    def __init__(self, b: Body, before: ir.Value, length: ir.Value, after: ir.Value):
        self.b, self.before, self.length, self.after = b, before, length, after
        one = b.int([1])
        self.axis = b.Shape(before)
        self.inner = b.Add(self.axis, one)
        self.size = b.Max(b.Min(length, b.attr("group_size")), one)
        self.padding = b.Mod(b.Neg(length), self.size)
        self.padded = b.Add(length, self.padding)
        self.count = b.Div(self.padded, self.size)

    @classmethod
    def of(cls, b: Body, x: ir.Value, axis: int | None = None) -> Groups:
        """Groups of the tensor `x` along `axis`; None: the attribute of that name."""
        end, start = (
            axis if axis is not None else ir.RefAttr(name, "axis", ir.AttributeType.INT) for name in ("end", "start")
        )
        before, rest = b.Shape(x, end=end), b.Shape(x, start=start)
        return cls(b, before, b.Gather(rest, b.int([0])), b.Slice(rest, b.int([1]), b.int([_END])))

    @classmethod
    def of_shape(cls, b: Body) -> Groups:
        """Groups of a tensor whose shape is the attribute `shape`."""
        shape = b.attr("shape", "ints")
        rank = b.Shape(shape)
        axis = b.Mod(b.Add(b.attr("axis"), rank), rank)
        after = b.Slice(shape, b.Add(axis, b.int([1])), b.int([_END]))
        return cls(b, b.Slice(shape, b.int([0]), axis), b.Gather(shape, axis), after)

    def split(self, x: ir.Value) -> ir.Value:
        """(..., K, ...) -> (..., n, G, ...), the last group padded with zeros."""
        b = self.b
        padded = b.Pad(x, b.Concat(b.int([0]), self.padding, axis=0), None, self.axis)
        return b.Reshape(padded, b.Concat(self.before, self.count, self.size, self.after, axis=0), allowzero=1)

    def join(self, grouped: ir.Value) -> ir.Value:
        """(..., n, G, ...) -> (..., K, ...): the inverse of `split`."""
        b = self.b
        flat = b.Reshape(grouped, b.Concat(self.before, self.padded, self.after, axis=0), allowzero=1)
        return b.Slice(flat, b.int([0]), self.length, self.axis)

    def spread(self, contracted: ir.Value) -> ir.Value:
        """One entry per group (..., n, ...) -> (..., n, 1, ...), which broadcasts against the grouped view."""
        return self.b.Unsqueeze(contracted, self.inner)
