"""A compiled design on disk: run its dataflow graph, simulate its RTL, size its units."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mxexport import cluster as clusters
from mxexport.errors import InputFileError, VerificationError, foreign_errors
from mxexport.fpga import library, options, package
from mxexport.fpga.areas.area import total
from mxexport.fpga.areas.devices import resources
from mxexport.fpga.checking import alone, probing, verify
from mxexport.fpga.checking.framing import Inputs, all_fixed, all_saturated, by_name
from mxexport.fpga.folding import explore
from mxexport.fpga.folding.estimate import estimate
from mxexport.fpga.network import Network, read
from mxexport.fpga.reports.report_page import design_page
from mxexport.fpga.reports.stored_report import REPORT, SYNTHESIS, read_report
from mxexport.fpga.scheduling import loops, memory
from mxexport.fpga.scheduling.timing import latency
from mxexport.fpga.streams.types import from_stream
from mxexport.fpga.streams.views import View
from mxexport.fpga.tools import verilator, yosys
from mxexport.fpga.tools.simulator import Feed, Outside, Simulator, StandstillError, Streams
from mxexport.fpga.unit import Folding
from mxexport.fpga.writing import emit
from mxexport.model import graph
from mxexport.model.staging import staging
from mxexport.numbers import fixedpoint
from mxexport.reporting.cells import html_table
from mxexport.running import executors

_SHORT = 60_000
"""Cycles below which a simulator that is built soon is done sooner than one that runs fast."""
_SILENCE = 100_000
"""Cycles without a transfer, at least, that are a standstill where nothing stalls."""


@dataclass(frozen=True)
class Outputs:
    """`raw` int64 [N, ...] in units of 2**lsb_exp; `values` the same as float32, rounded once. Dicts by name where the
    network has several outputs.

    `saturated_inputs` of the values given lay beyond the input's calibrated range and took its end.
    """

    raw: np.ndarray | dict[str, np.ndarray]
    values: np.ndarray | dict[str, np.ndarray]
    saturated_inputs: int


@dataclass(frozen=True)
class Simulation(Outputs):
    """What the RTL did: `cycles` in all, blocks outside the calibrated range per layer; `stalls`: cycles in which a
    FIFO was full while a beat waited; `probes`: unit -> value of dataflow.onnx -> words, int64 or codes;
    `difference`: the first probed unit whose words are not those of the dataflow graph, and where (None: all equal).
    """

    cycles: int
    clamped: dict[str, int]
    stalls: dict[str, int]
    probes: dict[str, dict[str, np.ndarray]]
    difference: tuple[str, str] | None


_KEPT = 1 << 26
"""Bytes of all int64 streams of a run, up to which the session stays open."""


class Design:
    """What `compile` wrote to `path`. Everything is read back from there; the network from dataflow.onnx alone."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.report: dict = read_report(self.path)

    def __repr__(self) -> str:
        r = self.report
        area = ", ".join(f"{n:,.0f} {kind.upper()}" for kind, n in r.get("estimate", {}).items() if n)
        rate = f"{r['frames_per_second']:,.0f} frames/s at {r['clock_mhz']:g} MHz"
        return f"<Design {str(self.path)!r}: {len(r['layers'])} layers for {r['part']}, {rate}, about {area}>"

    def _repr_html_(self) -> str:
        """Its layers as a table, for notebooks."""
        keys = ("name", "inputs", "outputs", "activation", "weight", "pe", "simd", "cycles", "accumulator_bits")
        rows = [[row[key] for key in keys] for row in self.report["layers"]]
        return html_table(repr(self), [key.replace("_", " ") for key in keys], rows)

    @cached_property
    def network(self) -> Network:
        """As dataflow.onnx states it: every turn of layers in turn stands for itself."""
        with self._whole():
            return self.hardware if self.hardware.loop is None else self._stated

    @cached_property
    def _stated(self) -> Network:
        return read(graph.load(self.path / "dataflow.onnx"))

    @cached_property
    def hardware(self) -> Network:
        """What stands in the top level: the same units, but for layers in turn, which stand there once."""
        with self._whole():
            network = loops.in_hardware(self._stated)
            held = self.report.get("memory") or {"layers": [], "bus_bits": memory.BUS}
            places = {row["layer"]: memory.Place(row["kind"], row["tile"]) for row in held["layers"]}
            return memory.placed(network, places, held["bus_bits"], self.report["part"])

    def _whole(self) -> contextlib.AbstractContextManager[None]:
        """What the files say need not fit together, in as many ways as there are: nobody vouches for a folder."""

        def ours(error: Exception) -> InputFileError:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            return InputFileError(f"{self.path}: dataflow.onnx describes no design ({why}); compile it again")

        return foreign_errors(ours)

    @cached_property
    def foldings(self) -> dict[str, Folding]:
        """Unit -> folding."""
        found = self.report["foldings"]
        try:
            foldings = {name: Folding(**numbers) for name, numbers in found.items()}
        except TypeError:
            raise InputFileError(f"{self.path}: {REPORT} names foldings nobody knows; compile it again") from None
        if odd := set(foldings) ^ {instance.name for instance in self.hardware.instances}:
            why = f"{REPORT} and dataflow.onnx do not belong together (unit {sorted(odd)[0]!r})"
            raise InputFileError(f"{self.path}: {why}; compile it again")
        return foldings

    @cached_property
    def _placed(self) -> emit.Design:
        with self._whole():
            return emit.place(self.hardware, self.foldings)

    def files(self) -> dict[str, str]:
        """Where everything lies."""
        names = {
            "calibrated": "calibrated.onnx",
            "dataflow": "dataflow.onnx",
            "top": f"rtl/{emit.TOP}.sv",
            "rtl": "rtl",
            "memories": "mem",
            "folding": "folding.yaml",
            "report": REPORT,
            "page": "report.html",
        }
        return {kind: str(self.path / name) for kind, name in names.items()}

    def _named(self, x: Inputs) -> dict[str, np.ndarray]:
        return by_name(x, [self.network.tensors[stream] for stream in self.network.inputs], "inputs")

    def _results(self, streams: Mapping[str, np.ndarray]) -> tuple:
        """(raw, values) of the outputs, in the shapes that the QONNX graph gives them."""
        network = self.network
        raw = {network.tensors[s]: from_stream(streams[s], network.frames[s]) for s in network.outputs}
        ends = {network.tensors[s]: network.streams[s] for s in network.outputs}
        values = {name: fixedpoint.to_float32(array, ends[name].lsb_exp) for name, array in raw.items()}
        return (raw, values) if len(raw) > 1 else (next(iter(raw.values())), next(iter(values.values())))

    def run_dataflow(self, x: Inputs) -> Outputs:
        """Run dataflow.onnx in onnxruntime on float inputs [N, ...]. Raises ShapeError for inputs that do not fit."""
        given = self._named(x)
        fixed = all_fixed(given, self.network)
        return Outputs(*self._results(self._dataflow(fixed)), all_saturated(given, self.network))

    def _dataflow(self, fixed: Mapping[str, np.ndarray], wanted: list[str] | None = None) -> dict[str, np.ndarray]:
        """What dataflow.onnx computes, some frames at a time: its int64 tensors are large."""
        session = self._opened(wanted, len(next(iter(fixed.values()))))
        parts = [session.run(part) for part in verify.portions(self.network, fixed)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _opened(self, wanted: list[str] | None, frames: int) -> executors.Session:
        """dataflow.onnx, opened: most of the time of a run of few frames. The last one is kept for as long as the file
        stays the same, unless its tensors are large: onnxruntime keeps their memory as long as the session."""
        path = self.path / "dataflow.onnx"
        state = (path.stat().st_mtime_ns, path.stat().st_ino, wanted and tuple(wanted)) if path.exists() else None
        kept, session = self.__dict__.pop("_session", (None, None))
        if kept is None or kept != state:
            session = executors.Session(path, wanted, weights="each")
        if frames * verify.frame_bytes(self.network) <= _KEPT:
            self._session = (state, session)
        return session

    def __getstate__(self) -> dict:
        """Without the session, which no other process can take over."""
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def compare_stages(self, x: Inputs) -> verify.StageComparison:
        """Compare calibrated.onnx with dataflow.onnx on float inputs. Raises VerificationError on a difference."""
        qonnx, dataflow = (graph.load(self.path / f"{name}.onnx") for name in ("calibrated", "dataflow"))
        given, tensors = self._named(x), self.report["tensors"]
        with self._whole():
            views = {name: View.read(text) for name, text in self.report.get("views", {}).items()}
        found = []
        for part in verify.portions(self.network, given):
            fixed = all_fixed(part, self.network)
            found.append(verify.compare(qonnx, dataflow, self.network, tensors, views, part, fixed))
        return verify.joined(found)

    def simulate(
        self,
        x: Inputs,
        *,
        stall_in: float = 0.0,
        stall_out: float = 0.0,
        seed: int = 1,
        probe: Iterable[str] = (),
        trace: str | os.PathLike | None = None,
    ) -> Simulation:
        """Simulate the RTL on float inputs [N, ...], with random stalls of the given probability on either side.

        `probe`: layers or units whose words are kept and compared with the dataflow graph. `trace`: a VCD file of every
        wire. Either builds the simulator anew.

        Raises:
            ShapeError: inputs that do not fit, hold NaN or Inf, or are no real numbers.
            OptionError: a probability outside [0, 1), a seed that is no whole number, or a probe that names nothing.
            MissingToolError: no Verilator or C++ compiler.
            VerificationError: the RTL misplaced a TLAST, raised its error flag, or stands still: which units wait for
                each other.
        """
        stall_in, stall_out = (options.probability(n, p) for n, p in (("stall_in", stall_in), ("stall_out", stall_out)))
        placed, given, seed = self._placed, self._named(x), options.whole("seed", seed)
        instances = probing.probed(placed, [probe] if isinstance(probe, str) else probe)
        fixed = all_fixed(given, self.network)
        frames = len(next(iter(fixed.values())))
        watch = {placed.units[i.name]: probing.beats_of(placed, i, frames) for i in instances}
        watch = dict.fromkeys(probing.watched(placed), 0) | watch
        quick = frames * self.report["cycles_per_frame"] + self.report["latency_cycles"] < _SHORT
        simulator = self._build(watch, trace is not None, quick)
        run = self._run(simulator, fixed, stall_in, stall_out, seed=seed, watch=watch, trace=trace)
        found = {i.name: probing.words_of(placed, i, run.seen[placed.units[i.name]]) for i in instances}
        difference = None
        if found:
            expected = loops.of_all_turns(instances, self._dataflow(fixed, loops.values_of(instances)))
            difference = probing.first_difference(found, expected)
        return Simulation(
            *self._results(self._words(run, frames)),
            saturated_inputs=all_saturated(given, self.network),
            cycles=max((int(out.cycles[-1]) + 1 for out in run.outputs if len(out.cycles)), default=run.cycles),
            clamped=self._clamped(run.clamped),
            stalls=probing.stalls(placed, run.seen),
            probes=found,
            difference=difference,
        )

    def simulate_units(
        self,
        x: Inputs,
        *,
        units: Iterable[str] = (),
        stall_in: float = 0.0,
        stall_out: float = 0.0,
        seed: int = 1,
        progress: Callable[[str], None] = lambda unit: None,
    ) -> dict[str, alone.UnitSimulation]:
        """Simulate every unit alone (`units`: those of these layers, or these), as the top level instantiates it, on
        the words that the dataflow graph computes for float inputs [N, ...]; unit -> what it did, `difference` among
        it. For networks that take too long to simulate as a whole: FIFOs and lane converters between units are left
        out. From two frames on and without stalls, cycles are measured beside the cycle model. `alone.kinds` makes one
        row of units alike. All streams of all frames are kept meanwhile; a few frames are enough.

        Raises:
            ShapeError, OptionError, MissingToolError: as `simulate`.
        """
        stall_in, stall_out = (options.probability(n, p) for n, p in (("stall_in", stall_in), ("stall_out", stall_out)))
        placed, given, seed = self._placed, self._named(x), options.whole("seed", seed)
        named = probing.probed(placed, [units] if isinstance(units, str) else units)
        instances = named or list(self.hardware.instances)
        fixed = all_fixed(given, self.network)
        recorded = fixed | self._dataflow(fixed, alone.recorded_values(self.network, loops.unrolled(instances)))
        sources = self._rtl(source.name for source in library.rtl_sources())
        how = {"stall_in": stall_in, "stall_out": stall_out, "seed": seed, "progress": progress}
        return alone.simulate(placed, self.network, instances, recorded, sources, self._memories, **how)

    def _clamped(self, counted: list[int]) -> dict[str, int]:
        """Layer -> blocks outside of the calibrated range, of all copies of its quantizer."""
        found: dict[str, int] = {}
        for name, n in zip(self._placed.counters, counted, strict=True):
            if name not in self._static:
                found[name] = found.get(name, 0) + n
        return found

    @cached_property
    def _static(self) -> set[str]:
        """Layers whose one scale is constant: their blocks have no range to be outside of."""
        return {i.layer for i in self.network.instances if getattr(i.unit, "static", False)}

    def _run(
        self, simulator: Simulator, fixed: Mapping[str, np.ndarray], stall_in: float, stall_out: float, **how
    ) -> Streams:
        """Feed frames (by stream). Raises VerificationError where the RTL stands still; a large design is silent for as
        long as a frame is on its way."""
        network, placed = self.network, self._placed
        feeds = [
            Feed(*network.streams[s].at_border().pack(fixed[s], placed.lanes(s)), stall_in) for s in network.inputs
        ]
        if placed.weights:
            words = np.fromfile(self._memories / emit.LOADED, np.uint8).reshape(-1, placed.weights.bits // 8)
            feeds.append(Feed(words, None, stall_in))
        if placed.bus:
            how["memory"] = Outside(np.fromfile(self._memories / emit.STREAMED, np.uint8), stall=stall_in)
        frames = len(next(iter(fixed.values())))
        expected = [frames * network.streams[s].beats(placed.lanes(s)) for s in network.outputs]
        patience = math.ceil(self._patience / (1 - max(stall_in, stall_out)))
        try:
            return simulator.run_streams(feeds, expected, stall_out=stall_out, timeout=patience, **how)
        except StandstillError as error:
            every = {link.name: 0 for link in placed.links}
            if set(every) <= set(error.seen):
                raise VerificationError(f"{self.path}: {error}; {probing.who_waits(placed, error.seen)}") from None
        return self._run(self._build(every, quick=True), fixed, stall_in, stall_out, **how)

    @cached_property
    def _patience(self) -> int:
        """Cycles without a transfer at a border that are a standstill."""
        with self._whole():
            return max(_SILENCE, 2 * latency(self.hardware, self.foldings))

    def _words(self, run: Streams, frames: int) -> dict[str, np.ndarray]:
        """Output stream -> its values. Raises VerificationError where frames do not end as they should."""
        network, placed, found = self.network, self._placed, {}
        error = any(run.status["error_o"])
        for stream, out in zip(network.outputs, run.outputs, strict=True):
            kind, lanes = network.streams[stream], placed.lanes(stream)
            count = kind.beats(lanes)
            ends = np.tile(np.arange(count) == count - 1, frames)
            if error or out.surplus or not np.array_equal(out.last, ends):
                raise VerificationError(
                    f"{self.path}: the RTL misplaced a TLAST of {network.tensors[stream]!r} (error flag {int(error)}, "
                    f"{out.surplus} surplus beats)"
                )
            found[stream] = kind.at_border().unpack(out.beats, lanes)
        return found

    def _build(self, watch: Iterable[str] = (), trace: bool = False, quick: bool = False) -> Simulator:
        sources = self._rtl([source.name for source in library.rtl_sources()] + [f"{emit.TOP}.sv"])
        return verilator.build(
            emit.TOP, sources, memory_dir=self._memories, monitors=list(watch), trace=trace, quick=quick
        )

    def _rtl(self, names: Iterable[str]) -> list[Path]:
        """Its own files of these names."""
        sources = [self.path / "rtl" / name for name in names]
        if missing := [str(source) for source in sources if not source.is_file()]:
            raise InputFileError(f"{self.path}: no {', '.join(missing)}; compile it again")
        return sources

    @property
    def _memories(self) -> Path:
        return self.path.resolve() / "mem"

    def estimate(self) -> dict[str, dict[str, float]]:
        """Area of every unit and in total without synthesis, as `area()` names it: on most units within a few percent
        of what Yosys counts, at worst a fifth off (docs/hardware.md); DSP slices and memories are exact."""
        areas = estimate(self._placed)
        areas["total"] = total(areas.values())
        return {name: area.table() for name, area in areas.items()}

    def explore(self, against: Iterable[Design] = (), *, cluster: object = None) -> list[explore.Point]:
        """The designs of this network that fit its part and that no other beats in rate and area, by the estimates,
        slowest first; written to explore.json, and drawn in explore.svg together with those of `against` (other
        formats, say). What explore.json calls `folding` can be given to `compile` as it stands. `cluster`: who folds,
        see `mxexport.cluster.connected`."""
        most = resources(self.report["part"])
        (slices,) = options.kinds("dsp", self.report["part"])
        fronts = {
            d.path.name: explore.front(d.hardware, d.report["clock_mhz"], most, cluster, slices)
            for d in (self, *against)
        }
        own = fronts[self.path.name]
        texts = {
            "explore.json": json.dumps([p.table() for p in own], indent=1) + "\n",
            "explore.svg": explore.svg(fronts),
        }
        try:
            with staging(self.path / "explore") as directory:
                for name, text in texts.items():
                    (directory / name).write_text(text)
                    os.replace(directory / name, self.path / name)
        except OSError as error:
            raise InputFileError(f"explore: cannot write to {self.path}: {error.strerror or error}") from error
        return own

    def package(self, name: str | None = None) -> list[str]:
        """Write what toolflows take beside the RTL: xilinx/ (wrapper with AXI interfaces, constraints, Tcl for
        synthesis, IP and block design), a FuseSoC core, tb/ (self-checking test bench with frames that the dataflow
        graph answers), driver/ (PYNQ, C header), yosys/, README.md. `name`: of the module and the IP; by default that
        of the directory.

        Returns the paths written, relative to the design. They replace those of an earlier call with that name.

        Raises:
            OptionError: a name that cannot name a module.
            InputFileError: the directory cannot be written.
        """
        network, top = self.network, package.check_name(package.name_of(self.path) if name is None else name)
        rng, given = np.random.default_rng(1), {}
        for s in network.inputs:
            kind = network.streams[s]
            most = 2 ** max(kind.width - 2, 1)  # half of the range
            given[s] = rng.integers(-most, most, (package.FRAMES, *kind.shape))
        streams = given | self._dataflow(given, list(network.outputs))
        texts = package.texts(self._placed, self.report, top, streams)
        try:
            package.write(package.ours(texts, self.path), self.path)
        except OSError as error:
            raise InputFileError(f"package: cannot write to {self.path}: {error.strerror or error}") from error
        return sorted(texts)

    def synthesize(
        self, progress: Callable[[str], None] = lambda stage: None, *, cluster: object = None
    ) -> dict[str, yosys.SynthResult]:
        """Size every unit out of context with Yosys; unit name -> estimated area. `progress` is called with what is
        done. `cluster`: who synthesizes, see `mxexport.cluster.connected`; its workers share the disk of the design.

        Raises:
            MissingToolError: pyosys is not installed.
        """
        cells = self._placed.cells
        with clusters.connected(cluster) as runner:
            results = runner.map(
                _sized,
                [(cell.module, cell.parameters) for cell in cells],
                shared=(self._memories,),
                keys=[(cell.module, repr(sorted(cell.parameters.items()))) for cell in cells],
                resources={"synth": 1},
                progress=lambda done, of: progress(f"synthesizing ({done} of {of} units are done)"),
            )
        return {cell.name: one * cell.copies for cell, one in zip(cells, results, strict=True)}

    def record_synthesis(self, results: Mapping[str, yosys.SynthResult]) -> None:
        """Keep what `synthesize` found beside the report, and in its page: area, clock and longest path of every unit.

        Raises:
            InputFileError: the directory cannot be written.
        """
        table = area_table(results)
        units = {name: table[name] | {"longest_path": str(result.path)} for name, result in results.items()}
        self.report["synthesis"] = units
        texts = {SYNTHESIS: json.dumps(units, indent=2) + "\n", "report.html": design_page(self.report).to_html()}
        try:
            package.write(texts, self.path)
        except OSError as error:
            raise InputFileError(f"synthesis: cannot write to {self.path}: {error.strerror or error}") from error

    def area(self) -> dict[str, dict[str, float]]:
        """Estimated LUT (logic, RAM and shift registers), FF, DSP and BRAM36 of every unit and in total, and the clock
        in MHz that its longest path allows (`mxexport.fpga.tools.sta`); in total, of the slowest unit."""
        return area_table(self.synthesize())


def _sized(memories: Path, cell: tuple[str, Mapping[str, object]]) -> yosys.SynthResult:
    module, parameters = cell
    return yosys.synthesize(module, library.rtl_sources(), parameters, memory_dir=memories)


def area_table(results: Mapping[str, yosys.SynthResult]) -> dict[str, dict[str, float]]:
    """Unit -> area and clock, with a row for all."""
    table = {
        name: {
            "lut": r.total_lut,
            "ff": r.ff,
            "dsp": r.dsp,
            "bram36": r.bram36 + r.bram18 / 2,
            "fmax_mhz": r.fmax_mhz,
        }
        for name, r in results.items()
    }
    totals = {key: sum(row[key] for row in table.values()) for key in ("lut", "ff", "dsp", "bram36")}
    return table | {"total": totals | {"fmax_mhz": min(row["fmax_mhz"] for row in table.values())}}


def open_design(path: str | os.PathLike) -> Design:
    """The design that `compile` wrote to `path`. Raises InputFileError when there is none."""
    return Design(path)
