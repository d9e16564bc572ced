"""How fast every unit must be, so that a whole network takes a frame in time: on average is not enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.network import Network
from mxexport.fpga.scheduling import copies
from mxexport.fpga.unit import Folding, Timing, Unit

Choices = Mapping[str, list[Folding]]
"""Instance -> foldings, slowest first."""


def even(unit: Unit, legal: list[Folding], target: int) -> list[Folding]:
    """Foldings that give windows evenly, because they hold rows back, where such keep a frame within `target`; else
    all."""
    serial = [f for f in legal if f.taps == 1]
    return serial if any(copies.cycles(unit, f) <= target for f in serial) else legal


def of_products(network: Network, legal: Choices, target: int) -> dict[str, int]:
    """Product -> cycles in which it must take a frame: it keeps up with what comes while that comes, since nothing but
    line buffers, and units that hold whole frames, holds back what comes in bursts, such as the windows of every second
    row."""
    pace = {name: target / network.streams[name].vectors for name in network.inputs}
    found = {}
    for instance in network.instances:
        unit = instance.unit
        timing = _paced(unit, legal[instance.name], target)
        burst = min(pace[s] for s in instance.sources)
        vectors, average = unit.sources[0].vectors, target / unit.result.vectors
        waits = timing.window is not None or timing.held  # what comes in bursts is held back
        if waits:
            pace[instance.result] = average
        elif unit.result.vectors == vectors:
            pace[instance.result] = burst
        else:
            steps = np.diff(timing.needs)
            apart = min(steps[steps > 0], default=vectors)  # of those that are waited for
            pace[instance.result] = average if unit.result.vectors > vectors else min(average, burst * apart)
        found[instance.name] = target if waits else max(math.floor(burst * vectors), 1)
    return {p.name: found[p.name] for p in network.products()}


def of_all(network: Network, legal: Choices, products: Choices, target: int) -> dict[str, float]:
    """Instance -> cycles in which it must take a frame, so that the whole network takes `target`.

    A unit keeps up with what comes before it while that works, not on average: a product behind a window rests until
    the next rows have come. And it feeds windows behind it so fast that they need not wait for rows.
    """
    pace: dict[str, float] = {}  # stream -> cycles from one vector to the next, while they come
    timing: dict[str, Timing] = {}
    for name in network.inputs:
        pace[name] = target / network.streams[name].vectors
    for instance in network.instances:
        unit, source = instance.unit, network.streams[instance.sources[0]]
        pace[instance.result] = min(pace[s] for s in instance.sources)
        choices = products.get(instance.name) or legal[instance.name]
        timing[instance.name] = _paced(unit, choices, target)
        own_pace = unit.vectorwise or timing[instance.name].window is not None or timing[instance.name].held
        if instance.name in products and own_pace:
            pace[instance.result] = min(copies.cycles(unit, f) for f in choices) / unit.result.vectors
        else:  # channels that a slice keeps come at once, and so do the vectors that stand for one
            kept = min(unit.result.channels / source.channels, 1.0)
            steps = np.diff(timing[instance.name].needs)
            apart = steps[steps > 0].min(initial=source.vectors) if unit.result.vectors <= source.vectors else 0
            pace[instance.result] *= kept * (apart or source.vectors / unit.result.vectors)
    wanted = dict.fromkeys(network.streams, float("inf"))  # stream -> the same, at most, for its readers' sake
    found: dict[str, float] = {}
    for instance in reversed(network.instances):
        unit, vectors = instance.unit, network.streams[instance.sources[0]].vectors
        most = wanted[instance.result] * unit.result.vectors / vectors
        found[instance.name] = min(most * vectors, *(pace[s] * network.streams[s].vectors for s in instance.sources))
        fastest = timing[instance.name]
        if fastest.window is not None:
            own = pace[instance.result] if instance.name in products else fastest.cadence
            behind = [pace[r.result] for r in network.readers(instance.result) if r.name in products]
            most = _slowest_feed(fastest.window, max(own, *behind, fastest.cadence), target)
        elif unit.result.vectors > vectors:
            most = min(most, target / unit.result.vectors * _outputs_per_input(fastest.needs, vectors))
        for source in instance.sources:
            if fastest.held:
                continue  # a FIFO or the unit itself holds what comes
            if len(instance.sources) > 1:  # one after the other: each comes in its part of the time
                part = min(network.streams[source].channels / unit.result.channels, 1.0)
                wanted[source] = min(wanted[source], found[instance.name] / vectors * part)
            elif instance.name not in products or fastest.window is not None:
                wanted[source] = min(wanted[source], most)
    return found


def _paced(unit: Unit, options: list[Folding], target: float) -> Timing:
    """How a unit takes and gives vectors, one by one, at that rate."""
    one_by_one = [f for f in options if f.pixels == 1] or options
    return unit.timing(replace(even(unit, one_by_one, target)[-1], pixels=1))


def _outputs_per_input(needs: np.ndarray, vectors: int) -> float:
    """Output vectors for each of the `vectors` input vectors that are waited for, where inputs follow each other
    fastest."""
    steps = np.flatnonzero(np.diff(needs) > 0)  # outputs behind which another input is waited for
    if len(steps) < 2:
        return len(needs) / vectors
    return float((np.diff(steps) / np.diff(needs)[steps[1:]]).min())


def _slowest_feed(window: tuple[Window, tuple[int, ...]], vector: float, target: int) -> float:
    """Most cycles between input pixels with which windows whose outputs leave `vector` apart keep to `target`."""
    windows, shape = window
    most = max(target, windows.fed(shape, 1.0, vector))
    feed = 1.0
    while windows.fed(shape, 2 * feed, vector) <= most:
        feed *= 2
    return feed
