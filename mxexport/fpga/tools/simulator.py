"""Runs a compiled top: feeds its streams, collects what comes out, watches streams inside. See `verilator.build`."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mxexport.errors import MXExportError

PATIENCE = 1_000_000
"""Cycles without any transfer that are a standstill, unless the design is known to take longer."""


class _Source(ctypes.Structure):
    """`struct Source` of harness.cpp."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("data", "last", "cycle")],
        ("count", ctypes.c_int64),
        ("stall", ctypes.c_double),
        ("taken", ctypes.c_int64),
    ]


class _Sink(ctypes.Structure):
    """`struct Sink` of harness.cpp."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("data", "last", "cycle")],
        ("count", ctypes.c_int64),
        ("stall", ctypes.c_double),
        *[(name, ctypes.c_int64) for name in ("received", "surplus")],
    ]


class _Monitor(ctypes.Structure):
    """`struct Monitor` of harness.cpp."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("capacity", "passed", "stalled")],
        *[(name, ctypes.c_uint8) for name in ("valid", "ready")],
    ]


class _Job(ctypes.Structure):
    """`struct Job` of harness.cpp."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("sources", "sinks", "monitors")],
        ("seed", ctypes.c_uint64),
        *[(name, ctypes.c_int64) for name in ("timeout", "drain", "reset_at", "ready_after_valid")],
        ("trace", ctypes.c_char_p),
        ("status", ctypes.c_void_p),
        ("memory", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("memory_base", "memory_size", "memory_delay")],
        ("memory_stall", ctypes.c_double),
        ("cycles", ctypes.c_int64),
    ]


@dataclass(frozen=True)
class Feed:
    """What goes into one stream: beats uint8 [n, bytes], probability of a pause.

    `last`: TLAST of every beat (bool [n]), or the beats of a frame; None: only the last beat has it.
    """

    beats: np.ndarray
    last: np.ndarray | int | None
    stall: float = 0.0


@dataclass(frozen=True)
class Outside:
    """Memory that a top reads (m_axi): bytes from address `base` on; cycles from a question to the first beat of its
    answer, and the probability that either waits in a cycle."""

    data: np.ndarray
    base: int = 0x1_0000_0000
    delay: int = 30
    stall: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What passed a stream that was watched: beats uint8 [n, bytes]; `stalled` cycles in which one waited; and whether
    one was offered, and would have been taken, in the last cycle."""

    beats: np.ndarray
    passed: int
    stalled: int
    valid: bool
    ready: bool


class StandstillError(MXExportError):
    """No transfer any more; `seen`: the streams that were watched."""

    def __init__(self, message: str, seen: Mapping[str, Seen]):
        super().__init__(message)
        self.seen = dict(seen)


@dataclass(frozen=True)
class Collected:
    """One output stream: bytes, TLAST and cycle of every beat; `surplus` beats came after those expected."""

    beats: np.ndarray
    last: np.ndarray
    cycles: np.ndarray
    surplus: int


