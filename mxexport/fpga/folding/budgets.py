"""The foldings of the fastest design that a budget of area allows."""

from __future__ import annotations

from collections.abc import Mapping

from mxexport.errors import OptionError
from mxexport.fpga.areas.area import Area
from mxexport.fpga.folding import fold_turns
from mxexport.fpga.folding.estimate import whole
from mxexport.fpga.network import Network
from mxexport.fpga.scheduling import schedule
from mxexport.fpga.unit import Folding


def fold_for_budget(
    network: Network,
    budget: Area,
    overrides: Mapping[str, tuple[int, ...]] | None = None,
    kinds: schedule.Kinds = schedule.DSP,
) -> dict[str, Folding]:
    """Those of the fastest design within `budget`, all that stands between units included: by bisection over every
    number of cycles that a folding gives, because a slower target never takes a larger folding. The first of `kinds`
    that fits is taken.

    Raises:
        OptionError: even the smallest design needs more; says of what.
    """
    targets, overrides = fold_turns.cycle_counts(network), overrides or {}

    def fitting(target: int) -> tuple[dict[str, Folding] | None, str]:
        beyond = ""
        for kind in kinds:
            found = fold_turns.fold(network, target, overrides, kind)
            if not (beyond := _beyond(network, found, budget)):
                return found, ""
        return None, beyond

    found, beyond = fitting(targets[-1])
    if found is None:
        raise OptionError(f"budget: the smallest design needs {beyond}; allow more, or make the network smaller")
    low, high = 0, len(targets) - 1
    while low < high:
        middle = (low + high) // 2
        faster, _ = fitting(targets[middle])
        if faster is None:
            low = middle + 1
        else:
            found, high = faster, middle
    return found


def fold_within(
    network: Network,
    target_cycles: int | None,
    budget: Area | None,
    overrides: Mapping[str, tuple[int, ...]] | None = None,
    kinds: schedule.Kinds = schedule.DSP,
) -> dict[str, Folding]:
    """For a number of cycles, for a budget, or for both, with layers in turn or without. Raises OptionError where both
    cannot be met."""
    overrides = overrides or {}
    if budget is None:
        return fold_turns.fold_for_rate(network, target_cycles, overrides, kinds[0])
    if target_cycles is None:
        return fold_for_budget(network, budget, overrides, kinds)
    for kind in kinds:
        found = fold_turns.fold_for_rate(network, target_cycles, overrides, kind)
        if not (over := _beyond(network, found, budget)):
            return found
    raise OptionError(f"budget: target_fps needs {over}; ask for less, or leave target_fps out for the fastest")


def _beyond(network: Network, foldings: Mapping[str, Folding], budget: Area) -> str:
    """In words, what a design needs more than `budget`. Units alone are counted first: that takes far less time than
    placing everything between them, and is never more."""
    return schedule.area_of(network, foldings).beyond(budget) or whole(network, foldings).beyond(budget)
