"""How much of every unit works at once, and what stands between units that take different lanes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mxexport.errors import OptionError
from mxexport.fpga.area import Area, glue, total
from mxexport.fpga.elimination import least
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.types import Stream
from mxexport.fpga.unit import Folding, Unit
from mxexport.fpga.windows import Window

DEFAULT_MACS = 64  # multiply-accumulates per cycle of the largest layer when no frame rate is asked for
_LUTS = Area(lut=1, ff=0.3, dsp=60, bram36=200, uram=800)
"""What one of each is worth in LUTs: parts hold about so many for each."""
_TOO_SLOW = 1e9  # LUTs: taken only where nothing else is left


def fold(
    network: Network, target_cycles: int | None, overrides: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, Folding]:
    """Layer -> folding, for every product of the network: with all other units and what stands between them, the least
    area (`area_of`) that keeps a frame within `target_cycles`; a unit that cannot works as fast as it can.
    `overrides`: layer name -> (pe, simd).

    Raises:
        OptionError: an override names no layer, or is no power of two within the layer.
    """
    overrides, products = dict(overrides or {}), network.products()
    names = [p.layer for p in products]
    if unknown := sorted(set(overrides) - set(names)):
        raise OptionError(f"folding: no layer called {', '.join(unknown)}; layers: {', '.join(names)}")
    target = target_cycles or max(_slowest(p.unit) for p in products) // DEFAULT_MACS
    asked = {p.name: _asked(p, overrides) for p in products}
    # No unit need be faster than the slowest at its fastest.
    target = max(
        target, *(min(i.unit.cycles(f) for f in asked.get(i.name) or i.unit.foldings()) for i in network.instances)
    )
    options = {p.name: asked[p.name] or _smallest(p.unit, target) for p in products}
    found = _cheapest(network, options, target)
    return {p.layer: found[p.name] for p in products}


def fold_for_budget(
    network: Network, budget: Area, overrides: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, Folding]:
    """The fastest foldings that stay within `budget`: by bisection over every number of cycles that a folding gives,
    because a slower target never takes a larger folding.

    Raises:
        OptionError: even the smallest design needs more; says of what.
    """
    targets = sorted({p.unit.cycles(f) for p in network.products() for f in p.unit.foldings()})

    def too_much(target: int) -> str:
        return area_of(network, fold(network, target, overrides)).beyond(budget)

    if found := too_much(targets[-1]):
        raise OptionError(f"budget: the smallest design needs {found}; allow more, or make the network smaller")
    low, high = 0, len(targets) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if not too_much(targets[middle]) else (middle + 1, high)
    return fold(network, targets[high], overrides)


def fold_within(
    network: Network,
    target_cycles: int | None,
    budget: Area | None,
    overrides: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Folding]:
    """For a number of cycles, for a budget, or for both. Raises OptionError where both cannot be met."""
    if budget is None:
        return fold(network, target_cycles, overrides)
    if target_cycles is None:
        return fold_for_budget(network, budget, overrides)
    found = fold(network, target_cycles, overrides)
    if over := area_of(network, found).beyond(budget):
        raise OptionError(f"budget: target_fps needs {over}; ask for less, or leave target_fps out for the fastest")
    return found


def next_step(network: Network, layers: Mapping[str, Folding], folding: Mapping) -> tuple[int, Area] | None:
    """(cycles, more area) of the next faster design; None where every layer is at its fastest."""
    now = max(p.unit.cycles(layers[p.layer]) for p in network.products())
    faster = {p.unit.cycles(f) for p in network.products() for f in p.unit.foldings()}
    for target in sorted((c for c in faster if c < now), reverse=True):
        found = fold(network, target, folding)
        reached = max(p.unit.cycles(found[p.layer]) for p in network.products())
        if reached < now:
            return reached, area_of(network, found) + area_of(network, layers) * -1
    return None


def area_of(network: Network, layers: Mapping[str, Folding]) -> Area:
    """The estimate for all units and for the lane converters between them; layers are products."""
    foldings = fold_all(network, layers)
    found = total(i.unit.area(foldings[i.name]) for i in network.instances)
    for stream, kind in network.streams.items():
        lanes = stream_lanes(network, foldings, stream)
        found += total(converter_area(kind, lanes, r.unit.lanes(foldings[r.name])[0]) for r in network.readers(stream))
    return found


def converter(kind: Stream, lanes: int, wanted: int) -> dict[str, int]:
    """Parameters of the mx_lanes that brings a stream from `lanes` to `wanted` values a beat."""
    return {"InLanes": lanes, "OutLanes": wanted} | kind.lane_parameters()


def handover(kind: Stream, lanes: int, wanted: int, cadence: float) -> float:
    """Cycles from one vector to the next of a unit that makes one every `cadence` cycles, beat by beat, where an
    mx_lanes behind it holds one beat until it has given it on."""
    count = kind.lane_parameters()["K"]
    beats, full = -(-count // lanes), max(lanes // wanted, 1)
    last, apart = -(-((count - 1) % lanes + 1) // wanted), cadence / beats
    return (beats - 1) * max(apart, full) + max(apart, last)


def converter_area(kind: Stream, lanes: int, wanted: int) -> Area:
    return Area() if lanes == wanted else glue("mx_lanes", converter(kind, lanes, wanted))


def _smallest(unit: Unit, target: int) -> list[Folding]:
    """The foldings that keep a frame within `target` and do no more at once than the smallest of these must, or the
    fastest."""
    options = [f for f in unit.foldings() if unit.cycles(f) <= target] or unit.foldings()[-1:]
    least_work = min(f.pe * f.simd for f in options)
    return [f for f in options if f.pe * f.simd == least_work]


def _within(unit: Unit, target: int) -> list[Folding]:
    options = unit.foldings()
    fastest = min(unit.cycles(f) for f in options)
    return [f for f in options if unit.cycles(f) <= max(target, fastest)]


def _targets(network: Network, products: Mapping[str, list[Folding]], target: int) -> dict[str, float]:
    """Instance -> cycles in which it must take a frame, so that the whole network takes `target`.

    A unit keeps up with what comes before it while that works, not on average: a product behind a window rests until
    the next rows have come. And it feeds windows behind it so fast that they need not wait for rows.
    """
    pace: dict[str, float] = {}  # stream -> cycles from one vector to the next, while they come
    for name in network.inputs:
        pace[name] = target / network.streams[name].vectors
    for instance in network.instances:
        unit, source = instance.unit, network.streams[instance.sources[0]]
        pace[instance.result] = min(pace[s] for s in instance.sources)
        if instance.name in products:
            pace[instance.result] = min(unit.cycles(f) for f in products[instance.name]) / unit.result.vectors
        else:  # channels that a slice keeps come at once, and so do the vectors that stand for one
            kept = min(unit.result.channels / source.channels, 1.0)
            steps = np.diff(unit.timing(unit.foldings()[-1]).needs)
            apart = steps[steps > 0].min(initial=source.vectors) if unit.result.vectors <= source.vectors else 0
            pace[instance.result] *= kept * (apart or source.vectors / unit.result.vectors)
    wanted = dict.fromkeys(network.streams, float("inf"))  # stream -> the same, at most, for its readers' sake
    found: dict[str, float] = {}
    for instance in reversed(network.instances):
        unit, vectors = instance.unit, network.streams[instance.sources[0]].vectors
        most = wanted[instance.result] * unit.result.vectors / vectors
        found[instance.name] = vectors * min(most, *(pace[s] for s in instance.sources))
        fastest = unit.timing(products.get(instance.name, unit.foldings())[-1])
        if fastest.window is not None:
            own = pace[instance.result] if instance.name in products else fastest.cadence
            behind = [pace[r.result] for r in network.readers(instance.result) if r.name in products]
            most = _slowest_feed(fastest.window, max(own, *behind, fastest.cadence), target)
        elif unit.result.vectors > vectors:
            most = min(most, target / unit.result.vectors * _outputs_per_input(fastest.needs, vectors))
        for source in instance.sources:
            if len(instance.sources) > 1:  # one after the other: each comes in its part of the time
                part = min(network.streams[source].channels / unit.result.channels, 1.0)
                wanted[source] = min(wanted[source], found[instance.name] / vectors * part)
            elif instance.name not in products or fastest.window is not None:
                wanted[source] = min(wanted[source], most)
    return found


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


def _cheapest(network: Network, products: Mapping[str, list[Folding]], target: int) -> dict[str, Folding]:
    """Instance -> the folding of least area in all, among the `products` given and what keeps to `target` of others."""
    targets = _targets(network, products, target)
    options = {i.name: products.get(i.name) or _within(i.unit, targets[i.name]) for i in network.instances}
    own = {}
    for i in network.instances:
        chosen_from = options[i.name]  # where there is no choice, its area makes no difference
        own[i.name] = np.array([_luts(i.unit.area(f)) if len(chosen_from) > 1 else 0.0 for f in chosen_from])
    between: dict[tuple[str, str], np.ndarray] = {}
    for stream, kind in network.streams.items():
        maker = network.maker(stream)
        for reader in network.readers(stream):
            taken = [reader.unit.lanes(f)[0] for f in options[reader.name]]
            if maker is None:
                own[reader.name] += [_luts(glue("mx_ingress", {"Lanes": n, "Width": kind.width})) for n in taken]
                continue
            made = [maker.unit.lanes(f)[1] for f in options[maker.name]]
            costs = np.array([[_luts(converter_area(kind, a, b)) for b in taken] for a in made])
            for row, a, f in zip(costs, made, options[maker.name], strict=True):
                interval = maker.unit.timing(f).cadence
                most = max(targets[reader.name] / kind.vectors, handover(kind, a, max(taken), interval))
                row += [_TOO_SLOW * (handover(kind, a, b, interval) > most) for b in taken]
            pair = (maker.name, reader.name)
            between[pair] = between.get(pair, 0) + costs
    chosen = least(own, between)
    return {name: options[name][i] for name, i in chosen.items()}


def _luts(area: Area) -> float:
    return sum(getattr(area, k) * getattr(_LUTS, k) for k in ("lut", "ff", "dsp", "bram36", "uram"))


def _slowest(unit: Unit) -> int:
    """Cycles of a frame when one multiply-accumulate is done at a time."""
    return unit.cycles(Folding(1, 1))


def _asked(product: Instance, overrides: Mapping[str, tuple[int, int]]) -> list[Folding] | None:
    if product.layer not in overrides:
        return None
    wanted, options = Folding(*overrides[product.layer]), product.unit.foldings()
    if wanted not in options:
        most_pe, most_simd = max(f.pe for f in options), max(f.simd for f in options)
        raise OptionError(
            f"folding of {product.layer}: pe={wanted.pe}, simd={wanted.simd}; expected powers of two with "
            f"pe <= {most_pe} and simd <= {most_simd}"
        )
    return [wanted]


def fold_all(network: Network, layers: Mapping[str, Folding]) -> dict[str, Folding]:
    """Instance -> folding, where those of the products are given: the least area that keeps up with them."""
    products = network.products()
    target = max(p.unit.cycles(layers[p.layer]) for p in products)
    return _cheapest(network, {p.name: [layers[p.layer]] for p in products}, target)


def input_lanes(network: Network, foldings: Mapping[str, Folding], stream: str) -> int:
    """Lanes of an input of the network: what its widest reader takes."""
    return max(r.unit.lanes(foldings[r.name])[0] for r in network.readers(stream))


def stream_lanes(network: Network, foldings: Mapping[str, Folding], stream: str) -> int:
    """Lanes in which a stream comes, from its unit or from outside."""
    maker = network.maker(stream)
    return input_lanes(network, foldings, stream) if maker is None else maker.unit.lanes(foldings[maker.name])[1]
