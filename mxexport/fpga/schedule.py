"""How much of every unit works at once, and what stands between units that take different lanes."""

from __future__ import annotations

from collections.abc import Mapping

from mxexport.errors import OptionError
from mxexport.fpga.area import Area, total
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.types import Blocks
from mxexport.fpga.unit import Folding, Unit

DEFAULT_MACS = 64  # multiply-accumulates per cycle of the largest layer when no frame rate is asked for


def fold(
    network: Network, target_cycles: int | None, overrides: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, Folding]:
    """Layer -> folding, for every product of the network. `overrides`: layer name -> (pe, simd).

    Raises:
        OptionError: an override names no layer, or is no power of two within the layer.
    """
    overrides, products = dict(overrides or {}), network.products()
    names = [p.layer for p in products]
    if unknown := sorted(set(overrides) - set(names)):
        raise OptionError(f"folding: no layer called {', '.join(unknown)}; layers: {', '.join(names)}")
    target = target_cycles or max(_slowest(p.unit) for p in products) // DEFAULT_MACS
    found = {p.layer: _asked(p, overrides) or fold_for_cycles(p.unit, target) for p in products}
    for group in _sharing(network):
        if len({found[p.layer].simd for p in group}) > 1:
            found |= _with_one_simd(group, found, overrides, target)
    return found


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
    """The estimate for all units; layers are products."""
    foldings = fold_all(network, layers)
    return total(i.unit.area(foldings[i.name]) for i in network.instances)


def _sharing(network: Network) -> list[list[Instance]]:
    """Products that read the same blocks, in other windows perhaps: they take as many lanes."""
    groups: dict[str, list[Instance]] = {}
    for product in network.products():
        stream = product.sources[0]
        while isinstance((maker := network.maker(stream)).unit.sources[0], Blocks):
            stream = maker.sources[0]
        groups.setdefault(stream, []).append(product)
    return [group for group in groups.values() if len(group) > 1]


def _with_one_simd(
    group: list[Instance], found: Mapping[str, Folding], overrides: Mapping, target: int
) -> dict[str, Folding]:
    simd = max(found[p.layer].simd for p in group)
    if asked := {overrides[p.layer][1]: p.layer for p in group if p.layer in overrides}:
        if len(asked) > 1:
            layers = ", ".join(f"{layer}: simd={n}" for n, layer in asked.items())
            raise OptionError(f"folding of {layers}; they read the same blocks, expected the same simd")
        (simd,) = asked
    return {
        p.layer: found[p.layer]
        if p.layer in overrides
        else fold_for_cycles(p.unit, target, [f for f in p.unit.foldings() if f.simd == simd])
        for p in group
    }


def fold_for_cycles(unit: Unit, cycles: int, options: list[Folding] | None = None) -> Folding:
    """The smallest folding that keeps a frame within `cycles`; the largest one if none does."""
    options = options or unit.foldings()
    return next((f for f in options if unit.cycles(f) <= cycles), options[-1])


def _slowest(unit: Unit) -> int:
    """Cycles of a frame when one multiply-accumulate is done at a time."""
    return unit.cycles(Folding(1, 1))


def _asked(product: Instance, overrides: Mapping[str, tuple[int, int]]) -> Folding | None:
    if product.layer not in overrides:
        return None
    wanted, options = Folding(*overrides[product.layer]), product.unit.foldings()
    if wanted not in options:
        most_pe, most_simd = max(f.pe for f in options), max(f.simd for f in options)
        raise OptionError(
            f"folding of {product.layer}: pe={wanted.pe}, simd={wanted.simd}; expected powers of two with "
            f"pe <= {most_pe} and simd <= {most_simd}"
        )
    return wanted


def fold_all(network: Network, layers: Mapping[str, Folding]) -> dict[str, Folding]:
    """Instance -> folding, where those of the products are given. What makes blocks takes the lanes of the product
    that reads them; what takes wide integers takes them as they come."""
    found = {p.name: layers[p.layer] for p in network.products()}
    for instance in reversed(network.instances):
        if instance.name not in found and isinstance(instance.unit.result, Blocks):
            lanes = [found[r.name].simd for r in network.readers(instance.result) if r.name in found]
            simd = max(lanes, default=1)
            found[instance.name] = Folding(simd, simd)
    for instance in network.instances:
        if instance.name not in found:
            makers = [m for s in instance.sources if (m := network.maker(s)) is not None]
            lanes = max((m.unit.lanes(found[m.name])[1] for m in makers), default=1)
            options = instance.unit.foldings()
            found[instance.name] = max((f for f in options if f.simd <= lanes), key=lambda f: f.simd)
    return found


def input_lanes(network: Network, foldings: Mapping[str, Folding], stream: str) -> int:
    """Lanes of an input of the network: what its widest reader takes."""
    return max(r.unit.lanes(foldings[r.name])[0] for r in network.readers(stream))


def stream_lanes(network: Network, foldings: Mapping[str, Folding], stream: str) -> int:
    """Lanes in which a stream comes, from its unit or from outside."""
    maker = network.maker(stream)
    return input_lanes(network, foldings, stream) if maker is None else maker.unit.lanes(foldings[maker.name])[1]
