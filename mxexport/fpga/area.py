"""Area of a unit without synthesis: a coarse model, held to Yosys within a stated factor (tests/test_area.py).

Yosys counts cells for UltraScale+; the costs of common pieces stand here, what a unit is made of stands in its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, fields

from mxexport.errors import MXExportError
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import Element

_BLOCK_RAM_WIDTH, _BLOCK_RAM_DEPTH = 72, 512  # of a RAMB36 at its widest
_IN_LUTS = 64  # words up to which a memory lies in LUTs


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
    """A ROM of so many words, in block RAM from `block_depth` on."""
    return ram(depth, width) if depth >= block_depth else Area(lut=max(depth / _IN_LUTS, 0.25) * width, ff=width)


def ram(depth: int, width: int) -> Area:
    """A memory of one write and one read port."""
    if depth <= _IN_LUTS or depth * width <= 4096:
        return Area(lut=max(depth / 32, 1) * width * 0.6, ff=0.6 * width)
    columns = -(-width // _BLOCK_RAM_WIDTH)
    if depth > _BLOCK_RAM_DEPTH:  # narrower words, more of them: 36 Kib each
        return Area(bram36=max(-(-depth * width // 36_864), 0.5), ff=width)
    return Area(bram36=columns if depth > _BLOCK_RAM_DEPTH // 2 or width > 36 else 0.5, ff=width)


def exponent_bits(element: Element) -> int:
    """0 for integers."""
    return fixedpoint.element_parameters(element)["exponent_bits"]


def product(a: Element, b: Element, lanes: int = 1, luts: bool = False) -> Area:
    """One product inside a dot product of `lanes`, its part of the adder tree included; long trees share more. `luts`:
    no DSP slice."""
    bits = [(1 + e.mantissa_bits if exponent_bits(e) else e.bits, exponent_bits(e)) for e in (a, b)]
    (m, x), (n, y) = bits
    if luts and not (x or y):  # Booth rows
        return Area(lut=(m + 3) * n / 2 + 5, ff=m + n + 20)
    if m * n >= 32 and not (x or y):  # Yosys gives a DSP slice to products of 4 x 8 bits and more
        return Area(lut=16, ff=14, dsp=1)
    if m * n <= 4:  # two E2M1: a table
        return Area(lut=12, ff=6)
    shift = (2**x - 1 if x else 0) + (2**y - 1 if y else 0)
    shared = 0.45 + 0.55 * min(1, 4 / lanes)
    return Area(lut=(m * n * 1.6 + 12 + 4.2 * shift * (x + y > 2)) * shared, ff=8 + m + n + shift / 2)


def registers(bits: float, luts: float = 0.0) -> Area:
    """`bits` flip-flops with `luts` LUTs of logic for each."""
    return Area(lut=bits * luts, ff=bits)


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
