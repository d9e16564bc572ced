"""Sums, means and largest values along axes of tokens, as pools: of images of one column, or of one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Refused, Unit
from mxexport.model.rewriting import attribute, reduced_axes
from mxexport.numbers.fixedpoint import MAX_WIDTH


def lower_reduction(
    node: ir.Node,
    low: Lowering,
    make: Callable[[Wide, Window], Unit],
    most: Callable[[int], int] = lambda count: MAX_WIDTH,
) -> bool:
    """A ReduceMean, ReduceSum or ReduceMax over axes that come side by side, of a stream with a view: `make` gives the
    pool of windows that hold them, which takes `most` bits of so many values."""
    source, axes = low.wide(low.sequences(node.inputs[0]), node), reduced_axes(node)
    if source.view is None:
        low.bind(node.outputs[0], source)
        return True
    rank = len(source.view.axes)
    if axes is None or 0 in [axis % rank for axis in axes]:
        raise Refused(f"it looks at axes {axes} of {source.view}; expected some that are named, and not the batch")
    axes, view = sorted(axis % rank for axis in axes), source.view
    if any(view.axes[axis] for axis in axes):  # else of one entry each: nothing is left to do
        before, along, inside = view.around(*axes)
        source = low.narrowed(source, most(along), node)
        column = before == 1  # tokens: of an image of one column, as other pools see them
        image = low.shaped(source, (along, 1, inside) if column else (before, along, inside))
        window = Window((along, 1)) if column else Window((1, along))
        source = low.add(lambda t: make(t, window), [image], node, "pool", ("pool",), (before, 1, inside), view=view)
    for axis in axes[::-1]:
        view = view.cut(axis, 1)
    if not attribute(node, "keepdims", 1):
        for axis in axes[::-1]:
            view = view.without(axis)
    low.bind(node.outputs[0], replace(source, view=view))
    return True
