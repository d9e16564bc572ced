"""mx_products, the datapath of all products of MX blocks: beats of a vector meet beats of rows, sums come out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mxexport.fpga.areas.area import Area, Parts, each, exponent_bits, shift_left
from mxexport.fpga.datapaths import dots, latencies
from mxexport.fpga.streams.types import Blocks
from mxexport.fpga.unit import Folding
from mxexport.numbers.formats import Element

# Yosys estimates (LUT) that decide between foldings of equal speed: one row's shift and accumulator, and one lane of
# the quantizer before the unit.
_LUT_PER_ROW, _LUT_PER_LANE = 150, 60


@dataclass(frozen=True)
class Datapath:
    """`x`: the vectors; `w`: elements of `rows` rows that each of them meets, `symmetric` where none is
    -2**(bits - 1); sums of `width` bits, shifted by at most `shift_max`."""

    x: Blocks
    w: Element
    rows: int
    symmetric: bool
    width: int
    shift_max: int
    folding: Folding

    @property
    def pairs(self) -> bool:
        """Whether rows go in pairs, two products of linear values per DSP slice: where these are short, but no table
        of a LUT."""
        x, w = self.x.element.linear_bits, self.w.linear_bits
        if self.folding.luts or self.folding.threes or self.folding.pe % 2 or x > 9 or w > 8 or x * w < 32:
            return False
        return self.symmetric

    @property
    def pays_in_threes(self) -> bool:
        """Whether DSP slices that make three products of integers each are fewer than those that it takes otherwise."""
        x, w = self.x.element, self.w
        if not self.takes_dsp or exponent_bits(x) or exponent_bits(w) or x.bits > 9 or w.bits > 8:
            return False
        return sum(latencies.three_chains(self.part)) < self.part / (1 + self.pairs)

    @property
    def takes_dsp(self) -> bool:
        """Whether its products are made by DSP slices, unless LUTs are asked for."""
        integers = not (exponent_bits(self.x.element) or exponent_bits(self.w))
        whole = integers and self.x.element.bits * self.w.bits >= dots.DSP_BITS
        return not self.folding.luts and (self.pairs or whole)

    @property
    def across(self) -> int:
        """Blocks of a beat."""
        return self.x.across(self.folding.simd)

    @property
    def part(self) -> int:
        """Elements of a block in a beat."""
        return self.folding.simd // self.across

    @property
    def beats(self) -> int:
        """Of a vector."""
        return self.x.beats(self.folding.simd) // self.x.vectors

    @property
    def folds(self) -> int:
        return math.ceil(self.rows / self.folding.pe)

    @property
    def places(self) -> int:
        """Of blocks, one after the other, in a vector."""
        return self.x.blocks // self.across

    @property
    def turns(self) -> int:
        """Rows that share a shifter and an accumulator."""
        return latencies.rows_in_turn(self.folding.pe, self.x.group_size // self.part)

    @property
    def groups(self) -> int:
        """Of rows that take turns."""
        return math.ceil(self.folding.pe / self.turns)

    @property
    def stored_bits(self) -> int:
        """Of an element of a row: pairs take linear values."""
        return self.w.linear_bits if self.pairs else self.w.bits

    @property
    def scale_bits(self) -> int:
        """Of a scale that are kept."""
        return max(self.shift_max.bit_length(), 1)

    def foldings(self, pes: list[int], lanes: list[int]) -> list[Folding]:
        """Every one of those rows and lanes at once, with products in LUTs and in threes first where they may be so."""
        found = []
        for f in sorted((Folding(pe, simd) for pe in pes for simd in lanes), key=_size):
            path = replace(self, folding=f)
            found += [*[replace(f, luts=1)] * path.takes_dsp, *[replace(f, threes=1)] * path.pays_in_threes, f]
        return found

    def parameters(self) -> dict[str, int]:
        """SystemVerilog parameters that the modules around it pass on."""
        return {
            "Rows": self.rows,
            "Pe": self.folding.pe,
            "Simd": self.folding.simd,
            "ShiftMax": self.shift_max,
            "UseDsp": 2 if self.folding.threes else -1 if self.takes_dsp else 0,
            "Pair": int(self.pairs),
        }

    def latency(self, late: bool) -> int:
        """Cycles from the last beat of a vector to its last sums, mx_replay included, where it was waited for; `late`:
        rows pass one register more."""
        if self.pairs:
            dot = latencies.pair_latency(self.x.element.linear_bits, self.w.linear_bits, self.part)
        elif self.folding.threes:
            dot = latencies.three_latency(self.part)
        else:
            dot = latencies.dot_latency(self.x.element, self.w, self.part, use_dsp=self.takes_dsp)
        joined = 4 if self.folds == 1 else 6  # a replay buffer stands before several folds
        return (self.folds - 1) * self.beats + joined + dot + late + latencies.sum_latency(self.across) + self.turns

    def parts(self, few: bool = False) -> Parts:
        """Counted as mx_products builds it: dot products, block sums, then what its rows share in turns. `few`: rows
        are nearly constants, which make smaller products."""
        pe, simd, across, part, x, w = *self._sizes(), self.x.element, self.w
        found = {}
        if self.pairs:
            found["pairs"] = dots.pair(x.linear_bits, w.linear_bits, part) * (pe * across / 2)
            if exponent_bits(x):
                found["linear"] = each(x.linear_bits * simd)
            dot_bits = x.linear_bits + w.linear_bits + (part - 1).bit_length()
        else:
            threes = {"threes": dots.three(x.bits, w.bits, part)} if self.folding.threes else None
            made = threes or dots.dot(x, w, part, luts=not self.takes_dsp)
            slices = ("integers", "threes")  # these multiply any constant
            smaller = {kind: few and kind not in slices for kind in made}
            found |= {f"{'of_few_' * smaller[kind]}{kind}": piece * (pe * across) for kind, piece in made.items()}
            floats = exponent_bits(x) or exponent_bits(w)
            dot_bits = x.linear_bits + w.linear_bits - bool(floats) + (part - 1).bit_length()
        block_beats, grouped = self.x.group_size // part, self.groups
        block, shift = dot_bits + (block_beats - 1).bit_length(), self.shift_max.bit_length()
        chosen = {1: 0, 2: 1, 3: 1.5, 4: 1.5}.get(self.turns, 3.5) * block
        return found | {
            "sums": Area(lut=block, ff=block * (1 + (block_beats > 1))) * (pe * across),
            "chosen": each(chosen * grouped * across),
            "shifted": each(shift_left(block, self.width, shift) * grouped * across),
            "shifts": each(shift * grouped * across),
            "blocks": Area(lut=block, ff=block) * (grouped * across),
            "across": dots.tree(across, self.width) * grouped,
            "accumulators": Area(lut=self.width, ff=self.width * self.turns) * grouped,
        }

    def _sizes(self) -> tuple[int, int, int, int]:
        return self.folding.pe, self.folding.simd, self.across, self.part


def _size(f: Folding) -> tuple[int, int]:
    return f.pe * f.simd, f.pe * _LUT_PER_ROW + f.simd * _LUT_PER_LANE
