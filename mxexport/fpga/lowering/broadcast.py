"""Streams that are repeated until they meet others element by element: a number of a token for all its channels, a
vector for all tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import onnx_ir as ir

from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.streams.views import View


def spread(source: Pending, view: View, node: ir.Node, low: Lowering) -> Pending | None:
    """`source`, wide, repeated along the axes of `view` of which it has one entry, in the order of that view; None
    where no repeating makes it so."""
    own = source.view
    if len(own.axes) != len(view.axes):
        return None
    missing = [i for i, axis in enumerate(own.axes) if not _real(axis) and view.axes[i] and i > 0]
    rest = view
    for i in missing:
        rest = rest.cut(i, 1)
    if not missing or not rest.same(View(tuple(() if i in missing else axis for i, axis in enumerate(own.axes)))):
        return None
    absent = {atom for i in missing for atom in view.axes[i]}
    before = 1
    for size, times in _runs([(atom.size, atom in absent) for atom in view.atoms]):
        if times > 1:
            source = _repeated(source, before, times, node, low)
            before *= times
        before *= size
    return replace(source, view=view)


def _real(axis: tuple) -> bool:
    return any(not atom.repeated for atom in axis)


def _runs(atoms: list[tuple[int, bool]]) -> list[tuple[int, int]]:
    """(entries that are there, how often they come one after the other), from the outermost in; what is absent is one
    entry that comes several times."""
    found: list[tuple[int, int]] = []
    for size, absent in atoms:
        if absent:
            if found and found[-1][0] == 1:
                found[-1] = (1, found[-1][1] * size)
            else:
                found.append((1, size))
        else:
            found.append((size, 1))
    return found


def _repeated(source: Pending, before: int, times: int, node: ir.Node, low: Lowering) -> Pending:
    """Everything behind the first `before` entries of a stream so many times."""
    from mxexport.fpga.units.upsample import Upsample  # the units import this module

    inside = math.prod(source.shape) // before
    image = low.shaped(source, (before, 1, inside))
    make = lambda t: Upsample(t, (1, times))  # noqa: E731
    return low.add(make, [image], node, "repeat", ("repeated",), (before, times, inside), view=source.view)
