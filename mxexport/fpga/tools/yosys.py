"""Yosys estimate of one unit, out of context (no vendor tool, no place and route), and its longest path (`sta`).

Yosys (`pyosys`) runs in a child process. Results are cached by the hash of sources, parameters, memory contents and
tool version.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from mxexport.cache import cached, digest
from mxexport.errors import MissingToolError, MXExportError
from mxexport.fpga.library import primitives
from mxexport.fpga.tools import sta
from mxexport.fpga.tools.verilator import parameter_text

DEFINES = ("-D", "MX_DSP48E2=1", "-D", "MX_DSP58=1", "-D", "MX_LUT6_2=1", "-D", "BLACKBOX=1")
"""DSP slices and adders as cells: Yosys puts no sums and cascades into slices by itself and finds no adders of three
words, as the vendor's tools do."""
READ = ("read_slang", "--no-implicit-memories", "--keep-hierarchy")
"""The hierarchy stays until `-flatten`, which heeds keep_hierarchy."""
SYNTH = ("synth_xilinx", "-family", "xcup", "-flatten", "-noiopad", "-noclkbuf")
FLATTEN = (["setattr", "-mod", "-unset", "keep_hierarchy"], ["setattr", "-unset", "keep_hierarchy"], ["flatten"])
# LUTs behind one distributed RAM cell, by the start of its name.
_LUTRAM = {"RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "RAM": 2}
_CHILD = """
import json, sys
from pyosys import libyosys
design = libyosys.Design()
for command in json.load(sys.stdin):
    libyosys.Pass.call(design, command)
"""


@dataclass(frozen=True)
class SynthResult:
    """Yosys estimate: cells of one unit for UltraScale+."""

    lut: int  # LUTs as logic
    lutram: int  # LUTs as distributed RAM
    srl: int  # LUTs as shift registers
    ff: int
    carry: int  # carry cells of four bits; one of eight counts as two
    dsp: int
    bram18: int
    bram36: int
    uram: int
    lc: int  # Yosys's own estimate of logic cells (packed LUTs, a LUT6_2 is one), without memories and shift registers
    seconds: float
    path: sta.Path  # the longest, by the delays of `sta` for UltraScale+
    series_7_mhz: float  # what the longest path by those of 7 series allows

    @property
    def fmax_mhz(self) -> float:
        return self.path.fmax_mhz

    @property
    def total_lut(self) -> int:
        return self.lut + self.lutram + self.srl

    def __mul__(self, copies: int) -> SynthResult:
        """Of so many copies, synthesized once."""
        counted = {f.name: getattr(self, f.name) * copies for f in fields(self) if f.type == "int"}
        return replace(self, **counted)


def synthesize(
    top: str,
    sources: Sequence[Path],
    parameters: Mapping[str, object] | None = None,
    *,
    memory_dir: Path | None = None,
) -> SynthResult:
    """Yosys estimate of module `top`; `memory_dir` holds the `$readmemh` files it names.

    Raises:
        MissingToolError: pyosys is not installed.
        MXExportError: Yosys refused the design; the message ends with its log.
    """
    if importlib.util.find_spec("pyosys") is None:
        raise MissingToolError("the Yosys estimate needs pyosys: pip install 'mxexport[fpga]'")
    parameters, sources = dict(parameters or {}), _reached(top, sources)
    key = digest(
        [
            importlib.metadata.version("pyosys"),
            Path(sta.__file__).read_bytes(),
            *READ,
            *SYNTH,
            *DEFINES,
            top,
            *(part for name in sorted(parameters) for part in (name, _content(parameters[name], memory_dir))),
            *(path.read_bytes() for path in sorted(Path(memory_dir).glob("*.mem*") if memory_dir else [])),
            *(Path(source).read_bytes() for source in sources),
        ]
    )

    def make(directory: Path) -> None:
        start = time.monotonic()
        cells, lc = _run_yosys(top, sources, parameters, memory_dir, directory)
        seconds = time.monotonic() - start
        netlist = directory / "netlist.json"
        parsed = json.loads(netlist.read_text())
        paths = [sta.longest_path(parsed, delays) for delays in (sta.ULTRASCALE_PLUS, sta.SERIES_7)]
        netlist.unlink()
        (directory / "result.json").write_text(json.dumps(asdict(_count(cells, lc, seconds, *paths))))

    found = json.loads((cached("synthesis", key, make) / "result.json").read_text())
    return SynthResult(**found | {"path": sta.Path(**found["path"])})


def _reached(top: str, sources: Sequence[Path]) -> list[Path]:
    """The sources that `top` is made of, in their order: files named like the modules and packages that they name."""
    texts = {Path(source).stem: re.sub("//.*", "", Path(source).read_text()) for source in sources}
    if top not in texts:
        return [Path(source) for source in sources]
    found, left = set(), [top]
    while left:
        name = left.pop()
        if name in texts and name not in found:
            found.add(name)
            left += set(re.findall(r"\w+", texts[name])) & texts.keys()
    return [Path(source) for source in sources if Path(source).stem in found]


def _content(value: object, memory_dir: Path | None) -> str | bytes:
    """The content of the memory file that a parameter names (where it lies does not matter), or its text."""
    if isinstance(value, str) and value and (path := Path(memory_dir or ".") / value).is_file():
        return path.read_bytes()
    return parameter_text(value)


def _run_yosys(
    top: str, sources: Sequence[Path], parameters: Mapping[str, object], memory_dir: Path | None, directory: Path
) -> tuple[dict[str, int], int]:
    report = directory / "stat.json"
    commands = [
        *reading(top, sources, parameters),
        SYNTH,
        ["tee", "-q", "-o", str(report), "stat", "-json", "-tech", "xilinx"],
        *FLATTEN,
        ["write_json", str(directory / "netlist.json")],
    ]
    run(commands, top, memory_dir)
    text = report.read_text()
    design = json.loads(text[text.index("{") :])["design"]
    return design["num_cells_by_type"], design["estimated_num_lc"]


def run(commands: Sequence[Sequence[str]], what: str, memory_dir: Path | None = None) -> None:
    """Yosys on such commands; `$readmemh` looks in `memory_dir`. Raises MXExportError, with the end of its log."""
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=json.dumps(commands),
            cwd=memory_dir or empty,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise MXExportError(f"Yosys failed on {what!r}:\n{(done.stdout + done.stderr)[-3000:]}")


def reading(
    top: str, sources: Sequence[Path], parameters: Mapping[str, object], defines: Sequence[str] = DEFINES
) -> list[list[str]]:
    """Commands that read module `top` and what it is made of; primitives stay empty boxes."""
    generics = [part for name, value in parameters.items() for part in ("-G", f"{name}={parameter_text(value)}")]
    files = _paths([*_reached(top, sources), *primitives()])
    # Implicit memories give wrong netlists; ours carry ram_style or rom_style.
    read = [[*READ, *defines, "--top", top, *generics, *files], ["hierarchy", "-check", "-top", top]]
    return [*read, *(_with_parameters("DSP58") if "MX_DSP58=1" in defines else [])]


def _with_parameters(cell: str) -> list[list[str]]:
    """A box of such a cell that takes them: Yosys has no model of it, and boxes that read_slang leaves take none."""
    (box,) = (path for path in primitives() if path.stem == cell)
    return [["delete", cell], ["read_verilog", "-sv", "-lib", "-D", "BLACKBOX=1", str(box)]]


def _paths(files: Sequence[Path]) -> list[str]:
    return [str(Path(file).resolve()) for file in files]


def _count(cells: dict[str, int], lc: int, seconds: float, path: sta.Path, series_7: sta.Path) -> SynthResult:
    def named(*starts: str) -> int:
        return sum(count for cell, count in cells.items() if cell.startswith(starts))

    lutram = 0
    for cell, count in cells.items():
        if cell.startswith("RAM") and not cell.startswith("RAMB"):
            lutram += count * next(luts for start, luts in _LUTRAM.items() if cell.startswith(start))
    return SynthResult(
        lut=named("LUT", "INV"),
        lutram=lutram,
        srl=named("SRL"),
        ff=named("FD"),
        carry=named("CARRY4") + 2 * named("CARRY8"),
        dsp=named("DSP48", "DSP58"),
        bram18=named("RAMB18"),
        bram36=named("RAMB36"),
        uram=named("URAM"),
        lc=lc + named("LUT6_2"),
        seconds=round(seconds, 1),
        path=path,
        series_7_mhz=series_7.fmax_mhz,
    )
