"""The RTL is clean by slang and verible, as by Verilator (tests/helpers.py, in every simulation) and Yosys' read_slang.

Every warning that is waived, with its reason, stands here; those of Verilator in mxexport/fpga/tools/verilator.py.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pyslang
import pytest

from mxexport.fpga import library
from mxexport.fpga.units.fed_matmul import FedMatMul
from tests.areas import gated
from tests.test_fed_matmul import CASES as FED
from tests.test_hardware_units import CASES, folding_of, matmul, written

SLANG = ("-Wdefault", "-Wextra", "-Wpedantic", "-Wno-useless-cast")
"""Casts to widths that are parameters cast to the same width for some of them."""
VERIBLE = ("line-length=length:120", "-explicit-parameter-storage-type")
"""Lines as in Python. Names of memory styles have no type: tools do not agree on attributes of type string."""


def linted() -> dict[str, tuple]:
    """Units at a folding in the middle, and those whose weights come through a port."""
    found = {name: (unit, folding_of(f[len(f) // 2])) for name, (unit, f) in CASES.items() if name in gated()}
    for name in ("e2m1", "int8 in pairs"):
        source, weight, rows, folding, bus = FED[name]
        for tile in (0, 1, 2):
            found[f"fed {name} {tile}"] = FedMatMul.of(matmul(source, weight, rows), bus, tile), folding
    return found


LINTED = linted()


@pytest.mark.parametrize("name", LINTED)
def test_slang_has_nothing_to_say(name, tmp_path, monkeypatch, capfd):
    unit, folding = LINTED[name]
    parameters = written(unit, folding, tmp_path)
    monkeypatch.chdir(tmp_path)  # where $readmemh looks
    generics = [
        f'-G{key}="{value}"' if isinstance(value, str) else f"-G{key}={value}" for key, value in parameters.items()
    ]
    driver = pyslang.driver.Driver()
    driver.addStandardArgs()
    quoted = (g.replace('"', '\\"') for g in generics)
    words = ["slang", *SLANG, "--top", unit.module, *quoted, *map(str, library.rtl_sources())]
    assert driver.parseCommandLine(" ".join(words)) and driver.processOptions() and driver.parseAllSources()
    compilation = driver.createCompilation()
    driver.reportCompilation(compilation, True)
    fine = driver.reportDiagnostics(True)
    said = "".join(capfd.readouterr())
    assert fine and "warning" not in said, said


def test_verible_has_nothing_to_say():
    tool = shutil.which("verible-verilog-lint", path=str(Path(sys.executable).parent)) or "verible-verilog-lint"
    files = map(str, library.rtl_sources())
    done = subprocess.run([tool, f"--rules={','.join(VERIBLE)}", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
