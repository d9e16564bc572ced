"""How many rows (PE) and elements (SIMD) a matrix unit takes per cycle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mxexport.errors import OptionError
from mxexport.fpga.lower import Layer

DEFAULT_MACS = 64  # multiply-accumulates per cycle of the largest layer when no frame rate is asked for
# Yosys estimates (LUT) that decide between foldings of equal speed: one row's shift and accumulator, and one lane of
# the quantizer before the unit.
_LUT_PER_ROW, _LUT_PER_LANE = 150, 60


@dataclass(frozen=True)
class Folding:
    """`pe` output rows and `simd` elements of one block per cycle; both powers of two."""

    pe: int
    simd: int

    def cycles(self, layer: Layer) -> int:
        """Cycles one frame occupies the matrix unit."""
        return math.ceil(layer.rows / self.pe) * layer.blocks * (layer.group_size // self.simd)


def choices(layer: Layer) -> list[Folding]:
    """Every folding of a layer, slowest first; among equals the one with less logic around the multipliers."""
    rows = [1 << i for i in range((layer.rows - 1).bit_length() + 1)]
    lanes = [1 << i for i in range(layer.group_size.bit_length())]
    return sorted((Folding(pe, simd) for pe in rows for simd in lanes), key=_size)


def _size(f: Folding) -> tuple[int, int]:
    return f.pe * f.simd, f.pe * _LUT_PER_ROW + f.simd * _LUT_PER_LANE


def fold_for_cycles(layer: Layer, cycles: int) -> Folding:
    """The smallest folding that keeps a frame within `cycles`; the largest one if none does."""
    options = choices(layer)
    return next((f for f in options if f.cycles(layer) <= cycles), options[-1])


def _default_cycles(layers: list[Layer]) -> int:
    """Cycles per frame when the largest layer does DEFAULT_MACS multiply-accumulates per cycle."""
    return max(layer.rows * layer.blocks * layer.group_size for layer in layers) // DEFAULT_MACS


def fold(
    layers: list[Layer], target_cycles: int | None, overrides: Mapping[str, tuple[int, int]] | None = None
) -> list[Folding]:
    """One folding per layer. `overrides`: layer name -> (pe, simd).

    Raises:
        OptionError: an override names no layer, or is no power of two within the layer.
    """
    overrides = dict(overrides or {})
    names = [layer.name for layer in layers]
    if unknown := sorted(set(overrides) - set(names)):
        raise OptionError(f"folding: no layer called {', '.join(unknown)}; layers: {', '.join(names)}")
    target = target_cycles or _default_cycles(layers)
    foldings = []
    for layer in layers:
        if layer.name not in overrides:
            foldings.append(fold_for_cycles(layer, target))
            continue
        wanted = Folding(*overrides[layer.name])
        if wanted not in choices(layer):
            raise OptionError(
                f"folding of {layer.name}: pe={wanted.pe}, simd={wanted.simd}; expected powers of two with "
                f"pe <= {max(f.pe for f in choices(layer))} and simd <= {layer.group_size}"
            )
        foldings.append(wanted)
    return foldings
