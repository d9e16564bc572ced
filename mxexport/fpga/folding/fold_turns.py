"""How much of every unit works at once, where a frame goes around in some of them: those are as many times faster."""

from __future__ import annotations

from collections.abc import Mapping

from mxexport.fpga.network import Network
from mxexport.fpga.scheduling import schedule
from mxexport.fpga.scheduling.loops import apart
from mxexport.fpga.scheduling.timing import cycles_of_turns, cycles_per_unit
from mxexport.fpga.unit import Folding

Asked = Mapping[str, tuple[int, ...]]


def fold_for_rate(network: Network, target: int | None, overrides: Asked, kind: str) -> dict[str, Folding]:
    """The smallest design whose frames take `target` cycles; with a loop, by bisection over every number of cycles that
    a folding of the body gives: the slowest body with which a frame keeps to it."""
    if network.loop is None or target is None:
        return fold(network, target, overrides, kind)
    targets = cycle_counts(network)
    low, high = 0, len(targets) - 1
    while low < high:
        middle = (low + high + 1) // 2
        enough = cycles_of(network, fold(network, targets[middle], overrides, kind)) <= target
        low, high = (middle, high) if enough else (low, middle - 1)
    return fold(network, targets[low], overrides, kind)


def cycle_counts(network: Network) -> list[int]:
    """As `schedule.cycle_counts`; of the body where there is a loop."""
    return schedule.cycle_counts(network if network.loop is None else apart(network)[1])


def fold(network: Network, cycles: int | None, overrides: Asked, kind: str) -> dict[str, Folding]:
    """As `schedule.fold`; with a loop, a body that takes a turn in so many cycles, and what keeps up with it."""
    if network.loop is None:
        return schedule.fold(network, cycles, overrides, kind)
    schedule.check_layers(network, overrides)
    before, body, behind = apart(network)
    found = schedule.fold(body, cycles, _own(body, overrides), kind)
    taken = cycles_of_turns(network, found)
    for part in (before, behind):
        if part.instances:
            found |= schedule.fold(part, taken, _own(part, overrides), kind)
    return found


def _own(part: Network, overrides: Asked) -> Asked:
    layers = {p.layer for p in part.products()}
    return {layer: numbers for layer, numbers in overrides.items() if layer in layers}


def cycles_of(network: Network, foldings: Mapping[str, Folding]) -> int:
    """Cycles of a frame."""
    return max(cycles_per_unit(network, foldings).values())
