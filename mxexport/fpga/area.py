"""Area of a unit without synthesis: a coarse model, held to Yosys within a stated factor (tests/test_area.py).

Yosys counts cells for UltraScale+; the costs of common pieces stand here, what a unit is made of stands in its file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, fields

from mxexport.errors import MXExportError
from mxexport.fpga import words
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import Element

_IN_LUTS = 64  # words up to which a memory lies in LUTs
_SMALL = 4096  # bits, likewise


@dataclass(frozen=True)
class Area:
    """LUTs (logic, RAM and shift registers), flip-flops, DSP slices, block RAMs of 36 Kib, UltraRAMs."""

    lut: float = 0
    ff: float = 0
    dsp: float = 0
    bram36: float = 0
    uram: float = 0

    def __add__(self, other: Area) -> Area:
        return Area(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, count: float) -> Area:
        return Area(*(count * n for n in astuple(self)))

    def table(self) -> dict[str, float]:
        return {field.name: round(getattr(self, field.name), 1) for field in fields(self)}

    def beyond(self, most: Area) -> str:
        """In words, the kinds of which it needs more than `most` has; empty where it fits."""
        pairs = [(f.name, getattr(self, f.name), getattr(most, f.name)) for f in fields(self)]
        return ", ".join(f"{needed:,.0f} {name} of {there:,.0f}" for name, needed, there in pairs if needed > there)


def total(areas: Iterable[Area]) -> Area:
    return sum(areas, Area())


def rom(depth: int, width: int, block_depth: int = 256) -> Area:
    """mx_rom: in LUTs where words are few or in all no more than 4 Kib, else in pieces of block RAM."""
    if depth < block_depth or depth * width <= _SMALL:
        distinct = min(width, 1 << min(depth, 30))  # columns of few words are alike
        return Area(lut=math.ceil(depth / _IN_LUTS) * distinct * (depth > 2), ff=distinct * (depth > 1))
    pieces = words.rom_pieces(depth)
    if len(pieces) == 1:
        return ram(depth, width)
    first, *rest = pieces
    return ram(first, width) + total(rom(n, width, 128) for n in rest) + Area(lut=width, ff=2)


def ram(depth: int, width: int) -> Area:
    """A memory of one write and one read port."""
    if depth <= _IN_LUTS or depth * width <= _SMALL:
        return Area(lut=(0.57 if depth <= 32 else math.ceil(depth / 64)) * width, ff=0.6 * width)
    return Area(bram36=block_rams(depth, width) / 2)


def block_rams(depth: int, width: int) -> int:
    """RAMB18 of a memory: the wider, the fewer words they hold."""
    rows = math.ceil(depth / (1 << 14))
    wide = next((bits for words, bits in ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2)) if depth <= words), 1)
    return rows * math.ceil(width / wide)


def exponent_bits(element: Element) -> int:
    """0 for integers."""
    return fixedpoint.element_parameters(element)["exponent_bits"]


def registers(bits: float, luts: float = 0.0) -> Area:
    """`bits` flip-flops with `luts` LUTs of logic for each."""
    return Area(lut=bits * luts, ff=bits)


def shift_right(width: int, kept: int, bits: int) -> Area:
    """mx_shift_right: levels of four choices, one LUT per bit, and whether a one fell out."""
    levels = [kept + (1 << max(b, 0)) - 1 for b in range(bits - 2, -2, -2)]
    return Area(lut=sum(min(n, max(width, kept)) for n in levels) + width / 2.2)


def shift_left(width: int, within: int, bits: int) -> float:
    """LUTs of a shift of `width` bits into `within`: levels of four choices, all but the last as wide as they reach."""
    if not bits:
        return 0
    return sum(min(width + 4**level, within) for level in range(1, math.ceil(bits / 2))) + within


def _lanes(lanes: int, wanted: int, bits: int, count: int) -> Area:
    if min(lanes, wanted) >= count:
        return Area(lut=1)  # wiring
    return registers(max(lanes, wanted) * bits, 1.0) + Area(lut=15, ff=12)


def glue(module: str, parameters: Mapping[str, int | str]) -> Area:
    """Cells that stand between units.

    Raises:
        MXExportError: a cell nobody gave a cost.
    """
    if module not in _GLUE:
        raise MXExportError(f"no area is known for cell {module}")
    return _GLUE[module](parameters)


_GLUE: dict[str, Callable[[Mapping], Area]] = {
    "mx_fifo": lambda p: ram(p["Depth"], p["Width"] + 1) + Area(lut=25, ff=20),
    "mx_fork": lambda p: Area(lut=4 * p["Outputs"], ff=2 * p["Outputs"]),
    "mx_skid": lambda p: registers(2 * p["Width"], 0.5),
    "mx_lanes": lambda p: _lanes(p["InLanes"], p["OutLanes"], p["ElemWidth"], p["K"]),
    "mx_ingress": lambda p: Area(lut=90 + p["Lanes"] * (1.3 * p["Width"] + 3), ff=90),
    "mx_egress": lambda p: Area(lut=60, ff=55),
}
