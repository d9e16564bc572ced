"""Network and foldings -> SystemVerilog: the top level and the memory files. Knows no unit by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

import mxexport
from mxexport.fpga import library, words
from mxexport.fpga.identifiers import identifiers, one_line
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.schedule import fold_all, input_lanes, output_lanes
from mxexport.fpga.tools.verilator import parameter_text
from mxexport.fpga.types import Wide
from mxexport.fpga.unit import Folding, Memory, parameters_of

TOP = "mx_top"


@dataclass(frozen=True)
class Link:
    """The wires of one stream between two cells."""

    name: str
    bits: int


@dataclass(frozen=True)
class Cell:
    """One instance in the top level: module, parameters (strings are memory files), the links it joins.

    `status`: outputs besides the streams -> bits; `memories`: file name -> content.
    """

    name: str
    module: str
    parameters: dict[str, int | str]
    sources: tuple[Link, ...]
    sinks: tuple[Link, ...]
    comment: str
    clocked: bool = True
    status: Mapping[str, int] = field(default_factory=dict)
    memories: Mapping[str, Memory] = field(default_factory=dict)


@dataclass(frozen=True)
class Design:
    """Everything the top level holds, in stream order."""

    network: Network
    foldings: dict[str, Folding]
    cells: tuple[Cell, ...]
    links: tuple[Link, ...]

    @property
    def in_lanes(self) -> int:
        return input_lanes(self.network, self.foldings)

    @property
    def out_lanes(self) -> int:
        return output_lanes(self.network, self.foldings)

    @property
    def counters(self) -> list[str]:
        """Layers whose `clamped_o` the top level counts, in order."""
        return [i.layer for i in self.network.instances if "clamped_o" in i.unit.status]


def whole_bytes(bits: int) -> int:
    return -(-bits // 8) * 8


def place(network: Network, layers: Mapping[str, Folding]) -> Design:
    """Cells for every unit; lane converters where a producer and a reader take different lanes per beat."""
    return _Placer(network, fold_all(network, layers)).design()


class _Placer:
    def __init__(self, network: Network, foldings: dict[str, Folding]):
        self._network, self._foldings = network, foldings
        self._cells: list[Cell] = []
        lanes = input_lanes(network, foldings)
        names = list(dict.fromkeys(n for i in network.instances for n in (f"{i.layer}.lanes", i.name)))
        self._names = dict(zip(names, identifiers(names), strict=True))
        self._links = [Link("input", network.source.beat_bits(lanes))]
        self._of = {network.inputs[0]: (self._links[0], lanes)}  # stream -> where it comes from, with so many lanes

    def design(self) -> Design:
        for instance in self._network.instances:
            self._place(instance)
        return Design(self._network, self._foldings, tuple(self._cells), tuple(self._links))

    def _append(self, cell: Cell) -> None:
        self._cells.append(cell)
        self._links += cell.sinks

    def _place(self, instance: Instance) -> None:
        unit, folding, name = instance.unit, self._foldings[instance.name], self._names[instance.name]
        in_lanes, out_lanes = unit.lanes(folding)
        sources = tuple(self._with_lanes(instance, stream, in_lanes) for stream in instance.sources)
        prefix = self._names[instance.name].removesuffix(f"_{instance.name.rpartition('.')[2]}")
        files = {kind: f"{prefix}_{kind}.mem" for kind in unit.memory_kinds}
        parameters = library.in_order(unit.module, parameters_of(unit, folding, files))
        memories = {files[kind]: memory for kind, memory in unit.memories(folding).items()}
        sink = Link(name, unit.result.beat_bits(out_lanes))
        comment = unit.comment(instance.layer, folding)
        self._append(
            Cell(name, unit.module, parameters, sources, (sink,), comment, unit.clocked, unit.status, memories)
        )
        self._of[instance.result] = (sink, out_lanes)

    def _with_lanes(self, reader: Instance, stream: str, lanes: int) -> Link:
        link, found = self._of[stream]
        if found == lanes:
            return link
        kind: Wide = self._network.streams[stream]
        parameters = {"InLanes": found, "OutLanes": lanes, "ElemWidth": kind.width, "K": kind.channels}
        sink = Link(self._names[f"{reader.layer}.lanes"], kind.beat_bits(lanes))
        self._append(Cell(sink.name, "mx_lanes", parameters, (link,), (sink,), f"{found} to {lanes} values per beat"))
        return sink


def top_level(design: Design) -> str:
    """Text of the top-level module."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mxexport.fpga", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"literal": parameter_text, "one_line": one_line}
    network, in_lanes, out_lanes = design.network, design.in_lanes, design.out_lanes
    return environment.get_template("top.sv.j2").render(
        module=TOP,
        version=mxexport.__version__,
        products=len(network.products()),
        cells=_with_status(design),
        errors=sum("error_o" in cell.status for cell in design.cells),
        counters=len(design.counters),
        links=design.links,
        source=network.source,
        result=network.result,
        in_lanes=in_lanes,
        out_lanes=out_lanes,
        in_beats=network.source.beats(in_lanes),
        out_beats=network.result.beats(out_lanes),
        in_bits=whole_bytes(design.links[0].bits),
        out_bits=whole_bytes(design.links[-1].bits),
    )


def _with_status(design: Design) -> list[tuple[Cell, dict[str, str]]]:
    """Every cell with what its status ports join: error flags and counters take their bits in order."""
    taken, found = {"clamped_o": 0, "error_o": 0}, []
    for cell in design.cells:
        ports = {}
        for port, bits in cell.status.items():
            start = taken[port]
            ports[port] = f"clamped_o[{start}+:{bits}]" if port == "clamped_o" else f"errors[{start}]"
            taken[port] = start + bits
        found.append((cell, ports))
    return found


def write_memories(design: Design, directory: Path) -> None:
    """The .mem file of every ROM."""
    for cell in design.cells:
        for file, memory in cell.memories.items():
            words.write_mem(directory / file, memory.fields, memory.width)
