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
from mxexport.fpga.timing import fifo_depths
from mxexport.fpga.tools.verilator import parameter_text
from mxexport.fpga.types import Wide
from mxexport.fpga.unit import Folding, Memory, parameters_of
from mxexport.model.names import free_name

TOP = "mx_top"
_WIRES = ("valid", "ready", "data", "last")


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
    output: Link

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


def place(network: Network, layers: Mapping[str, Folding]) -> Design:
    """Cells for every unit, and what stands between them."""
    foldings = fold_all(network, layers)
    return _Placer(network, foldings, fifo_depths(network, foldings)).design()


class _Placer:
    """Cells in stream order. Between a unit and its readers stand, where they are needed: a fork, and for every reader
    a FIFO and a lane converter."""

    def __init__(self, network: Network, foldings: dict[str, Folding], depths: Mapping[tuple[str, str], int]):
        self._network, self._foldings, self._depths = network, foldings, depths
        self._cells: list[Cell] = []
        self._products = network.products()  # their memories are called by the layer alone
        names = list(dict.fromkeys(n for i in network.instances for n in (f"{i.layer}.lanes", i.name)))
        self._names = dict(zip(names, identifiers(names), strict=True))
        self._taken = {name.lower() for name in self._names.values()} | {"input"}
        lanes = input_lanes(network, foldings)
        self._links = [Link("input", network.source.beat_bits(lanes))]
        self._ready: dict[tuple[str, str], Link] = {}  # (stream, reader) -> its link
        self._spread(network.inputs[0], self._links[0], lanes)

    def design(self) -> Design:
        for instance in self._network.instances:
            self._place(instance)
        output = self._ready[self._network.outputs[0], ""]
        return Design(self._network, self._foldings, tuple(self._cells), tuple(self._links), output)

    def _name(self, wanted: str) -> str:
        name = free_name(wanted, self._taken)
        self._taken.add(name.lower())
        return name

    def _append(self, cell: Cell) -> None:
        self._cells.append(cell)
        self._links += cell.sinks

    def _place(self, instance: Instance) -> None:
        unit, folding, name = instance.unit, self._foldings[instance.name], self._names[instance.name]
        out_lanes = unit.lanes(folding)[1]
        sources = tuple(self._ready[stream, f"{instance.name}/{i}"] for i, stream in enumerate(instance.sources))
        prefix = name.removesuffix(f"_{instance.name.rpartition('.')[2]}") if instance in self._products else name
        files = {kind: f"{prefix}_{kind}.mem" for kind in unit.memory_kinds}
        parameters = library.in_order(unit.module, parameters_of(unit, folding, files))
        memories = {files[kind]: memory for kind, memory in unit.memories(folding).items()}
        sink = Link(name, unit.result.beat_bits(out_lanes))
        comment = unit.comment(instance.layer, folding)
        made = (unit.module, parameters, sources, (sink,), comment, unit.clocked, unit.status, memories)
        self._append(Cell(name, *made))
        self._spread(instance.result, sink, out_lanes)

    def _spread(self, stream: str, link: Link, lanes: int) -> None:
        """Bring a stream to all its readers."""
        readers = [
            (reader, i)
            for reader in self._network.readers(stream)
            for i, source in enumerate(reader.sources)
            if source == stream
        ]
        keys = [(f"{reader.name}/{i}", reader.unit.lanes(self._foldings[reader.name])[0]) for reader, i in readers]
        layers = [reader.layer for reader, _ in readers]
        if stream in self._network.outputs:
            keys.append(("", lanes))
            layers.append("output")
        links = [link] if len(keys) == 1 else self._fork(link, len(keys))
        for branch, (key, wanted), layer in zip(links, keys, layers, strict=True):
            branch = self._queue(branch, self._depths.get((stream, key), 0))
            if wanted != lanes:
                branch = self._convert(stream, branch, lanes, wanted, layer)
            self._ready[stream, key] = branch

    def _fork(self, link: Link, count: int) -> list[Link]:
        name = self._name(f"{link.name}_fork")
        sinks = tuple(Link(f"{name}_{i}", link.bits) for i in range(count))
        parameters = {"Width": link.bits, "Outputs": count}
        self._append(Cell(name, "mx_fork", parameters, (link,), sinks, f"{link.name} to {count} readers"))
        return list(sinks)

    def _queue(self, link: Link, depth: int) -> Link:
        if not depth:
            return link
        sink = Link(self._name(f"{link.name}_fifo"), link.bits)
        parameters, comment = {"Width": link.bits, "Depth": depth}, f"up to {depth} beats of {link.name} wait"
        self._append(Cell(sink.name, "mx_fifo", parameters, (link,), (sink,), comment))
        return sink

    def _convert(self, stream: str, link: Link, lanes: int, wanted: int, layer: str) -> Link:
        kind: Wide = self._network.streams[stream]
        name = self._names.get(f"{layer}.lanes", f"{link.name}_lanes")
        if any(cell.name == name for cell in self._cells):
            name = self._name(f"{link.name}_lanes")
        parameters = {"InLanes": lanes, "OutLanes": wanted, "ElemWidth": kind.width, "K": kind.channels}
        sink = Link(name, kind.beat_bits(wanted))
        self._append(Cell(name, "mx_lanes", parameters, (link,), (sink,), f"{lanes} to {wanted} values per beat"))
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
        cells=_with_ports(design),
        errors=sum("error_o" in cell.status for cell in design.cells),
        counters=len(design.counters),
        links=design.links,
        source=network.source,
        result=network.result,
        in_lanes=in_lanes,
        out_lanes=out_lanes,
        in_beats=network.source.beats(in_lanes),
        out_beats=network.result.beats(out_lanes),
        in_slot=network.source.at_border().width,
        out_slot=network.result.at_border().width,
        in_bits=network.source.at_border().beat_bits(in_lanes),
        output=design.output,
        out_bits=network.result.at_border().beat_bits(out_lanes),
    )


def _with_ports(design: Design) -> list[tuple[Cell, list[tuple[str, str]]]]:
    """Every cell with what its ports join: streams, then error flags and counters, which take their bits in order."""
    taken, found = {"clamped_o": 0, "error_o": 0}, []
    for cell in design.cells:
        ports = []
        for i, link in enumerate(cell.sources):
            prefix = "s_axis" if len(cell.sources) == 1 else f"s{i}_axis"
            ports += [(f"{prefix}_t{wire}", f"{link.name}_{wire}") for wire in _WIRES]
        for wire in _WIRES:
            names = [f"{link.name}_{wire}" for link in reversed(cell.sinks)]
            ports.append((f"m_axis_t{wire}", names[0] if len(names) == 1 else f"{{{', '.join(names)}}}"))
        for port, bits in cell.status.items():
            start = taken[port]
            ports.append((port, f"clamped_o[{start}+:{bits}]" if port == "clamped_o" else f"errors[{start}]"))
            taken[port] = start + bits
        found.append((cell, ports))
    return found


def write_memories(design: Design, directory: Path) -> None:
    """The .mem file of every ROM."""
    for cell in design.cells:
        for file, memory in cell.memories.items():
            words.write_mem(directory / file, memory.fields, memory.width)
