"""The encoder of `encoder.py` as hardware: the RTL of all its units on recorded words, and what it takes on parts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np

import mxexport as mx
from mxexport.errors import OptionError
from mxexport.fpga import options
from mxexport.fpga.areas.area import total
from mxexport.fpga.areas.devices import clock_limit, makes_threes, resources
from mxexport.fpga.checking import alone
from mxexport.fpga.folding import budgets
from mxexport.fpga.network import Network
from mxexport.fpga.reports.report import estimate
from mxexport.fpga.scheduling import memory
from mxexport.fpga.scheduling.timing import cycles_per_unit, latency
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding
from mxexport.fpga.writing import emit

_SHARES = (0.7, 0.8, 0.9)
"""Of a part that the fastest design may take, the first in which there is one: the fuller, the harder to route."""


def simulated(design: mx.Design, given: Mapping[str, np.ndarray], say) -> dict:
    """Every unit of every layer alone: without stalls, so that cycles are measured, and the last frame under random
    ones. Rows of kinds as plain data."""
    found = design.simulate_units(given, progress=say)
    return {
        "kinds": [asdict(kind) for kind in alone.kinds(found)],
        "builds": len({run.build for run in found.values()}),
        "not as claimed": [name for name, run in found.items() if not run.as_claimed],
        "stalled": stalled(design, {name: array[-1:] for name, array in given.items()}, say),
    }


def stalled(design: mx.Design, given: Mapping[str, np.ndarray], say) -> dict:
    """Words compared under random stalls on both sides, and units that differ."""
    found = design.simulate_units(given, stall_in=0.2, stall_out=0.3, progress=say)
    unequal = {name: run.difference for name, run in found.items() if run.difference is not None}
    return {"words": sum(run.words for run in found.values()), "unequal": unequal}


def units_table(pairs: Mapping[str, dict]) -> str:
    """One row for every operator; `pairs`: formats -> what `simulated` gave."""
    rows = [
        "| unit | " + " | ".join(f"{pair}: units; simulators; words" for pair in pairs) + " | cycles a frame |",
        "|---" * (len(pairs) + 2) + "|",
    ]
    operators = dict.fromkeys(kind["kind"].split()[0] for found in pairs.values() for kind in found["kinds"])
    for operator in operators:
        cells, cycles = [], []
        for found in pairs.values():
            kinds = [kind for kind in found["kinds"] if kind["kind"].split()[0] == operator]
            counts = [sum(kind[key] for kind in kinds) for key in ("instances", "builds", "words")]
            unequal = sum(len(kind["unequal"]) for kind in kinds)
            text = "; ".join(f"{n:,}" for n in counts) + (f"; {unequal} differ" if unequal else "")
            cells.append(text if kinds else "none")
            cycles += [_cycles(kind) for kind in kinds]
        rows.append(f"| `{operator}` | {' | '.join(cells)} | {', '.join(dict.fromkeys(cycles))} |")
    under = [found["stalled"] for found in pairs.values()]
    texts = [f"{s['words']:,}" + (f"; {len(s['unequal'])} differ" if s["unequal"] else "") for s in under]
    rows.append(f"| all, the longest sentence under stalls | {' | '.join(texts)} | |")
    return "\n".join(rows)


def _cycles(kind: dict) -> str:
    """Measured, and those of the model where they are others."""
    measured, claimed = kind["cycles"], kind["claimed"]
    return f"{measured:,}" + (f" ({claimed:,} claimed)" if measured != claimed else "")


def plans(network: Network, chosen: Mapping[str, Folding], parts: list[str], clock_mhz: float) -> list[dict]:
    """For each part the folding chosen, with weights in the bitstream and sent once, and where the first fits the
    fastest folding within a share of the part."""
    found = []
    for part in parts:
        clock = min(clock_mhz, clock_limit(part) or clock_mhz)
        rom, load = (_placed(network, kind, part) for kind in ("rom", "load"))
        own = _of_slices(chosen, part)
        found.append(_planned(rom, own, part, clock) | {"weights": "rom", "folding": _CHOSEN})
        found.append(_planned(load, own, part, clock) | {"weights": "load", "folding": _CHOSEN})
        for share, fastest in [] if found[-2]["over"] else _fastest(rom, part):
            words = f"fastest within {share:.0%}"
            found.append(_planned(rom, fastest, part, clock) | {"weights": "rom", "folding": words})
    small, bus = _STREAMED
    streamed, own = _placed(network, "stream", small, 1, bus), _of_slices(chosen, small)
    found.append(_planned(streamed, own, small, clock_mhz) | {"weights": f"stream:1, {bus} bits", "folding": _CHOSEN})
    return found


_STREAMED = "xczu7ev", 512
"""A part that holds no such encoder's weights, and the bits of its memory's bus: those of DDR4 on the logic's side."""


