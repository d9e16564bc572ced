"""Network and foldings -> SystemVerilog: the top level and the memory files. Knows no unit by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import mxexport
from mxexport.fpga import library
from mxexport.fpga.areas.area import pays_in_ultra
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.scheduling import copies, memory as memory_of
from mxexport.fpga.scheduling.loops import apart
from mxexport.fpga.scheduling.schedule import path, port_lanes, relays, stream_lanes
from mxexport.fpga.scheduling.timing import TURNS, cycles_per_unit, fifo_depths, latency
from mxexport.fpga.streams import words
from mxexport.fpga.streams.types import Conversion
from mxexport.fpga.unit import Folding, Memory, parameters_of
from mxexport.fpga.writing import templates
from mxexport.fpga.writing.identifiers import identifiers
from mxexport.model.names import free_name

TOP = "mx_top"
_WEIGHTS = "s_axis_weights"
LOADED = "weights.bin"
"""Beside the .mem files: what goes through that port, beat by beat."""
STREAMED = "weights_streamed.bin"
"""Likewise what lies in memory, from `weights_base_i` on."""


def axi_ports(bus: int) -> dict[str, tuple[str, int]]:
    """Ports of the top level that reads memory -> direction and bits."""
    asked = {"arvalid": 1, "araddr": 64, "arlen": 8, "arsize": 3, "arburst": 2, "rready": 1}
    answered = {"arready": 1, "rvalid": 1, "rdata": bus, "rresp": 2, "rlast": 1}
    axi = {name: ("output", n) for name, n in asked.items()} | {name: ("input", n) for name, n in answered.items()}
    control = {"weights_base_i": ("input", 64), "weights_go_i": ("input", 1)}
    return control | {f"m_axi_{name}": port for name, port in axi.items()}


_WIRES = ("valid", "ready", "data", "last")


@dataclass(frozen=True)
class Link:
    """The wires of one stream between two cells, or of a port of the top level."""

    name: str
    bits: int
    port: bool = False

    def wire(self, kind: str) -> str:
        """Of "valid", "ready", "data", "last"."""
        return f"{self.name}_{'t' * self.port}{kind}"


@dataclass(frozen=True)
class Cell:
    """One instance in the top level: module, parameters (strings are memory files), the links it joins.

    `status`: outputs besides the streams -> bits; `memories`: file name -> content; `verdicts`: links that say of
    frames whether they are whole, between the borders. `copies` side by side take equal parts of every stream, whose
    bits in one copy are `ports`: those of its sources, then of its sinks.
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
    verdicts: tuple[Link, ...] = ()
    others: tuple[str, ...] = ()
    """Ports of the top level that it has under the same name."""
    copies: int = 1
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Design:
    """Everything the top level holds, in stream order. `fifos`: cell -> depth; `units`: instance -> cell, whose output
    link is called as the cell. `border`: lanes of the ports of a part of a network (`parts`), which carry values as
    they are; without it ports are those of a network, in slots and guarded."""

    network: Network
    foldings: dict[str, Folding]
    cells: tuple[Cell, ...]
    links: tuple[Link, ...]
    ports: tuple[Link, ...]
    fifos: dict[str, int]
    units: dict[str, str]
    border: Mapping[str, int] = field(default_factory=dict)
    weights: Link | None = None
    """The port through which weights are loaded."""
    bus: int = 0
    """Bits of the bus on which weights are read from memory; 0: none are."""

    def lanes(self, stream: str) -> int:
        """Of an input or output of the network."""
        return self.border.get(stream) or port_lanes(self.network, self.foldings, stream)

    def port_of(self, stream: str) -> Link:
        """The port of the top level that an input or output of the network passes."""
        ends = (*self.network.inputs, *self.network.outputs)
        return self.ports[ends.index(stream)]

    @property
    def counters(self) -> list[str]:
        """Layers whose `clamped_o` the top level counts, in order, each as often as it has copies."""
        counted = [i for i in self.network.instances if "clamped_o" in i.unit.status]
        return [i.layer for i in counted for _ in range(copies.count(i.unit, self.foldings[i.name]))]


