"""Units side by side: where several vectors come in a beat, units that look at one vector at a time stand there as
often, and all move as the first does. Whoever asks how a unit is folded asks here."""

from __future__ import annotations

import dataclasses

from mxexport.fpga.areas.area import Area, fitted
from mxexport.fpga.streams.types import Stream
from mxexport.fpga.unit import Folding, Timing, Unit, equal_parts


def count(unit: Unit, folding: Folding) -> int:
    """Copies of the unit."""
    return folding.pixels if unit.vectorwise else 1


def foldings(unit: Unit) -> list[Folding]:
    """Every legal one, slowest first."""
    plain, shape = unit.foldings(), unit.sources[0].shape
    if not unit.vectorwise or len(shape) < 3:
        return plain
    whole = [f for f in plain if unit.cycles(f) == unit.sources[0].vectors]
    if not whole:
        return plain
    kinds = sorted({(f.luts, f.threes) for f in whole}, reverse=True)
    least = [min((f for f in whole if (f.luts, f.threes) == kind), key=lambda f: f.work) for kind in kinds]
    return plain + [dataclasses.replace(f, pixels=n) for n in equal_parts(shape[1]) if n > 1 for f in least]


def one(unit: Unit, folding: Folding) -> tuple[Unit, Folding]:
    """One of the copies, and its own folding: every so many vectors of a row are its."""
    copies = count(unit, folding)
    if copies == 1:
        return unit, folding
    narrower = {}
    for field in dataclasses.fields(unit):
        stream = getattr(unit, field.name)
        if isinstance(stream, Stream):
            height, width, channels = stream.shape
            narrower[field.name] = dataclasses.replace(stream, shape=(height, width // copies, channels))
    return dataclasses.replace(unit, **narrower), dataclasses.replace(folding, pixels=1)


def lanes(unit: Unit, folding: Folding) -> tuple[int, int]:
    """Lanes of its input streams and of its output stream."""
    copies = count(unit, folding)
    if copies == 1:
        return unit.lanes(folding)
    return copies * unit.sources[0].vector_lanes, copies * unit.result.vector_lanes


def cycles(unit: Unit, folding: Folding) -> int:
    """Cycles that a frame occupies it."""
    single, own = one(unit, folding)
    return single.cycles(own)


def timing(unit: Unit, folding: Folding) -> Timing:
    """How a frame passes through it."""
    copies = count(unit, folding)
    if copies == 1:
        return unit.timing(folding)
    own = unit.timing(dataclasses.replace(folding, pixels=1))
    needs = own.needs // copies * copies + copies - 1
    return dataclasses.replace(own, needs=needs, cadence=own.cadence / copies)


def area(unit: Unit, folding: Folding) -> Area:
    """What Yosys counts, estimated. Raises MXExportError for a unit whose parts were never fitted."""
    single, own = one(unit, folding)
    return fitted(single.module, single.parts(own)) * count(unit, folding)
