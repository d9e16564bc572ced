"""Area of a unit without synthesis, as Yosys counts cells for UltraScale+.

What a unit is made of stands in its file (`Unit.parts`): DSP slices and memories as they are, and for LUTs and
flip-flops how many there are to each kind of part; what one of them takes is fitted to syntheses of hundreds of units
(area_model.json, by benchmarks/estimates.py, which prints what is left over). The costs of common pieces stand here.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from mxexport.errors import MXExportError
from mxexport.fpga.streams import words
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import Element

MODEL = Path(__file__).parent / "area_model.json"
_IN_LUTS = 64  # words up to which a memory lies in LUTs
_SMALL = 4096  # bits, likewise
_SHAPES = ((512, 36), (1024, 18), (2048, 9))  # words by bits of a RAMB18


@dataclass(frozen=True)
class Area:
    """LUTs (logic, RAM and shift registers), flip-flops, DSP slices, block RAMs of 36 Kib, UltraRAMs."""

    lut: float = 0
    ff: float = 0
    dsp: float = 0
    bram36: float = 0
    uram: float = 0

    def __add__(self, other: Area) -> Area:
        """Written out: foldings are found by hundreds of thousands of these."""
        return Area(
            self.lut + other.lut,
            self.ff + other.ff,
            self.dsp + other.dsp,
            self.bram36 + other.bram36,
            self.uram + other.uram,
        )

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


def in_block_ram(depth: int, width: int, block_depth: int) -> bool:
    """mx_pkg::rom_large."""
    return depth >= block_depth and depth * width > _SMALL


def rom(depth: int, width: int, block_depth: int = 256) -> Area:
    """mx_rom: in LUTs where words are few or in all no more than 4 Kib, else in pieces of block RAM."""
    if not in_block_ram(depth, width, block_depth):
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


def ultra(depth: int, width: int) -> Area:
    """The same in UltraRAM: 4,096 words of 72 bits each."""
    return Area(uram=math.ceil(width / 72) * math.ceil(depth / 4096))


def pays_in_ultra(depth: int, width: int) -> bool:
    """Whether a memory fills its UltraRAMs so far that each saves two block RAMs: parts have two or three for each."""
    return ram(depth, width).bram36 >= 2 * ultra(depth, width).uram


def block_rams(depth: int, width: int) -> int:
    """RAMB18 of a memory, as Yosys finds them: 36, 18 or 9 bits wide up to 2,048 words. Deeper ones of a power of two
    are so many of 2,048 words by 9 bits, and what is left of the width goes into 4,096 by 4, 8,192 by 2 or 16,384 by 1;
    others are columns of 36, 18 or 9 bits, each of as many as hold its words."""
    for words_held, bits in _SHAPES:
        if depth <= words_held:
            return math.ceil(width / bits)
    if depth > 1 << 14:
        return block_rams(1 << 14, width) + block_rams(depth - (1 << 14), width)
    if depth & (depth - 1):
        fewest = [0]  # by the width they cover
        for bits in range(1, width + 1):
            fewest.append(min(math.ceil(depth / n) + fewest[max(bits - wide, 0)] for n, wide in _SHAPES))
        return fewest[width]
    rows = 1 << math.ceil(math.log2(depth / 2048))
    return width // 9 * rows + min(rows, math.ceil(width % 9 * rows / 8))


def exponent_bits(element: Element) -> int:
    """0 for integers."""
    return fixedpoint.element_parameters(element)["exponent_bits"]


Parts = Mapping[str, Area]
"""What a unit is made of, by kinds whose LUTs and flip-flops the model weighs."""


def each(count: float) -> Area:
    """So many places, each of some LUTs and flip-flops: the model says how many."""
    return Area(lut=count, ff=count)


@functools.cache
def _model() -> dict[str, dict[str, dict[str, float]]]:
    return json.loads(MODEL.read_text())


def fitted(module: str, parts: Parts) -> Area:
    """What `parts` of a module take.

    Raises:
        MXExportError: the module, or a kind of its parts, was never fitted.
    """
    model = _model().get(module)
    if model is None or (missing := [kind for kind in parts if kind not in model["lut"]]):
        what = module if model is None else f"{', '.join(missing)} of {module}"
        raise MXExportError(f"no area is known for {what}; run python -m benchmarks.estimates")
    whole = total(parts.values())
    lut, ff = (sum(model[k][kind] * getattr(part, k) for kind, part in parts.items()) for k in ("lut", "ff"))
    return replace(whole, lut=lut, ff=ff)


def shift_right(width: int, kept: int, bits: int, unit: int = 1) -> Area:
    """mx_shift_right: levels of four choices, one LUT per bit (two bits share one where a level has two choices), and
    LUTs that look at four bits each which a level drops."""
    levels, there, lut = math.ceil(bits / 2), width, 0.0
    for level in reversed(range(levels)):
        single = bits % 2 == 1 and level == 0
        step = unit << (2 * level - bits % 2) if level else unit
        lut += sum(math.ceil(min(step, max(there - i * step, 0)) / 4) for i in range(1 if single else 3))
        there = min(kept + step - unit, max(width, kept))
        lut += there / 2 if single and levels > 1 else there
    return Area(lut=lut)


def shift_left(width: int, within: int, bits: int) -> float:
    """LUTs of a shift of `width` bits into `within`: levels of four choices, all but the last as wide as they reach."""
    if not bits:
        return 0
    return sum(min(width + 4**level, within) for level in range(1, math.ceil(bits / 2))) + within


def glue(module: str, parameters: Mapping[str, int | str]) -> Area:
    """Cells that stand between units. Raises MXExportError as `glue_parts` and `fitted`."""
    return fitted(module, glue_parts(module, parameters))


def glue_parts(module: str, parameters: Mapping[str, int | str]) -> Parts:
    """What they are made of.

    Raises:
        MXExportError: a cell nobody gave a cost.
    """
    if module not in _GLUE:
        raise MXExportError(f"no area is known for cell {module}")
    return _GLUE[module](parameters)


def _fifo(p: Mapping) -> Parts:
    memory = (ultra if p.get("Ultra") else ram)(p["Depth"], p["Width"] + 1)
    return {"unit": each(15), "words": memory, "values": each(p["Width"]), "places": each(p["Depth"].bit_length())}


def _lanes(p: Mapping) -> Parts:
    narrow, wide = sorted((p["InLanes"], p["OutLanes"]))
    if narrow >= p["K"]:
        return {"wires": each(1)}
    values, places = wide * p["ElemWidth"], each((wide // narrow).bit_length())
    if p["InLanes"] == narrow:
        return {"joined": each(5), "joined_places": places, "joined_values": Area(ff=values)}
    chosen = values - narrow * p["ElemWidth"]
    return {"split": each(5), "split_places": places, "split_values": Area(lut=chosen, ff=values)}


def _ingress(p: Mapping) -> Parts:
    counted = p["Beats"].bit_length() + p["K"].bit_length()
    surplus = p.get("Slot", -(-p["Width"] // 8) * 8) - p["Width"]  # bits that must be alike
    return {
        "unit": each(30),
        "counters": each(counted),
        "lanes": each(p["Lanes"]),
        "values": each(p["Lanes"] * p["Width"] * bool(surplus)),
        "surplus": each(p["Lanes"] * surplus),
    }


def _axi_read(p: Mapping) -> Parts:
    channels = p["Channels"]
    fifo = _fifo({"Width": p["Bus"], "Depth": 4 * p["Burst"]})
    return {"unit": each(250), "bus": each(p["Bus"]), "channels": each(channels)} | {
        f"fifo_{kind}": part * channels for kind, part in fifo.items()
    }


_GLUE: dict[str, Callable[[Mapping], Parts]] = {
    "mx_fifo": _fifo,
    "mx_fork": lambda p: {"unit": each(1), "readers": each(p["Outputs"])},
    "mx_axi_read": _axi_read,
    "mx_deal": lambda p: {"unit": each(20), "values": each(p["Width"])},
    "mx_turns_in": lambda p: {"unit": each(1), "values": each(p["Width"]), "turns": each(p["Turns"].bit_length())},
    "mx_turns_beside": lambda p: {
        "unit": each(1),
        "values": each(p["Width"] + 1),
        "places": each(p["Beats"].bit_length()),
        "turns": each(p["Turns"].bit_length()),
        "memory": ram(2 * p["Beats"], p["Width"] + 1),
    },
    "mx_turns_out": lambda p: {"unit": each(1), "turns": each(p["Turns"].bit_length())},
    "mx_skid": lambda p: {"unit": each(1), "values": each(p["Width"])},
    "mx_lanes": _lanes,
    "mx_ingress": _ingress,
    "mx_egress": lambda p: {"unit": each(40), "values": each(p["Lanes"] * p["Width"]), "inputs": each(p["Inputs"])},
}