def place(network: Network, foldings: Mapping[str, Folding]) -> Design:
    """Cells for every unit, and what stands between them."""
    return Placer(network, foldings, fifo_depths(network, foldings)).design()


class Placer:
    """Cells in stream order. Between a unit and its readers stand, where they are needed: a fork, and for every reader
    a FIFO and a lane converter. A cell at every border turns slots into values and back, and keeps frames whole; a part
    of a network has other borders (`parts`)."""

    def __init__(self, network: Network, foldings: Mapping[str, Folding], depths: Mapping[tuple[str, str], int]):
        self._network, self._foldings, self._depths = network, foldings, depths
        self._cells: list[Cell] = []
        self._links: list[Link] = []
        self._fifos: dict[str, int] = {}
        self._relays = relays(network, foldings)
        self._products = network.products()  # their memories are called by the layer alone
        names = list(dict.fromkeys(n for i in network.instances for n in (f"{i.layer}.lanes", i.name)))
        self._names = dict(zip(names, identifiers(names), strict=True))
        self._ends = {stream: self._end(stream, "input", "output") for stream in (*network.inputs, *network.outputs)}
        self._taken = {name.lower() for name in (*self._names.values(), *self._ends.values())}
        self._ready: dict[tuple[str, str], Link] = {}  # (stream, reader) -> its link
        self._fed: dict[str, Link] = {}  # unit -> what brings its weights
        self._verdicts: list[list[Link]] = []  # of every input, one for each output

    def design(self) -> Design:
        for stream in self._network.inputs:
            self._enter(stream)
        weights, bus = self._deal(), self._read()
        for instance in self._network.instances:
            self._place(instance)
        for i, stream in enumerate(self._network.outputs):
            self._leave(stream, tuple(links[i] for links in self._verdicts))
        ports = [link for cell in self._cells for link in (*cell.sources, *cell.sinks) if link.port and link != weights]
        ports = (*ports, *[weights] * (weights is not None))  # in the order of inputs, then outputs
        links = tuple(link for link in self._links if not link.port)
        found = (tuple(self._cells), links, ports, self._fifos, self._units())
        return Design(self._network, self._foldings, *found, weights=weights, bus=bus)

    def _deal(self) -> Link | None:
        """The port of the weights that are loaded, if there are such, dealt out to the units that take them."""
        units = memory_of.loaded(self._network)
        if not units:
            return None
        port = link = Link(_WEIGHTS, units[0].unit.bus, port=True)
        counts = memory_of.beats(units, self._foldings)
        for i, unit in enumerate(units[:-1]):
            name = self._name(f"{self._names[unit.name]}_weights")
            sinks = Link(name, port.bits), Link(self._name(f"{name}_rest"), port.bits)
            parameters = {"Width": port.bits, "First": counts[i], "Rest": sum(counts[i + 1 :])}
            comment = f"the next {counts[i]} beats of a load are weights of {unit.layer}"
            self._append(Cell(name, "mx_deal", parameters, (link,), sinks, comment, status={"error_o": 1}))
            self._fed[unit.name], link = sinks
        self._fed[units[-1].name] = link
        return port

    def _read(self) -> int:
        """What reads weights from memory, if some are streamed: the bits of its bus."""
        units = memory_of.streamed(self._network)
        if not units:
            return 0
        bus, file = units[0].unit.bus, "weights_regions.mem"
        regions = Memory(memory_of.regions(units, self._foldings), 32)
        sinks = tuple(Link(self._name(f"{self._names[unit.name]}_weights"), bus) for unit in units)
        self._fed |= {unit.name: sink for unit, sink in zip(units, sinks, strict=True)}
        parameters = {"Channels": len(units), "Bus": bus, "Burst": memory_of.BURST, "TableFile": file}
        if memory_of.layers(units) > 1:
            parameters["Layers"] = memory_of.layers(units)
        made = ("weights_reader", "mx_axi_read", parameters, (), sinks, f"weights of {len(units)} units, from memory")
        self._append(Cell(*made, status={"error_o": 1}, memories={file: regions}, others=tuple(axi_ports(bus))))
        return bus

    def _units(self) -> dict[str, str]:
        return {instance.name: self._names[instance.name] for instance in self._network.instances}

    def _end(self, stream: str, entering: str, leaving: str) -> str:
        """One of two names, for an input or an output, numbered where there are several."""
        incoming = stream in self._network.inputs
        ends = self._network.inputs if incoming else self._network.outputs
        return (entering if incoming else leaving) + ("" if len(ends) == 1 else f"_{ends.index(stream)}")

    def _port(self, stream: str, lanes: int) -> Link:
        bits = self._network.streams[stream].at_border().beat_bits(lanes)
        return Link(self._end(stream, "s_axis", "m_axis"), bits, port=True)

    def _enter(self, stream: str) -> None:
        kind, lanes = self._network.streams[stream], stream_lanes(self._network, self._foldings, stream)
        name, slot = self._ends[stream], kind.at_border().width
        link, verdict = Link(name, kind.beat_bits(lanes)), Link(self._name(f"{name}_verdict"), 1)
        held = kind.channels * kind.side_by_side(lanes)
        parameters = {"Width": kind.width, "Slot": slot, "Lanes": lanes, "K": held, "Beats": kind.beats(lanes)}
        self._append(
            Cell(
                name,
                "mx_ingress",
                parameters,
                (self._port(stream, lanes),),
                (link,),
                f"{self._network.tensors[stream]}: slots of {slot} bits to values, frames kept whole",
                status={"error_o": 1, "saturated_o": 32, "misplaced_o": 32},
                verdicts=(verdict,),
            )
        )
        self._links.append(verdict)
        outputs = len(self._network.outputs)
        branches = [verdict] if outputs == 1 else self._fork(verdict, outputs)
        self._verdicts.append([self._queue(branch, self._frames_inside) for branch in branches])
        self._spread(stream, link, lanes)

    @cached_property
    def _frames_inside(self) -> int:
        """Most frames that are on their way, as a power of two; more would only wait at the input."""
        cycles = max(cycles_per_unit(self._network, self._foldings).values())
        frames = latency(self._network, self._foldings) // cycles + 3
        return max(words.power_of_two(frames), 4)

    def _leaving_lanes(self, stream: str) -> int:
        """Lanes in which an output of the network comes to its border."""
        return port_lanes(self._network, self._foldings, stream)

    def _leave(self, stream: str, verdicts: tuple[Link, ...]) -> None:
        kind, lanes = self._network.streams[stream], port_lanes(self._network, self._foldings, stream)
        slot = kind.at_border().width
        parameters = {"Width": kind.width, "Slot": slot, "Lanes": lanes, "Inputs": len(verdicts)}
        self._append(
            Cell(
                self._ends[stream],
                "mx_egress",
                parameters,
                (self._ready[stream, ""],),
                (self._port(stream, lanes),),
                f"{self._network.tensors[stream]}: values to slots of {slot} bits, broken frames left out",
                status={"dropped_o": 32},
                verdicts=verdicts,
            )
        )

    def _name(self, wanted: str) -> str:
        name = free_name(wanted, self._taken)
        self._taken.add(name.lower())
        return name

    def _append(self, cell: Cell) -> None:
        self._cells.append(cell)
        self._links += cell.sinks

    def _place(self, instance: Instance) -> None:
        unit, folding, name = instance.unit, self._foldings[instance.name], self._names[instance.name]
        out_lanes = copies.lanes(unit, folding)[1]
        one, own = copies.one(unit, folding)
        sources = tuple(self._ready[stream, f"{instance.name}/{i}"] for i, stream in enumerate(instance.sources))
        sources += tuple(filter(None, [self._fed.get(instance.name)]))
        prefix = name.removesuffix(f"_{instance.name.rpartition('.')[2]}") if instance in self._products else name
        files = {kind: f"{prefix}_{kind}.mem" for kind in unit.memory_kinds}
        parameters = library.in_order(unit.module, parameters_of(one, own, files))
        memories = {files[kind]: memory for kind, memory in one.memories(own).items()}
        sink = Link(name, unit.result.beat_bits(out_lanes))
        comment = one.comment(instance.layer, own)
        made = (unit.module, parameters, sources, (sink,), comment, unit.clocked, unit.status, memories)
        lanes = one.lanes(own)
        ports = (*(s.beat_bits(lanes[0]) for s in one.sources), one.result.beat_bits(lanes[1]))
        self._append(Cell(name, *made, copies=copies.count(unit, folding), ports=ports))
        self._spread(instance.result, sink, out_lanes)

    def _spread(self, stream: str, link: Link, lanes: int) -> None:
        """Bring a stream to all its readers."""
        loop = self._network.loop
        if loop is not None and stream == loop.exit:
            link = self._go_around(link, lanes)
        if loop is not None and stream == loop.entry:
            link, lanes = self._come_in(link, lanes)
        beside = loop is not None and stream in loop.sides
        ends, inner = [], []
        for reader, i in self._network.uses(stream):
            end = f"{reader.name}/{i}", copies.lanes(reader.unit, self._foldings[reader.name])[0], reader.layer
            (inner if beside and self._network.is_inner(reader) else ends).append(end)
        if stream in self._network.outputs:
            ends.append(("", self._leaving_lanes(stream), "output"))
        links = self._branches(link, len(ends) + bool(inner))
        self._bring(stream, links, lanes, ends)
        if inner:
            link, lanes = self._come_beside(stream, links[-1], lanes)
            self._bring(stream, self._branches(link, len(inner)), lanes, inner)

    def _branches(self, link: Link, count: int) -> list[Link]:
        return [link] if count == 1 else self._fork(link, count)

    def _bring(self, stream: str, links: list[Link], lanes: int, ends: list[tuple[str, int, str]]) -> None:
        """Each of the first links to one of the inputs that take it: its name, in what lanes, and of which layer."""
        for branch, (key, wanted, layer) in zip(links, ends, strict=False):
            branch = self._queue(branch, self._depths.get((stream, key), 0))
            if stream in self._relays:
                branch = self._register(branch)
            if wanted != lanes:
                branch = self._convert(stream, branch, lanes, wanted, layer)
            self._ready[stream, key] = branch

    def _come_beside(self, stream: str, link: Link, lanes: int) -> tuple[Link, int]:
        """What every turn reads, which comes once."""
        kind, wanted = self._network.streams[stream], stream_lanes(self._body, self._foldings, stream)
        link = self._queue(link, self._depths.get((stream, TURNS), 0))
        link = self._chain(link, path(kind, lanes, wanted), "turns")
        sink = Link(self._name(f"{link.name}_turns"), link.bits)
        comment = f"each frame of {link.name} {self._network.loop.count} times"
        parameters = {"Width": link.bits, "Beats": kind.beats(wanted), "Turns": self._network.loop.count}
        self._append(Cell(sink.name, "mx_turns_beside", parameters, (link,), (sink,), comment))
        return sink, wanted

    @cached_property
    def _body(self) -> Network:
        return apart(self._network)[1]

    def _come_in(self, link: Link, lanes: int) -> tuple[Link, int]:
        """What enters the first turn, before what comes back to the others."""
        loop, wanted = self._network.loop, stream_lanes(self._network, self._foldings, self._network.loop.entry)
        link = self._queue(link, self._depths.get((loop.entry, TURNS), 0))
        link = self._chain(link, path(self._network.streams[loop.entry], lanes, wanted), "turns")
        sink = Link(self._name("turns_in"), link.bits)
        comment = f"a frame, then {loop.count - 1} times what comes back of it"
        parameters = {"Width": link.bits, "Turns": loop.count}
        self._append(Cell(sink.name, "mx_turns_in", parameters, (link, self._way_back), (sink,), comment))
        return self._register(sink), wanted

    @cached_property
    def _way_back(self) -> Link:
        """From the end of the body to its beginning."""
        entry = self._network.loop.entry
        lanes = stream_lanes(self._network, self._foldings, entry)
        return Link(self._name("turns_back"), self._network.streams[entry].beat_bits(lanes))

    def _go_around(self, link: Link, lanes: int) -> Link:
        """The frames that leave the body for good; others go back, through a FIFO that holds one."""
        network, loop, back = self._network, self._network.loop, self._way_back
        name = self._name("turns_out")
        sinks = Link(self._name("turns_again"), link.bits), Link(self._name("turns_done"), link.bits)
        comment = f"of {loop.count} frames the last leaves, the others come back"
        parameters = {"Width": link.bits, "Turns": loop.count}
        self._append(Cell(name, "mx_turns_out", parameters, (link,), sinks, comment))
        wanted = stream_lanes(network, self._foldings, loop.entry)
        again = self._chain(sinks[0], path(network.streams[loop.exit], lanes, wanted), "turns")
        depth = words.power_of_two(max(network.streams[loop.entry].beats(wanted), 2))
        self._fifo(again, back, depth)
        depth = self._depths.get((loop.exit, TURNS), 0)
        return self._queue(sinks[1], depth) if depth else self._register(sinks[1])

    def _register(self, link: Link) -> Link:
        sink = Link(self._name(f"{link.name}_skid"), link.bits)
        comment = f"{link.name} waits for no other unit's tready"
        self._append(Cell(sink.name, "mx_skid", {"Width": link.bits}, (link,), (sink,), comment))
        return sink

    def _fork(self, link: Link, count: int) -> list[Link]:
        name = self._name(f"{link.name}_fork")
        sinks = tuple(Link(f"{name}_{i}", link.bits) for i in range(count))
        parameters = {"Width": link.bits, "Outputs": count}
        self._append(Cell(name, "mx_fork", parameters, (link,), sinks, f"{link.name} to {count} readers"))
        return list(sinks)

    def _queue(self, link: Link, depth: int) -> Link:
        if not depth:
            return link
        return self._fifo(link, Link(self._name(f"{link.name}_fifo"), link.bits), depth)

    def _fifo(self, link: Link, sink: Link, depth: int) -> Link:
        large = self._network.ultra and pays_in_ultra(depth, link.bits + 1)
        parameters = {"Width": link.bits, "Depth": depth} | ({"Ultra": 1} if large else {})
        comment = f"up to {depth} beats of {link.name} wait"
        self._append(Cell(sink.name, "mx_fifo", parameters, (link,), (sink,), comment))
        if link.bits > 1:  # not a verdict
            self._fifos[sink.name] = depth
        return sink

    def _convert(self, stream: str, link: Link, lanes: int, wanted: int, layer: str) -> Link:
        return self._chain(link, self._network.streams[stream].conversions(lanes, wanted), layer)

    def _chain(self, link: Link, conversions: Iterable[Conversion], layer: str) -> Link:
        """One lane converter after the other, in front of a layer."""
        for conversion in conversions:
            name = self._names.get(f"{layer}.lanes", f"{link.name}_lanes")
            if any(cell.name == name for cell in self._cells):
                name = self._name(f"{link.name}_lanes")
            parameters = library.in_order("mx_lanes", conversion.parameters())
            sink = Link(name, conversion.side + conversion.wanted * conversion.bits)
            called = "values" if conversion.bits <= 64 else "vectors or blocks"
            comment = f"{conversion.lanes} to {conversion.wanted} {called} per beat"
            self._append(Cell(name, "mx_lanes", parameters, (link,), (sink,), comment))
            link = sink
        return link


