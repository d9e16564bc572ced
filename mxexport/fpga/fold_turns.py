"""How much of every unit works at once, where a frame goes around in some of them: those are as many times faster."""

from __future__ import annotations

from collections.abc import Mapping

from mxexport.errors import OptionError
from mxexport.fpga import budgets, schedule
from mxexport.fpga.area import Area
from mxexport.fpga.estimate import whole
from mxexport.fpga.loops import apart
from mxexport.fpga.network import Network
from mxexport.fpga.schedule import Kinds
from mxexport.fpga.timing import cycles_of_turns, cycles_per_unit
from mxexport.fpga.unit import Folding

Asked = Mapping[str, tuple[int, ...]]


def fold_within(
    network: Network, target_cycles: int | None, budget: Area | None, overrides: Asked, kinds: Kinds
) -> dict[str, Folding]:
    """As `budgets.fold_within`, for networks with a loop as well: the slowest body with which a frame keeps to
    `target_cycles`, and units before and behind that keep up with it; or the fastest within `budget`.

    Raises:
        OptionError: as `budgets.fold_within`.
    """
    if network.loop is None:
        return budgets.fold_within(network, target_cycles, budget, overrides, kinds)
    if unknown := sorted(set(overrides) - {p.layer for p in network.products()}):
        layers = ", ".join(p.layer for p in network.products())
        raise OptionError(f"folding: no layer called {', '.join(unknown)}; layers: {layers}")
    beyond = ""
    for luts in kinds:
        found = _fold(network, target_cycles, budget, overrides, luts)
        beyond = "" if budget is None else whole(network, found).beyond(budget)
        if not beyond:
            return found
    what = "target_fps needs" if target_cycles is not None else "the smallest design needs"
    raise OptionError(f"budget: {what} {beyond}; allow more, or ask for less")


def _fold(
    network: Network, target: int | None, budget: Area | None, overrides: Asked, luts: bool
) -> dict[str, Folding]:
    """By bisection over every number of cycles that a folding of the body gives: the slowest that keeps to `target`,
    the fastest that keeps to `budget`, or as it is folded without either."""
    if target is None and budget is None:
        return fold(network, None, overrides, luts)
    targets = cycle_counts(network)
    low, high = 0, len(targets) - 1
    while low < high:
        middle = (low + high + 1) // 2 if target is not None else (low + high) // 2
        found = fold(network, targets[middle], overrides, luts)
        if target is not None:  # rising numbers of cycles: the last one that is fast enough
            low, high = (middle, high) if cycles_of(network, found) <= target else (low, middle - 1)
        else:  # the first one that is small enough
            fits = not whole(network, found).beyond(budget)
            low, high = (low, middle) if fits else (middle + 1, high)
    return fold(network, targets[low], overrides, luts)


def cycle_counts(network: Network) -> list[int]:
    """As `schedule.cycle_counts`; of the body where there is a loop."""
    return schedule.cycle_counts(network if network.loop is None else apart(network)[1])


def fold(network: Network, cycles: int | None, overrides: Asked, luts: bool) -> dict[str, Folding]:
    """As `schedule.fold`; with a loop, a body that takes a turn in so many cycles, and what keeps up with it."""
    if network.loop is None:
        return schedule.fold(network, cycles, overrides, luts)
    before, body, behind = apart(network)
    found = schedule.fold(body, cycles, _own(body, overrides), luts)
    taken = cycles_of_turns(network, found)
    for part in (before, behind):
        if part.instances:
            found |= schedule.fold(part, taken, _own(part, overrides), luts)
    return found


def _own(part: Network, overrides: Asked) -> Asked:
    layers = {p.layer for p in part.products()}
    return {layer: numbers for layer, numbers in overrides.items() if layer in layers}


def cycles_of(network: Network, foldings: Mapping[str, Folding]) -> int:
    """Cycles of a frame."""
    return max(cycles_per_unit(network, foldings).values())
