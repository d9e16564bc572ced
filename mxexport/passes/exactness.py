"""How a pass says that it is not bit-exact. A pass that says nothing must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """Largest change of a tensor's values: `ulp` units in the last place of the tensor's largest magnitude.

    Behind a quantizer whose input moved, a value may land one code apart; such tensors are counted, not bounded.
    """

    ulp: float
    reason: str


def approximate(*, ulp: float, reason: str) -> Callable:
    """Mark a pass as right only within `ulp` units in the last place of each tensor's largest magnitude."""

    def mark(function: Callable) -> Callable:
        function.bound = Bound(ulp, reason)
        return function

    return mark


def bound_of(function: Callable) -> Bound | None:
    """The bound a pass states; None for a bit-exact one. Looks through functools.partial."""
    return getattr(function, "bound", None) or getattr(getattr(function, "func", None), "bound", None)


def runs_once(function: Callable) -> bool:
    """True for a pass that is not repeated in a run, because it would change the graph each time."""
    return bool(getattr(function, "once", False))


def name_of(function: Callable) -> str:
    """The name a pass goes by in records and files."""
    named = getattr(function, "func", function)
    return getattr(named, "__name__", type(named).__name__)