def top_level(design: Design, module: str = TOP) -> str:
    """Text of the top-level module, called `module`."""
    network, cells = design.network, _with_ports(design)
    template = templates.environment().get_template("top.sv.j2")
    return template.render(
        module=module,
        slots=not design.border,
        version=mxexport.__version__,
        products=len(network.products()),
        cells=cells,
        status=status_bits(design),
        links=design.links,
        inputs=[_border(design, stream) for stream in network.inputs],
        outputs=[_border(design, stream) for stream in network.outputs],
        ports=design.ports,
        others=axi_ports(design.bus) if design.bus else {},
    )


def _border(design: Design, stream: str) -> dict:
    kind, lanes = design.network.streams[stream], design.lanes(stream)
    numbers = {"lanes": lanes, "beats": kind.beats(lanes), "slot": kind.at_border().width}
    return {"name": design.network.tensors[stream], "kind": kind} | numbers


def status_bits(design: Design) -> dict[str, int]:
    """Output of the top level, besides streams -> bits."""
    found: dict[str, int] = {}
    for cell in design.cells:
        for port, bits in cell.status.items():
            found[port] = found.get(port, 0) + bits * cell.copies
    return {port: bits for port, bits in found.items() if bits}


def _with_ports(design: Design) -> list[tuple[Cell, list[tuple[str, str]]]]:
    """Every cell with what its ports join: streams, then error flags and counters, which take their bits in order."""
    taken: dict[str, int] = {}
    found = []
    for cell in design.cells:
        ports = _copied_ports(cell) if cell.copies > 1 else _ports(cell)
        for port, bits in cell.status.items():
            start, wires = taken.get(port, 0), "errors" if port == "error_o" else port
            at = str(start) if cell.copies == 1 else f"{start} + i * {bits}"
            ports.append((port, f"{wires}[{at}]" if port == "error_o" else f"{wires}[{at}+:{bits}]"))
            taken[port] = start + bits * cell.copies
        found.append((cell, ports))
    return found


