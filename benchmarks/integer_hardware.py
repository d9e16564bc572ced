"""What published integer-only softmaxes, norms and GELUs take in hardware, beside ours, in the same flow.

    python benchmarks/integer_hardware.py

One lane of each: a value a cycle in and out, AXI4-Streams that may stall, rows of 128 of the 20 bits that
integer_designs.py gives to all. What others compute is plain SystemVerilog of benchmarks/integer_designs, written anew
on the FIFOs, the maximum and the division that ours have; a row waits in RAM as often as its algorithm has to see it
before. Counted is everything between the streams, also what makes 8 bits of 20 (ITA, the norm of SOLE). Ours has the
gain and offset of its norm, of ones and zeros, theirs have none; nobody has what would round products that are put out
in full length. Each is simulated and compared with its Python definition, value by value, then goes through Yosys
(`mxexport.fpga.tools.yosys`) and our static timing. Writes the table of docs/hardware.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import write
from integer_designs import DOCUMENT, LENGTH, SOLE_ROOTS, SPREADS, WIDTH, Design, designs, our_unit, quality, rows

from mxexport.errors import MXExportError
from mxexport.fpga.library import in_order, rtl_sources
from mxexport.fpga.streams.words import pack_lanes, unpack_lanes, write_mem
from mxexport.fpga.tools import verilator
from mxexport.fpga.tools.yosys import SynthResult, synthesize
from mxexport.fpga.unit import Folding, parameters_of

SOURCES = Path(__file__).parent / "integer_designs"
MARKER = "integer-hardware"
SPREAD = SPREADS[1]


def sources(design: Design) -> list[Path]:
    """Of ours: the library; of others: theirs, too."""
    ours = rtl_sources()
    return ours if any(path.stem == design.module for path in ours) else [*ours, *sorted(SOURCES.glob("*.sv"))]


def parameters(kind: str, name: str, design: Design, directory: Path) -> dict[str, int | str]:
    if name != "ours":
        length = {"K": LENGTH} if kind != "GELU" else {}
        tables = {"RootsFile": "roots.mem"} if design.module == "sole_norm" else {}
        write_mem(directory / "roots.mem", np.array(SOLE_ROOTS)[:, None], 8)
        return {"Width": WIDTH, **length, **design.parameters, **tables}
    unit, folding = our_unit(kind), Folding(1, 1)
    for memory_kind, memory in unit.memories(folding).items():
        write_mem(directory / f"{memory_kind}.mem", memory.fields, memory.width)
    files = {memory_kind: f"{memory_kind}.mem" for memory_kind in unit.memory_kinds}
    return in_order(unit.module, parameters_of(unit, folding, files))


def simulated(kind: str, name: str, design: Design, q: np.ndarray, stall: float = 0.0) -> tuple[np.ndarray, int]:
    """Integers that the module puts out for rows `q`, and cycles from the last value of a row to that of the next."""
    with tempfile.TemporaryDirectory() as directory:
        given = parameters(kind, name, design, Path(directory))
        simulator = verilator.build(design.module, sources(design), given, memory_dir=Path(directory), quick=True)
        beats = pack_lanes(q.reshape(-1, 1), WIDTH)
        done = simulator.run(beats, q.size, last=q.shape[-1], stall_in=stall, stall_out=stall)
    if done.surplus:
        raise MXExportError(f"{design.module} put out {done.surplus} values more than the {q.size} that it was given")
    ends = done.out_cycles[q.shape[-1] - 1 :: q.shape[-1]]
    found = unpack_lanes(done.beats, 1, design.bits, signed=design.signed)
    return found.reshape(q.shape), int(np.diff(ends).max())


def compared(kind: str, name: str, design: Design, q: np.ndarray, stall: float = 0.0) -> int:
    """Cycles a row.

    Raises:
        MXExportError: the module and its definition differ.
    """
    found, cycles = simulated(kind, name, design, q, stall)
    wanted = design.compute(q)
    if (found != wanted).any():
        row, place = np.argwhere(found != wanted)[0]
        raise MXExportError(
            f"{design.module} differs from its definition in {(found != wanted).sum()} of {q.size} values, first in "
            f"row {row}, place {place}: {found[row, place]} instead of {wanted[row, place]}"
        )
    return cycles


def area(kind: str, name: str, design: Design) -> SynthResult:
    with tempfile.TemporaryDirectory() as directory:
        given = parameters(kind, name, design, Path(directory))
        return synthesize(design.module, sources(design), given, memory_dir=Path(directory))


def table() -> str:
    head = ["", "LUT", "FF", "DSP", "BRAM36", "MHz", "cycles a row", *(f"dB, spread {s:g}" for s in SPREADS)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    heard, q = quality(), np.concatenate([rows(spread, 8) for spread in SPREADS])
    for kind, (_, named) in designs(SPREAD).items():
        for name, design in named.items():
            cycles, found = compared(kind, name, design, q), area(kind, name, design)
            cells = [f"{found.total_lut:,}", f"{found.ff:,}", found.dsp, f"{found.bram36 + found.bram18 / 2:g}"]
            cells += [f"{found.fmax_mhz:.0f}", cycles, *(f"{value:.1f}" for value in heard[kind, name])]
            lines.append(f"| {kind}: {name} | " + " | ".join(map(str, cells)) + " |")
            print(lines[-1], found.path, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    text = table()
    print(text)
    write(text, DOCUMENT, (f"<!-- {MARKER} -->", f"<!-- /{MARKER} -->"))
