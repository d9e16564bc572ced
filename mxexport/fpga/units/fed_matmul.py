"""The same product with weights that come through a port: loaded once, or streamed for every few vectors."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from mxexport.fpga.areas.area import Area, Parts, each, pays_in_ultra, ram, ultra
from mxexport.fpga.datapaths.stacked import turns_of
from mxexport.fpga.streams.words import bus_beats, on_bus
from mxexport.fpga.unit import Folding, Memory, Timing
from mxexport.fpga.units.matmul import MatMul


@dataclass(frozen=True, eq=False)
class FedMatMul(MatMul):
    """`bus`: bits of a beat of weights. `tile`: vectors that a load serves, a divisor of those of a frame; 0: all that
    come behind it. `ultra`: weights that are kept may lie in UltraRAM."""

    module = "mx_matmul_fed"
    memory_kinds = ()
    vectorwise = False
    lowers = ()

    bus: int = 128
    tile: int = 0
    ultra: bool = False

    @classmethod
    def of(cls, unit: MatMul, bus: int, tile: int, ultra: bool = False) -> FedMatMul:
        return cls(**{f.name: getattr(unit, f.name) for f in fields(MatMul)}, bus=bus, tile=tile, ultra=ultra)

    @property
    def loads(self) -> int:
        """Loads that a frame takes; 0: one load serves all frames."""
        return self.source.vectors // self.tile if self.tile else 0

    def load_beats(self, folding: Folding) -> int:
        """Beats of a load."""
        path = self._datapath(folding)
        kinds = [(path.places * path.turns, 8 * path.groups * path.across)]
        kinds.append((path.beats, folding.pe * folding.simd * path.stored_bits))
        if self._has_bias:
            kinds.append((path.turns, path.groups * self.width))
        return path.folds * sum(bus_beats(words, width, self.bus) for words, width in kinds)

    def load(self, folding: Folding, turn: int = 0) -> np.ndarray:
        """Beats of a load, uint8 [beats, bus/8]: of every fold its biases, scales and weights (mx_fed_words). `turn`:
        whose, where layers take turns."""
        found, folds = self._own_memories(turns_of(self)[turn], folding), self._datapath(folding).folds
        kinds = [found[kind] for kind in ("bias", "scale", "weight") if kind in found]
        parts = [on_bus(np.reshape(m.fields, (folds, -1, m.fields.shape[1])), m.width, self.bus) for m in kinds]
        return np.concatenate(parts, 1).reshape(-1, self.bus // 8)

    def comment(self, layer: str, folding: Folding) -> str:
        when = f"streamed for every {self.tile} of {self.source.vectors} vectors" if self.tile else "loaded once"
        return f"{super().comment(layer, folding)}, {when}"

    def parameters(self, folding: Folding) -> dict[str, int]:
        large = self.ultra and pays_in_ultra(*self._largest(folding))
        found = {name: n for name, n in super().parameters(folding).items() if name != "Layers"}
        return found | {"Bus": self.bus, "Tile": self.tile, "Ultra": int(large)}

    def _largest(self, folding: Folding) -> tuple[int, int]:
        """Words and bits of what may lie in UltraRAM: the weights, or the results that wait for their turn."""
        path = self._datapath(folding)
        if self.tile:
            return 2 * self.tile * path.folds, folding.pe * self.width
        return path.folds * path.beats, folding.pe * folding.simd * path.stored_bits

    def _held(self, folding: Folding) -> Area:
        words, width = self._largest(folding)
        return (ultra if self.ultra and pays_in_ultra(words, width) else ram)(words, width)

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """None: all comes through the port."""
        return {}

    def _late(self, folding: Folding) -> bool:
        """Whether weights from block RAM pass a register, before products in LUTs."""
        in_luts = not self._datapath(folding).takes_dsp
        return not self.tile and in_luts and ram(*self._largest(folding)).bram36 > 0

    def cycles(self, folding: Folding) -> int:
        """Those of the products, or of the beats that bring their weights."""
        return max(super().cycles(folding), self.loads * self.load_beats(folding))

    def timing(self, folding: Folding) -> Timing:
        """In tiles, results come once all of one are done, as they are read; in the mean as they are made."""
        plain, path = super().timing(folding), self._datapath(folding)
        cadence = max(plain.cadence, self.load_beats(folding) / self.tile if self.tile else 0)
        plain = replace(plain, cadence=cadence)
        if self.tile < 2 or path.folds == 1:
            return plain
        own = path.latency(late=False) - (path.folds - 1) * path.beats
        whole = (np.arange(self.source.vectors) // self.tile + 1) * self.tile - 1
        passes = (path.folds - 1) * self.tile * path.beats
        return Timing(whole, cadence, passes + own + path.folds + 2, tile=self.tile, within=path.folds)

    def parts(self, folding: Folding) -> Parts:
        """Counted as mx_matmul_fed builds it."""
        path = self._datapath(folding)
        found = {k: p for k, p in super().parts(folding).items() if k not in ("weights", "scales", "late", "replayed")}
        width, scale_bits = folding.pe * folding.simd * path.stored_bits, path.groups * path.across * path.scale_bits
        scales, turns = path.places * path.turns, path.turns
        bias_bits = path.groups * self.width * bool(self._has_bias)
        if self.tile:
            held = ram(2 * path.beats, width) if self.tile > 1 else Area()
            found |= {"held": held, "scales": _queue(scales, scale_bits, self.tile)}
            if bias_bits:
                found["biases"] = _queue(turns, bias_bits, self.tile)
            if self.tile > 1 and path.folds > 1:
                found["ordered"] = self._held(folding)
                found["order"] = each(40)
        else:
            found |= {"held": self._held(folding), "scales": ram(path.folds * scales, scale_bits)}
            if bias_bits:
                found["biases"] = ram(path.folds * turns, bias_bits)
            late = width + folding.simd * self.source.element.bits
            found["late"] = Area(ff=late * self._late(folding))
        if path.folds > 1:
            beat = path.across * path.scale_bits + folding.simd * self.source.element.bits
            found["replayed"] = ram(2 * max(self.tile, 1) * path.beats, beat)
        gears = [width, 8 * path.groups * path.across, *[bias_bits] * bool(bias_bits)]
        return found | {
            "bus": each(self.bus),
            "gears": each(sum(-(-g // self.bus) * self.bus if g >= self.bus else self.bus // g * g for g in gears)),
            "fed": each(60),
        }


def _queue(words: int, width: int, times: int) -> Area:
    """mx_fed_queue: a FIFO where words are wanted once, else a replay buffer."""
    return ram(2 << (words - 1).bit_length() if times == 1 else 2 * words, width)
