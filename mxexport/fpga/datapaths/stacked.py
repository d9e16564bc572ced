"""Units whose hardware takes the constants of several layers in turn: those of the first layer, with the others in
their field `others`. Who asks for their constants asks here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mxexport.fpga.unit import Memory, UnitT


def stacked(units: Sequence[UnitT]) -> UnitT:
    """One unit for units alike (`turns.made_alike`): the first, with the constants of the others where they have own
    ones."""
    first = units[0]
    return replace(first, others=tuple(units[1:])) if hasattr(first, "others") else first


def turns_of(unit: UnitT) -> tuple[UnitT, ...]:
    """The units of all layers, in the order of their turns."""
    return (unit, *unit.others)


def layers(unit: UnitT, counted: bool = False) -> dict[str, int]:
    """SystemVerilog parameters where there are several; `counted`: the module counts the vectors of a frame for them
    alone."""
    if not unit.others:
        return {}
    found = {"Layers": len(turns_of(unit))}
    return found | ({"Vectors": unit.sources[0].vectors} if counted else {})


def concatenated(memories: Sequence[dict[str, Memory]]) -> dict[str, Memory]:
    """Memories of every layer, by kind, one behind the other."""
    first = memories[0]
    return {kind: Memory(np.concatenate([m[kind].fields for m in memories]), first[kind].width) for kind in first}


def signed_bits(*arrays: np.ndarray) -> int:
    """Bits that hold both signs of every number, 2 at least."""
    return max(max(int(np.abs(array).max(initial=0)) for array in arrays).bit_length() + 1, 2)