@dataclass(frozen=True)
class Streams:
    """What a run over any number of streams gave: input beats' cycles, outputs, watched streams, other outputs."""

    in_cycles: list[np.ndarray]
    outputs: list[Collected]
    seen: dict[str, Seen]
    status: dict[str, bytes]
    cycles: int

    @property
    def clamped(self) -> list[int]:
        """As of `SimResult`."""
        return _clamped(self.status)


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
        return _clamped(self.status)

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
    monitors: tuple[str, ...] = ()

    @cached_property
    def _ports(self) -> str:
        return (self.directory / "ports.h").read_text()

    def _line(self, name: str) -> str:
        return next(line for line in self._ports.splitlines() if line.startswith(f"#define {name}"))

    @property
    def in_bytes(self) -> int:
        """Of the first input."""
        return self.stream_bytes("SOURCES")[0]

    @property
    def out_bytes(self) -> int:
        """Of the first output."""
        return self.stream_bytes("SINKS")[0]

    def stream_bytes(self, kind: str) -> list[int]:
        """Bytes of a beat of all "SOURCES" or "SINKS"."""
        return [int(count) for count in re.findall(r"X\(\d+, \w+, (\d+), ", self._line(kind))]

    @property
    def status_bytes(self) -> dict[str, int]:
        """Names and bytes of the outputs that are not part of a stream."""
        return {name: int(count) for name, count in re.findall(r"X\((\w+), (\d+)\)", self._line("STATUS"))}

    def run(
        self,
        beats: np.ndarray,
        expected_beats: int,
        *,
        last: np.ndarray | int | None = None,
        stall_in: float = 0.0,
        stall_out: float = 0.0,
        **options,
    ) -> SimResult:
        """Send `beats` (uint8 [n, in_bytes]) and collect `expected_beats` output beats of a top with one stream each.

        Args:
            last: TLAST of every input beat, or the beats of a frame; None: only the last beat has it.
            stall_in, stall_out: probability that the source withholds valid, or the sink ready, in a cycle.
            options: those of `run_streams`.

        Raises:
            MXExportError: timeout, broken handshake, or a memory file that cannot be read.
        """
        run = self.run_streams([Feed(beats, last, stall_in)], [expected_beats], stall_out=stall_out, **options)
        (out,) = run.outputs
        return SimResult(
            beats=out.beats,
            last=out.last,
            cycles=int(out.cycles[-1]) + 1 if expected_beats else run.cycles,
            in_cycles=run.in_cycles[0],
            out_cycles=out.cycles,
            surplus=out.surplus,
            status=run.status,
        )

    def run_streams(
        self,
        feeds: Sequence[Feed],
        expected: Sequence[int],
        *,
        stall_out: float = 0.0,
        seed: int = 1,
        timeout: int = PATIENCE,
        drain: int = 64,
        reset_at: int = -1,
        ready_after_valid: bool = False,
        trace: Path | None = None,
        watch: Mapping[str, int] | None = None,
        memory: Outside | None = None,
    ) -> Streams:
        """Feed every input and collect the `expected` beats of every output, in the order of the ports.

        Args:
            timeout: give up after so many cycles without any transfer.
            drain: cycles to go on afterwards, to see whether surplus beats come.
            reset_at: reset in that cycle, and then send everything anew; negative: never.
            ready_after_valid: outputs are taken only a cycle after they are offered, as AXI allows.
            trace: a VCD file to write, of a model built with `trace`.
            watch: beats to keep of watched streams, by name.
            memory: what m_axi reads, of a top that has it.

        Raises:
            StandstillError: no transfer for `timeout` cycles.
            MXExportError: broken handshake, a memory file that cannot be read, beats that do not fit.
        """
        sizes = [self.stream_bytes(kind) for kind in ("SOURCES", "SINKS")]
        if [len(feeds), len(expected)] != [len(s) for s in sizes]:
            raise MXExportError(f"{len(feeds)} inputs and {len(expected)} outputs; the top has {[*map(len, sizes)]}")
        feeds = [
            Feed(np.ascontiguousarray(f.beats, np.uint8), _last_flags(f.last, len(f.beats)), f.stall) for f in feeds
        ]
        for feed, size in zip(feeds, sizes[0], strict=True):
            if feed.beats.ndim != 2 or feed.beats.shape[1] != size:
                raise MXExportError(f"input beats have shape {feed.beats.shape}; expected [n, {size}] bytes")
        taken = [np.zeros(len(feed.beats), np.int64) for feed in feeds]
        outputs = [
            (np.zeros((count, size), np.uint8), np.zeros(count, np.uint8), np.zeros(count, np.int64))
            for count, size in zip(expected, sizes[1], strict=True)
        ]
        watched = [int(n) for n in re.findall(r", (\d+)\)", self._line("MONITORS"))]
        kept = [
            np.zeros(((watch or {}).get(name, 0), size), np.uint8)
            for name, size in zip(self.monitors, watched, strict=True)
        ]
        status = np.zeros(sum(self.status_bytes.values()) + 1, np.uint8)
        sources = [
            _Source(f.beats.ctypes.data, f.last.ctypes.data, cycle.ctypes.data, len(cycle), f.stall)
            for f, cycle in zip(feeds, taken, strict=True)
        ]
        sinks = [_Sink(*(a.ctypes.data for a in arrays), len(arrays[0]), stall_out) for arrays in outputs]
        spies = [_Monitor(array.ctypes.data, len(array)) for array in kept]
        arrays = [
            (kind * max(len(all_), 1))(*all_) for kind, all_ in ((_Source, sources), (_Sink, sinks), (_Monitor, spies))
        ]
        memory = Outside(np.zeros(0, np.uint8)) if memory is None else memory
        image = np.ascontiguousarray(memory.data, np.uint8)
        job = _Job(
            *(ctypes.addressof(array) for array in arrays),
            seed=seed,
            timeout=timeout,
            drain=drain,
            reset_at=reset_at,
            ready_after_valid=ready_after_valid,
            trace=None if trace is None else os.fsencode(trace),
            status=status.ctypes.data,
            memory=image.ctypes.data,
            memory_base=memory.base,
            memory_size=image.size,
            memory_delay=memory.delay,
            memory_stall=memory.stall,
        )
        returned, message = self._execute(job, seed)
        sources, sinks, spies = (list(array) for array in arrays)
        seen = {
            name: Seen(array[: spy.passed], spy.passed, spy.stalled, bool(spy.valid), bool(spy.ready))
            for name, array, spy in zip(self.monitors, kept, spies, strict=False)
        }
        _check_outcome(returned, message, sources, sinks[: len(expected)], timeout, seen)
        return Streams(
            [cycle[: s.taken] for cycle, s in zip(taken, sources, strict=False)],
            [
                Collected(data, last.astype(bool), cycle, s.surplus)
                for (data, last, cycle), s in zip(outputs, sinks, strict=False)
            ],
            seen,
            self._split(status),
            int(job.cycles),
        )

    def _split(self, status: np.ndarray) -> dict[str, bytes]:
        values, start = {}, 0
        for name, count in self.status_bytes.items():
            values[name] = status[start : start + count].tobytes()
            start += count
        return values

    def _execute(self, job: _Job, seed: int) -> tuple[int, str]:
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
            return code.mx_run(handle, ctypes.byref(job), message, size), _text(message)
        finally:
            code.mx_destroy(handle)


def _clamped(status: Mapping[str, bytes]) -> list[int]:
    return np.frombuffer(status.get("clamped_o", b""), "<u4").tolist()


def _check_outcome(returned: int, message: str, sources: list, sinks: list, timeout: int, seen: dict) -> None:
    progress = ", ".join(
        [f"{s.taken} of {s.count} beats in" for s in sources] + [f"{s.received} of {s.count} beats out" for s in sinks]
    )
    if returned == 1:
        raise StandstillError(f"simulation stands still: no transfer for {timeout} cycles after {progress}", seen)
    if returned == 2:
        raise MXExportError(f"m_axis changed or dropped a beat that was not yet taken, after {progress}")
    if returned:
        raise MXExportError(f"simulation stopped after {progress}: {message}")


def _text(message: ctypes.Array) -> str:
    return message.value.decode(errors="replace")


def _last_flags(last: np.ndarray | int | None, count: int) -> np.ndarray:
    if isinstance(last, np.ndarray):
        return np.ascontiguousarray(last, np.uint8)
    frame = count if last is None else last
    return ((np.arange(count) + 1) % max(frame, 1) == 0).astype(np.uint8)