def _prefixes(cell: Cell) -> list[tuple[str, Link]]:
    """Of the ports of its streams, with what they join."""
    sources = ["s_axis"] if len(cell.sources) == 1 else [f"s{i}_axis" for i in range(len(cell.sources))]
    return list(zip(sources, cell.sources, strict=True))


def _ports(cell: Cell) -> list[tuple[str, str]]:
    ports = [(f"{prefix}_t{wire}", link.wire(wire)) for prefix, link in _prefixes(cell) for wire in _WIRES]
    for prefix, links in (("m_axis", cell.sinks), ("verdict", cell.verdicts)):
        for wire in _WIRES if links else ():
            names = [link.wire(wire) for link in reversed(links)]
            ports.append((f"{prefix}_t{wire}", names[0] if len(names) == 1 else f"{{{', '.join(names)}}}"))
    return ports + [(name, name) for name in cell.others]


def _copied_ports(cell: Cell) -> list[tuple[str, str]]:
    """Of copy i in a loop over them: each has its part of the data, and only the first says where streams stand."""
    ports, (sink,) = [], cell.sinks
    for n, (prefix, link) in enumerate(_prefixes(cell)):
        part = link.bits // cell.copies
        data = f"{cell.ports[n]}'({link.wire('data')}[i * {part}+:{part}])"
        values = {"valid": link.wire("valid"), "ready": f"readies[{n}][i]", "data": data, "last": link.wire("last")}
        ports += [(f"{prefix}_t{wire}", values[wire]) for wire in _WIRES]
    values = {"valid": "valids[i]", "ready": sink.wire("ready"), "data": "results[i]", "last": "lasts[i]"}
    return ports + [(f"m_axis_t{wire}", values[wire]) for wire in _WIRES]


def write_memories(design: Design, directory: Path) -> None:
    """The .mem file of every ROM, and weights that come through ports."""
    for cell in design.cells:
        for file, memory in cell.memories.items():
            words.write_mem(directory / file, memory.fields, memory.width)
    if units := memory_of.loaded(design.network):
        (directory / LOADED).write_bytes(memory_of.words(units, design.foldings).tobytes())
    if units := memory_of.streamed(design.network):
        (directory / STREAMED).write_bytes(memory_of.image(units, design.foldings).tobytes())
