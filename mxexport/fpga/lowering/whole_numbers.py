"""What models compute of whole numbers, such as positions that they count from padding (RoBERTa): comparisons with one
number, negations, counts along tokens, means of what a mask leaves. Units compute them exactly."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.lowering.broadcast import spread
from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Refused
from mxexport.model.rewriting import attribute, constant


def are_whole(value: ir.Value) -> bool:
    """Whether a tensor holds integers or booleans."""
    return value.dtype is not None and value.dtype.numpy().kind in ("b", "i", "u")


def equal(node: ir.Node, low: Lowering) -> bool:
    """Numbers of tokens that equal a constant, as a table says: 0 but for one entry, which ends it but for one more."""
    from mxexport.fpga.units.embedding import Embedding  # the units import this module

    found = [constant(v) for v in node.inputs]
    which = next((i for i, c in enumerate(found) if c is not None and c.size == 1), None)
    if which is None or not are_whole(node.inputs[1 - which]) or not 0 < int(found[which].reshape(())) < _LARGEST:
        raise Refused(
            f"it compares {[v.name for v in node.inputs]}; expected whole numbers with one from 1 to {_LARGEST}"
        )
    table = np.zeros((int(found[which].reshape(())) + 2, 1), np.float32)
    table[-2] = 1
    source, numbers = _column(node.inputs[1 - which], node, low)
    make = lambda t: Embedding.of(t, table)  # noqa: E731
    low.bind(node.outputs[0], low.add(make, [numbers], node, "equal", ("equal",), numbers.shape, view=source.view))
    return True


_LARGEST = 2**16
"""Entries of a table that compares."""


def negation(node: ir.Node, low: Lowering) -> bool:
    """1 - x."""
    from mxexport.fpga.units.affine import Affine  # the units import this module

    source = low.wide(low.elements(node.inputs[0]), node)
    low.bind(node.outputs[0], low.add(Affine.complement, [source], node, "not", ("not",), source.shape))
    return True


def running_sum(node: ir.Node, low: Lowering) -> bool:
    """Sums of all tokens so far: windows as long as a frame, of which the first begin in the padding before it."""
    from mxexport.fpga.units.average_pool import AveragePool  # the units import this module

    x, axis = node.inputs[0], constant(node.inputs[1])
    rank = None if x.shape is None else len(x.shape)
    other = [name for name in ("exclusive", "reverse") if attribute(node, name, 0)]
    if axis is None or rank != 2 or int(axis.reshape(())) % rank != 1 or other:
        raise Refused(
            f"it sums along axis {axis} of {x.shape} {other}; expected tokens of (batch, tokens), from the first"
        )
    source, numbers = _column(x, node, low)
    tokens = numbers.shape[0]
    image = low.shaped(numbers, (tokens, 1, 1))
    window = Window((tokens, 1), pads=(tokens - 1, 0, 0, 0))
    made = low.add(
        lambda t: AveragePool(t, window, True), [image], node, "sum", ("sum",), image.shape, view=source.view
    )
    low.bind(node.outputs[0], made)
    return True


def division(node: ir.Node, low: Lowering) -> bool:
    """By counts, such as those of the tokens that a mask leaves: times a table of their reciprocals."""
    from mxexport.fpga.units.embedding import Embedding  # the units import this module
    from mxexport.fpga.units.multiply import PRODUCT_BITS, Multiply

    x, count = (low.wide(low.sequences(v), node) for v in node.inputs)
    if x.view is None or count.view is None:
        low.bind(node.outputs[0], x if x.view is None else count)
        return True
    if math.prod(count.shape) != 1:
        raise Refused(f"it divides by {count.view}, which is computed; expected a constant, or one count for a frame")

    def make(kind: Wide) -> Embedding:
        if kind.lsb_exp != 0 or kind.grid.high > _MOST_COUNTED:
            found = f"{kind.width} bits of 2**{kind.lsb_exp}"
            raise Refused(
                f"it divides by a tensor of {found}; expected a count of at most {_MOST_COUNTED}, or a constant"
            )
        counts = np.arange(kind.grid.high + 1)
        return Embedding.of(kind, (1 / np.maximum(counts, 1))[:, None].astype(np.float32))

    number = low.shaped(count, (1, 1))
    reciprocal = low.add(make, [number], node, "reciprocal", ("reciprocal",), (1, 1), view=count.view)
    spread_out = spread(reciprocal, x.view, node, low) or reciprocal
    if reciprocal.type is not None:
        x = low.narrowed(x, PRODUCT_BITS - reciprocal.type.width, node)
    sides = [x, low.shaped(spread_out, x.shape)]
    low.bind(node.outputs[0], low.add(Multiply.of, sides, node, "divide", ("quotient",), x.shape, view=x.view), node)
    return True


_MOST_COUNTED = 2**13
"""Entries of a table of reciprocals."""


def _column(value: ir.Value, node: ir.Node, low: Lowering) -> tuple[Pending, Pending]:
    """The stream of a tensor (batch, tokens), and the same with a vector for each number."""
    source = low.wide(low.sequences(value), node)
    if source.view is None or len(source.view.axes) != 2:
        raise Refused(f"its numbers come as {source.view}; expected (batch, tokens)")
    return source, low.shaped(source, (source.shape[0], 1) if len(source.shape) == 1 else source.shape)
