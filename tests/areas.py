"""What every hardware unit takes by Yosys: measured here, kept in data/areas.json, held by test_areas.py.

python -m tests.areas    measures all of it again (two minutes a core for ten units) and writes the table
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import tempfile
from pathlib import Path

from mxexport.fpga import library
from mxexport.fpga.tools import yosys
from mxexport.fpga.unit import Folding, Unit
from tests.test_hardware_units import CASES, folding_of, written

TABLE = Path(__file__).parent / "data" / "areas.json"
LESS_IS_BETTER = ("lut", "ff", "dsp", "bram36", "cycles", "latency")
_ALIKE = ("window-mxfp", "window-int", "window-uint", "insert-mxfp")  # of several formats, one says enough
_LARGE = re.compile("matmul-.*-blocks|depthwise-.*-(four|3x3|stride|dilation)")
"""Hundreds of products at once: Yosys takes minutes and gigabytes, and smaller ones have the same parts."""
_TOLD = ("int8", "e4m3", "e5m2")


def gated() -> list[str]:
    """Units of the table, each at a folding in the middle of those of the tests."""
    short = [name for name in CASES if name.endswith("-short") and not any(f in name for f in _TOLD)]
    static = [name for name in CASES if "static" in name and not name.endswith(("118", "90", "blocks"))]
    left_out = {*short, *static, *(name for name in CASES if _LARGE.fullmatch(name))}
    return [name for name in CASES if name not in left_out and not name.startswith(_ALIKE)]


def synthesized(unit: Unit, folding: Folding) -> yosys.SynthResult:
    with tempfile.TemporaryDirectory() as directory:
        parameters = written(unit, folding, Path(directory))
        return yosys.synthesize(unit.module, library.rtl_sources(), parameters, memory_dir=Path(directory))


def measure(name: str) -> dict[str, float]:
    """Area and longest path by Yosys, cycles a frame and latency by the timing model."""
    unit, foldings = CASES[name]
    folding = folding_of(foldings[len(foldings) // 2])
    found = synthesized(unit, folding)
    return {
        "lut": found.total_lut,
        "ff": found.ff,
        "dsp": found.dsp,
        "bram36": found.bram36 + found.bram18 / 2,
        "fmax_mhz": found.fmax_mhz,
        "cycles": unit.cycles(folding),
        "latency": unit.timing(folding).latency,
        "path": str(found.path),
    }


def worse(found: dict, kept: dict) -> list[str]:
    """In words, where `found` is worse than the table by more than 2% and one."""
    more = [
        f"{key} {found[key]:g} instead of {kept[key]:g}" for key in LESS_IS_BETTER if found[key] > 1.02 * kept[key] + 1
    ]
    slower = found["fmax_mhz"] < 0.98 * kept["fmax_mhz"]
    return more + [f"{found['fmax_mhz']:g} MHz instead of {kept['fmax_mhz']:g}: {found['path']}"] * slower


def main() -> None:
    with multiprocessing.Pool(os.cpu_count()) as pool:
        found = {}
        for name, numbers in zip(gated(), pool.imap(measure, gated()), strict=True):
            print(f"{name}: {numbers['lut']} LUT, {numbers['fmax_mhz']:g} MHz, {numbers['path']}", flush=True)
            found[name] = numbers
    TABLE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
