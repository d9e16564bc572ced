"""What Yosys makes of every unit computes what the unit computes: netlists of LUTs, carry chains, DSP slices and
distributed RAM, simulated against the golden model. Cells are Yosys' own models; DSP slices are data/dsp48e2.v, and the
DSP58 that stands beside the RTL.

Block RAMs have no open model for UltraScale+: memories are mapped to LUTs here (-nobram).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mxexport.fpga import library
from mxexport.fpga.tools import yosys
from tests.areas import gated
from tests.helpers import FULL
from tests.test_hardware_units import CASES, arrays_of, build, folding_of, golden, pack, written

QUICK = ["matmul-mxint8-short", "quantize-mxfp8_e4m3", "affine-image"]
CELLS = Path(__file__).parent / "data" / "dsp48e2.v"
WRITTEN_BY_YOSYS = "".join(
    f"/* verilator lint_off {w} */\n" for w in ("WIDTH", "PROCASSINIT", "UNDRIVEN", "UNUSED", "UNOPTFLAT")
)


def netlist(module: str, parameters: dict, directory: Path) -> Path:
    """Synthesized for UltraScale+, every cell replaced by its model."""
    mapped, modelled = directory / "mapped.v", directory / "modelled.v"
    reading = yosys.reading(module, library.rtl_sources(), parameters)
    write = ["write_verilog", "-noattr", str(mapped)]
    plain = [["setattr", "-unset", style] for style in ("ram_style", "rom_style")]  # which would ask for block RAM
    yosys.run([*reading, *plain, [*yosys.SYNTH, "-nobram"], *yosys.FLATTEN, write], module, directory)
    models = [["read_verilog", "-D", "ICARUS", "+/xilinx/cells_sim.v"], ["read_verilog", str(CELLS)]]
    models += [["read_verilog", "-defer", "-sv", str(p)] for p in library.primitives() if p.stem == "DSP58"]
    plain = [["hierarchy", "-top", module], ["proc"], ["flatten"], ["opt_clean"]]
    write = ["write_verilog", "-noattr", str(modelled)]
    yosys.run([["read_verilog", str(mapped)], *models, *plain, write], module)
    modelled.write_text(WRITTEN_BY_YOSYS + modelled.read_text())
    return modelled


@pytest.mark.parametrize("name", gated() if FULL else QUICK)
def test_the_netlist_equals_the_reference_under_stalls(name, tmp_path):
    unit, foldings = CASES[name]
    folding, frames = folding_of(foldings[len(foldings) // 2]), 3
    made = netlist(unit.module, written(unit, folding, tmp_path), tmp_path)
    simulator, rng = build(unit, folding, tmp_path, made), np.random.default_rng(0)
    arrays = [a for source in unit.sources for a in arrays_of(source, rng, frames)]
    lanes_in, lanes_out = unit.lanes(folding)
    beats, last = pack(unit, arrays, lanes_in)
    count = unit.result.beats(lanes_out)
    run = simulator.run(beats, frames * count, last=last, stall_in=0.4, stall_out=0.4, seed=1)
    found = unit.result.unpack(run.beats, lanes_out)
    for got, wanted in zip(found if isinstance(found, tuple) else (found,), golden(unit, arrays), strict=True):
        np.testing.assert_array_equal(got, wanted)
