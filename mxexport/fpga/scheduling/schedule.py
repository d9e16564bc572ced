"""How much of every unit works at once, and what stands between units that take different lanes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mxexport.errors import OptionError
from mxexport.fpga.areas.area import Area, glue, total
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.scheduling import copies, pace
from mxexport.fpga.scheduling.elimination import least
from mxexport.fpga.scheduling.pace import Choices
from mxexport.fpga.streams.types import Conversion, Stream, Wide
from mxexport.fpga.streams.words import power_of_two
from mxexport.fpga.unit import Folding, Unit

DEFAULT_MACS = 64  # multiply-accumulates per cycle of the largest layer when no frame rate is asked for
_LUTS = Area(lut=1, ff=0.3, dsp=60, bram36=200, uram=800)
"""What one of each is worth in LUTs: parts hold about so many for each."""
Kinds = tuple[str, ...]
"""What products are made of where they may be, in the order in which it is tried: "dsp" (slices, in pairs), "threes"
(slices of Versal parts, with three products of integers where that takes fewer), "lut"."""
DSP, LUTS, AUTO = ("dsp",), ("lut",), ("dsp", "lut")
_TOO_SLOW, _IMPOSSIBLE = 1e9, 1e14  # LUTs: taken only where nothing else is left; never
_MOST_CYCLES = 1 << 62


def fold(
    network: Network,
    target_cycles: int | None,
    overrides: Mapping[str, tuple[int, ...]] | None = None,
    kind: str = "dsp",
) -> dict[str, Folding]:
    """Instance -> folding: with what stands between the units, the least area (`area_of`) that keeps a frame within
    `target_cycles`; a unit that cannot works as fast as it can. `overrides`: layer name -> numbers of a Folding.
    `kind`: what products are made of, one of `Kinds`.

    Raises:
        OptionError: an override names no layer, or is no folding of it.
    """
    overrides, products = dict(overrides or {}), network.products()
    check_layers(network, overrides)
    target = target_cycles or max(_slowest(p.unit) for p in products) // DEFAULT_MACS
    legal = _legal(network, {p.name: found for p in products if (found := _asked(p, overrides))}, kind)
    # No unit need be faster than the slowest at its fastest.
    target = max(target, _least_cycles(network, legal))
    while (found := _fold_at(network, legal, target)) is None:
        target *= 2  # no lanes of that rate meet
        if target > _MOST_CYCLES:
            raise OptionError("folding: no unit beside what is asked for has lanes that meet it; ask for powers of two")
    return found


def check_layers(network: Network, overrides: Mapping[str, tuple[int, ...]]) -> None:
    """Raises OptionError where an override names no layer."""
    names = [p.layer for p in network.products()]
    if unknown := sorted(set(overrides) - set(names)):
        raise OptionError(f"folding: no layer called {', '.join(unknown)}; layers: {', '.join(names)}")


def _legal(network: Network, asked: Choices, kind: str = "dsp") -> dict[str, list[Folding]]:
    """Instance -> its foldings: those asked for, or all with their products of that kind, but for those whose lanes
    fit no bus outside.

    Raises:
        OptionError: what is asked for fits none.
    """
    found = {}
    for i in network.instances:
        outside = [(0, s) for s in i.sources if s in network.inputs] + [(1, i.result)] * (i.result in network.outputs)
        found[i.name] = [
            f
            for f in asked.get(i.name) or _of_kind(copies.foldings(i.unit), kind)
            if all(_fits_bus(network.streams[stream], copies.lanes(i.unit, f)[side]) for side, stream in outside)
        ]
        if not found[i.name]:
            fault, wanted = "makes a bus outside that is no power of two", asked[i.name][0]
            raise OptionError(f"folding of {i.layer}: {wanted} {fault}; ask for fewer pixels")
    return found


def _of_kind(foldings: list[Folding], kind: str) -> list[Folding]:
    """Those with their products of that kind where there are such, else the others."""
    plain = [f for f in foldings if not f.threes]
    if kind == "threes":
        better = {replace(f, threes=0) for f in foldings if f.threes}
        found = [f for f in foldings if not f.luts and f not in better]
    else:
        found = [f for f in plain if f.luts == (kind == "lut")]
    return found or plain


def _fits_bus(kind: Stream, lanes: int) -> bool:
    """Buses outside are powers of two wide; several vectors fill them."""
    return kind.side_by_side(lanes) == 1 or lanes & (lanes - 1) == 0


def _least_cycles(network: Network, legal: Choices) -> int:
    """Those of the slowest unit at its fastest."""
    return max(min(copies.cycles(i.unit, f) for f in legal[i.name]) for i in network.instances)


def _fold_at(network: Network, legal: Choices, target: int) -> dict[str, Folding] | None:
    """Instance -> folding of the smallest design at that rate; None where no lanes of that rate meet."""
    legal = {i.name: pace.even(i.unit, legal[i.name], target) for i in network.instances}
    needed = pace.of_products(network, legal, target)
    products = {p.name: _smallest(p.unit, legal[p.name], needed[p.name]) for p in network.products()}
    return _cheapest(network, legal, products, target)


def cycle_counts(network: Network) -> list[int]:
    """Every number of cycles that a folding of any product gives, rising."""
    return sorted({copies.cycles(p.unit, f) for p in network.products() for f in copies.foldings(p.unit)})


def next_faster(
    network: Network, foldings: Mapping[str, Folding], asked: Mapping
) -> tuple[int, dict[str, Folding]] | None:
    """(cycles, foldings) of the next faster design; None where every layer is at its fastest."""

    def slowest(found: Mapping[str, Folding]) -> int:
        return max(copies.cycles(p.unit, found[p.name]) for p in network.products())

    chosen = foldings.values()
    kind = "lut" if any(f.luts for f in chosen) else "threes" if any(f.threes for f in chosen) else "dsp"
    legal = _legal(network, {p.name: [foldings[p.name]] for p in network.products() if p.layer in asked}, kind)
    now, least = slowest(foldings), _least_cycles(network, legal)
    faster = {copies.cycles(p.unit, f) for p in network.products() for f in legal[p.name]}
    for target in sorted((c for c in faster if least <= c < now), reverse=True):
        found = _fold_at(network, legal, target)
        if found is not None and (reached := slowest(found)) < now:
            return reached, found
    return None


def area_of(network: Network, foldings: Mapping[str, Folding]) -> Area:
    """The estimate for all units and for the lane converters between them; not for FIFOs (`estimate.whole`)."""
    found = total(copies.area(i.unit, foldings[i.name]) for i in network.instances)
    for stream, kind in network.streams.items():
        lanes, readers = stream_lanes(network, foldings, stream), network.readers(stream)
        found += total(converter_area(kind, lanes, copies.lanes(r.unit, foldings[r.name])[0]) for r in readers)
    for stream in relays(network, foldings):
        bits = network.streams[stream].beat_bits(stream_lanes(network, foldings, stream))
        found += glue("mx_skid", {"Width": bits})
    return found


def relays(network: Network, foldings: Mapping[str, Folding]) -> set[str]:
    """Streams whose unit is followed by a register (mx_skid), so that its clock enable depends on no other unit's:
    where a lane converter stands behind it, or a unit that lets tready through. Where streams meet or part there are
    FIFOs."""
    found = set()
    for stream in network.streams:
        maker, readers = network.maker(stream), network.readers(stream)
        if maker is None or stream in network.outputs or len(readers) != 1 or len(readers[0].sources) > 1:
            continue
        (reader,) = readers
        folding = foldings[reader.name]
        converted = stream_lanes(network, foldings, stream) != copies.lanes(reader.unit, folding)[0]
        if reader.unit.through(folding) or converted:
            found.add(stream)
    return found


def handover(kind: Stream, lanes: int, wanted: int, cadence: float) -> float:
    """Cycles from one vector to the next of a unit that makes one every `cadence` cycles, beat by beat, where each
    mx_lanes behind it holds one beat until it has given it on."""
    for c in kind.conversions(lanes, wanted):
        beats, full = -(-c.count // c.lanes), max(c.lanes // c.wanted, 1)
        last, apart = -(-((c.count - 1) % c.lanes + 1) // c.wanted), cadence * c.vectors / beats
        cadence = ((beats - 1) * max(apart, full) + max(apart, last)) / c.vectors
    return cadence


def meet(kind: Stream, lanes: int, wanted: int) -> bool:
    """Whether lane converters bring a stream from `lanes` to `wanted`."""
    return all(c.exists for c in kind.conversions(lanes, wanted))


def path(kind: Wide, lanes: int, wanted: int) -> list[Conversion]:
    """What brings a stream from `lanes` to `wanted`, whatever they are: over a whole vector where neither number is a
    multiple of the other."""
    found = []
    for step in kind.conversions(lanes, wanted):
        if step.exists:
            found.append(step)
            continue
        stops = [step.lanes, *(-(-step.count // n) * n for n in (step.lanes, step.wanted)), step.wanted]
        for a, b in zip(stops, stops[1:], strict=False):
            if a != b:
                found.append(Conversion(a, b, step.bits, step.count, step.side, step.vectors))
    return found


def converter_area(kind: Stream, lanes: int, wanted: int) -> Area:
    return total(glue("mx_lanes", c.parameters()) for c in kind.conversions(lanes, wanted))


def _smallest(unit: Unit, legal: list[Folding], target: int) -> list[Folding]:
    """The foldings that keep a frame within `target` and do less than twice as much at once as the smallest of these
    must, or the fastest."""
    options = [f for f in legal if copies.cycles(unit, f) <= target] or legal[-1:]
    least_work = min(f.work for f in options)
    return [f for f in options if f.work < 2 * least_work]


def _within(unit: Unit, legal: list[Folding], target: float) -> list[Folding]:
    fastest = min(copies.cycles(unit, f) for f in legal)
    return [f for f in legal if copies.cycles(unit, f) <= max(target, fastest)]


def _cheapest(network: Network, legal: Choices, products: Choices, target: int) -> dict[str, Folding] | None:
    """Instance -> the folding of least area in all, among the `products` given and what keeps to `target` of others.
    None: no choice of them has lanes that meet."""
    targets = pace.of_all(network, legal, products, target)
    options = {
        i.name: products.get(i.name) or _within(i.unit, legal[i.name], targets[i.name]) for i in network.instances
    }
    own = {}
    for i in network.instances:
        chosen_from = options[i.name]  # where there is no choice, its area makes no difference
        own[i.name] = np.array([_luts(copies.area(i.unit, f)) if len(chosen_from) > 1 else 0.0 for f in chosen_from])
    between: dict[tuple[str, str], np.ndarray] = {}
    for stream, kind in network.streams.items():
        maker = network.maker(stream)
        for reader in network.readers(stream):
            taken = [copies.lanes(reader.unit, f)[0] for f in options[reader.name]]
            if maker is None:
                entry = {"Width": kind.width, "K": kind.channels}
                costs = [_luts(glue("mx_ingress", entry | {"Lanes": n, "Beats": kind.beats(n)})) for n in taken]
                own[reader.name] += costs
                continue
            made = [copies.lanes(maker.unit, f)[1] for f in options[maker.name]]
            costs = np.array([[_luts(converter_area(kind, a, b)) for b in taken] for a in made])
            for row, a, f in zip(costs, made, options[maker.name], strict=True):
                interval = copies.timing(maker.unit, f).cadence
                most = max(targets[reader.name] / kind.vectors, handover(kind, a, max(taken), interval))
                row += [_TOO_SLOW * (handover(kind, a, b, interval) > most) for b in taken]
                row += [0.0 if meet(kind, a, b) else _IMPOSSIBLE for b in taken]
            pair = (maker.name, reader.name)
            between[pair] = between.get(pair, 0) + costs
    chosen = least(own, between)
    cost = sum(own[name][i] for name, i in chosen.items()) + sum(
        costs[chosen[a], chosen[b]] for (a, b), costs in between.items()
    )
    return None if cost >= _IMPOSSIBLE else {name: options[name][i] for name, i in chosen.items()}


def _luts(area: Area) -> float:
    return sum(getattr(area, k) * getattr(_LUTS, k) for k in ("lut", "ff", "dsp", "bram36", "uram"))


def _slowest(unit: Unit) -> int:
    """Cycles of a frame when one multiply-accumulate is done at a time."""
    return unit.cycles(Folding(1, 1))


def _asked(product: Instance, overrides: Mapping[str, tuple[int, ...]]) -> list[Folding] | None:
    if product.layer not in overrides:
        return None
    wanted, options = Folding(*overrides[product.layer]), copies.foldings(product.unit)
    if wanted not in options:
        known = (f"{name} of {_listed(getattr(f, name) for f in options)}" for name in ("pe", "simd"))
        more = "".join(
            f"; or {f}" for f in options if f.taps * f.pixels > 1 and (f.luts, f.threes) == (wanted.luts, wanted.threes)
        )
        raise OptionError(f"folding of {product.layer}: {wanted}; expected {', '.join(known)}{more}")
    return [wanted]


def _listed(numbers) -> str:
    return ", ".join(map(str, sorted(set(numbers))))


def port_lanes(network: Network, foldings: Mapping[str, Folding], stream: str) -> int:
    """Lanes of an input or output of the network, a power of two that holds what its reader takes or its unit gives."""
    if (maker := network.maker(stream)) is not None:
        return power_of_two(copies.lanes(maker.unit, foldings[maker.name])[1])
    return _lanes_taken(network, foldings, stream)


def _lanes_taken(network: Network, foldings: Mapping[str, Folding], stream: str) -> int:
    """A power of two of lanes that holds what every reader takes."""
    return power_of_two(max(copies.lanes(r.unit, foldings[r.name])[0] for r in network.readers(stream)))


def stream_lanes(network: Network, foldings: Mapping[str, Folding], stream: str) -> int:
    """Lanes in which a stream comes, from its unit or from outside; or from a turn before."""
    if network.loop is not None and stream == network.loop.entry:
        return _lanes_taken(network, foldings, stream)
    maker = network.maker(stream)
    if maker is None:
        return port_lanes(network, foldings, stream)
    return copies.lanes(maker.unit, foldings[maker.name])[1]
