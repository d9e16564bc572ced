"""Every unit of a design simulated alone, on words recorded from its dataflow graph: for networks that take too long to
simulate as a whole. What stands between units (FIFOs, forks, lane converters) is not simulated."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mxexport.errors import InputFileError, MXExportError
from mxexport.fpga.checking.probing import first_difference
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.scheduling import copies, loops, memory
from mxexport.fpga.streams.types import Blocks, Stream
from mxexport.fpga.tools import verilator
from mxexport.fpga.tools.simulator import PATIENCE, Feed, Simulator
from mxexport.fpga.unit import Folding, Unit
from mxexport.fpga.writing.emit import Cell, Design

_SLACK, _PIPELINE = 0.01, 5
"""By how much a measured frame may miss the cycle model, and cycles that fill a pipeline."""


@dataclass(frozen=True)
class UnitSimulation:
    """What the RTL of one unit did with `frames` recorded frames.

    `kind`: operator, shapes, formats and folding; units of a kind differ in constants, and in widths that follow from
    them. `words`: values compared with those of the dataflow graph; `difference`: the first that differs, a misplaced
    TLAST or a standstill (None: all equal). `cycles`: the most between the ends of two frames (None: one frame, or
    stalls); `claimed`: those of the cycle model. Units with the same `build` share a compiled simulator: they differ in
    memory files alone.
    """

    kind: str
    module: str
    frames: int
    words: int
    cycles: int | None
    claimed: int
    build: str
    difference: str | None

    @property
    def as_claimed(self) -> bool:
        """Whether frames come as the cycle model says, where it was measured."""
        return self.cycles is None or abs(self.cycles - self.claimed) <= _SLACK * self.claimed + _PIPELINE


@dataclass(frozen=True)
class Kind:
    """Units of one kind together: `instances` of them in `builds` compiled simulators, `words` of all; `cycles`: of the
    slowest; `unequal`: units that differ, and where."""

    kind: str
    module: str
    instances: int
    builds: int
    frames: int
    words: int
    cycles: int | None
    claimed: int
    unequal: dict[str, str]


def kinds(found: Mapping[str, UnitSimulation]) -> list[Kind]:
    """One row for every kind of unit, in stream order."""
    rows = []
    for kind in dict.fromkeys(run.kind for run in found.values()):
        same = {name: run for name, run in found.items() if run.kind == kind}
        runs = list(same.values())
        measured = [run.cycles for run in runs if run.cycles is not None]
        rows.append(
            Kind(
                kind,
                runs[0].module,
                len(runs),
                len({run.build for run in runs}),
                runs[0].frames,
                sum(run.words for run in runs),
                max(measured, default=None),
                runs[0].claimed,
                {name: run.difference for name, run in same.items() if run.difference is not None},
            )
        )
    return rows


def recorded_values(network: Network, instances: Iterable[Instance]) -> list[str]:
    """Values of the dataflow graph that units take and give; inputs of the network are not among them."""
    names = [v for i in instances for s in (*i.sources, i.result) for v in _values(network, s)]
    return [name for name in dict.fromkeys(names) if name not in network.inputs]


def _values(network: Network, stream: str) -> tuple[str, ...]:
    """Of one stream: codes and scale codes, or integers."""
    maker = network.maker(stream)
    return (stream,) if maker is None else maker.values


def simulate(
    design: Design,
    stated: Network,
    instances: Sequence[Instance],
    recorded: Mapping[str, np.ndarray],
    sources: Sequence[Path],
    memories: Path,
    *,
    stall_in: float = 0.0,
    stall_out: float = 0.0,
    seed: int = 1,
    progress: Callable[[str], None] = lambda unit: None,
) -> dict[str, UnitSimulation]:
    """Unit -> what it did, each as the top level instantiates it.

    `stated`: the network of dataflow.onnx; `recorded`: values of that graph [N, ...]; `sources`: SystemVerilog files in
    compile order; `memories`: the folder of the memory files. One simulator is compiled for all units that differ in
    the contents of memories alone.
    """
    cells, found = {cell.name: cell for cell in design.cells}, {}
    for i, instance in enumerate(instances, 1):
        progress(f"simulating {instance.name} ({i} of {len(instances)})")
        cell, folding = cells[design.units[instance.name]], design.foldings[instance.name]
        given = _taken(stated, instance, recorded)
        wanted = loops.of_all_turns([instance], recorded)
        with tempfile.TemporaryDirectory() as folder:
            parameters = _with_memories(cell, memories, Path(folder))
            simulator = verilator.build(cell.module, sources, parameters, memory_dir=Path(folder))
            how = {"stall_in": stall_in, "stall_out": stall_out, "seed": seed}
            cycles, difference = _compared(simulator, instance, folding, given, wanted, **how)
        found[instance.name] = UnitSimulation(
            kind_of(instance.unit, folding),
            cell.module,
            len(given[0][0]),
            sum(array.size for array in wanted.values()),
            cycles,
            copies.cycles(instance.unit, folding),
            simulator.directory.name,
            difference,
        )
    return found


def _taken(stated: Network, instance: Instance, recorded: Mapping[str, np.ndarray]) -> list[list[np.ndarray]]:
    """Of every input stream its arrays, in all turns."""
    found = []
    for place in range(len(instance.sources)):
        turns = [[recorded[v] for v in _values(stated, t.sources[place])] for t in instance.unrolled]
        found.append([loops.in_order(same) for same in zip(*turns, strict=True)])
    return found


def kind_of(unit: Unit, folding: Folding) -> str:
    """Operator, shapes, formats and folding in words."""
    weight = getattr(unit, "weight", None)
    weights = "" if weight is None else f" x {weight.format.name}"
    taken, given = " and ".join(map(_shape, unit.sources)), _shape(unit.result)
    return f"{unit.operator.op_type()} {taken}{weights} to {given}; {folding}"


def _shape(stream: Stream) -> str:
    return f"{list(stream.shape)}" + (f" {stream.format}" if isinstance(stream, Blocks) else "")


def _with_memories(cell: Cell, memories: Path, folder: Path) -> dict[str, int | str]:
    """Parameters of a cell, whose memory files stand in `folder` under names that all cells of its module share: those
    that differ in contents alone then share a simulator. Pieces of deep ones stand beside them."""
    parameters = dict(cell.parameters)
    for name, file in cell.parameters.items():
        if not isinstance(file, str):
            continue
        parameters[name] = f"{name}.mem"
        if file not in cell.memories:
            continue
        if not (memories / file).is_file():
            raise InputFileError(f"{memories}: no {file}; compile the design again")
        for part in (memories / file, *memories.glob(f"{file}.?")):
            (folder / f"{name}.mem{part.name.removeprefix(file)}").symlink_to(part)
    return parameters


def _compared(
    simulator: Simulator,
    instance: Instance,
    folding: Folding,
    given: list[list[np.ndarray]],
    wanted: Mapping[str, np.ndarray],
    **how,
) -> tuple[int | None, str | None]:
    """(cycles of a frame, first difference). Copies of a unit side by side take every so many vectors of a row each."""
    unit, own = copies.one(instance.unit, folding)
    count, most = copies.count(instance.unit, folding), 0
    found = {name: np.empty_like(array) for name, array in wanted.items()}
    for n in range(count):
        part = np.s_[:, :, n::count] if count > 1 else np.s_[:]
        try:
            words, cycles = run(simulator, unit, own, [[a[part] for a in arrays] for arrays in given], **how)
        except MXExportError as error:
            return None, str(error)
        for array, got in zip(found.values(), words, strict=True):
            array[part] = got
        most = None if cycles is None or most is None else max(most, cycles)
    differs = first_difference({instance.name: found}, wanted)
    return most, None if differs is None else differs[1]


def run(
    simulator: Simulator,
    unit: Unit,
    folding: Folding,
    given: list[list[np.ndarray]],
    *,
    stall_in: float = 0.0,
    stall_out: float = 0.0,
    seed: int = 1,
) -> tuple[tuple[np.ndarray, ...], int | None]:
    """(values [N, ...] that a unit puts out, the most cycles between the ends of two frames; None where that says
    nothing). `given`: of every input stream its arrays.

    Raises:
        MXExportError: it stands still, misplaces a TLAST, raises its error flag, or puts out more than it should.
    """
    (lanes_in, lanes_out), frames = unit.lanes(folding), len(given[0][0])
    feeds = [Feed(*s.pack(*arrays, lanes_in), stall_in) for s, arrays in zip(unit.sources, given, strict=True)]
    if (weights := memory.sent(unit, folding, frames)) is not None:
        feeds.append(Feed(*weights, stall_in))
    count = unit.result.beats(lanes_out)
    patience = max(PATIENCE, 4 * unit.cycles(folding))
    ran = simulator.run_streams(feeds, [frames * count], stall_out=stall_out, seed=seed, timeout=patience)
    (out,) = ran.outputs
    ends = np.arange(1, frames * count + 1) % count == 0
    error = any(ran.status.get("error_o", b""))
    if error or out.surplus or not np.array_equal(out.last, ends):
        misplaced = int((out.last != ends).sum())
        raise MXExportError(f"{misplaced} TLASTs misplaced, error flag {int(error)}, {out.surplus} surplus beats")
    values = unit.result.unpack(out.beats, lanes_out)
    steady = frames > 1 and stall_in == stall_out == 0
    cycles = int(np.diff(out.cycles[ends]).max()) if steady else None
    return values if isinstance(unit.result, Blocks) else (values,), cycles