_CHOSEN = "64 MACs a cycle in the largest layer"


def plans_in_turn(network: Network, parts: list[str], clock_mhz: float) -> list[dict]:
    """For each part, and buses of both widths, weights streamed in tiles that are chosen: the fastest folding within a
    share of the part. `network`: its layers take turns."""
    found = []
    for part in parts:
        for bus in (memory.BUS, _STREAMED[1]):
            placed = _placed(network, "stream", part, bus=bus)
            for share, fastest in _fastest(placed, part):
                words = f"fastest within {share:.0%}"
                found.append(_planned(placed, fastest, part, clock_mhz))
                found[-1] |= {"weights": f"stream, {bus} bits", "folding": words}
    return found


def _of_slices(chosen: Mapping[str, Folding], part: str) -> dict[str, Folding]:
    """Without products in threes where the part's slices make none."""
    return dict(chosen) if makes_threes(part) else {name: replace(f, threes=0) for name, f in chosen.items()}


def _placed(network: Network, kind: str, part: str, tile: int = 0, bus: int = memory.BUS) -> Network:
    """All weights at a place, on a part."""
    return memory.placed(network, memory.choose(network, memory.Place(kind, tile)), bus, part)


def _fastest(network: Network, part: str) -> list[tuple[float, dict[str, Folding]]]:
    """The share of a part that is enough, and the fastest folding within it; none where no share is."""
    kinds = options.kinds("auto", part)
    for share in _SHARES:
        with contextlib.suppress(OptionError):  # the smallest design needs more
            return [(share, budgets.fold_within(network, None, resources(part) * share, kinds=kinds))]
    return []


def _planned(network: Network, foldings: Mapping[str, Folding], part: str, clock_mhz: float) -> dict:
    """`memories`: what block RAM holds -> BRAM36; `over`: what it needs more of than the part has, in words."""
    placed, held = emit.place(network, foldings), resources(part)
    areas, memories = estimate(placed), dict.fromkeys((*_USES.values(), _REST), 0.0)
    area = total(areas.values())
    for cell in placed.cells:
        memories[_USES.get(cell.module, _REST)] += areas[cell.name].bram36
    cycles = max(cycles_per_unit(network, foldings).values())
    return {
        "part": part, "area": area.table(), "held": held.table(), "memories": memories, "over": area.beyond(held),
        "fps": clock_mhz * 1e6 / cycles, "latency_ms": latency(network, foldings) / clock_mhz / 1e3,
    }  # fmt: skip


_USES = {
    "mx_matmul": "weights",
    "mx_matmul_fed": "weights",
    "mx_product": "K, V",
    "mx_quantize_tokens": "V before",
    "mx_fifo": "FIFOs",
}
"""What block RAM is for, by module."""
_REST = "rest"


def plan_table(pairs: Mapping[str, list[dict]]) -> str:
    """`pairs`: formats -> what `plans` gave."""
    uses = dict.fromkeys((*_USES.values(), _REST))
    rows = [
        f"| formats | part | weights | folding | LUT | DSP | URAM | BRAM36 | of them {'; '.join(uses)} | frames/s "
        "| latency | |",
        "|---" * 12 + "|",
    ]
    for pair, p in ((pair, p) for pair, found in pairs.items() for p in found):
        held = "; ".join(f"{p['memories'][use]:,.0f}" for use in uses)
        needed = [(p["area"][kind], p["held"][kind]) for kind in ("lut", "dsp", "uram", "bram36")]
        shares = " | ".join(f"{n:,.0f} ({n / there:.0%})" for n, there in needed)
        fits = f"does not fit: {p['over']}" if p["over"] else "fits"
        rows.append(
            f"| {pair} | {p['part']} | {p['weights']} | {p['folding']} | {shares} | {held} | {p['fps']:,.0f} "
            f"| {p['latency_ms']:.1f} ms | {fits} |"
        )
    return "\n".join(rows)


def weight_bits(network: Network) -> float:
    """Mbit of codes and scales."""
    weights = [i.unit.weight for i in network.instances if hasattr(i.unit, "weight")]
    return sum(w.codes.size * w.format.element.bits + 8 * w.scale_codes.size for w in weights) / 1e6


def widest(network: Network) -> int:
    """Bits of the widest stream of integers."""
    return max(kind.width for kind in network.streams.values() if isinstance(kind, Wide))
