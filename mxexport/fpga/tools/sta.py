"""Static timing analysis of a netlist by Yosys: the longest path of a unit by published delays and a stated net delay.

Nothing is placed or routed: every connection outside of a slice takes the same time (`Delays.net`). Inputs of the
unit come from registers at its border, outputs go to such. The result says which units are deep and where, not what a
part will reach; it is written as an estimate wherever it is shown.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mxexport.errors import MXExportError


@dataclass(frozen=True)
class Delays:
    """Picoseconds of a family's cells; `source` says where each is written."""

    lut_pins: tuple[int, ...]  # input to output, fastest pin first: placement gives late inputs the fast ones
    site_pin: int  # into a LUT, on top
    clock_to_q: int
    setup: int  # of a register behind routing
    setup_behind_lut: int  # of a register in the slice of the LUT or carry chain before it
    carry_in: int  # into a carry chain, to its first carry
    carry_four: int  # through four bits of a chain
    carry_out: int  # from a chain to a sum
    mux: int  # MUXF7, MUXF8, MUXF9
    shift_register: int  # SRL and distributed RAM, clock to output
    block_ram: int  # clock to output without its output register
    block_ram_setup: int
    dsp: int  # clock to P with its register
    dsp_setup: int  # of an input with its register
    net: int  # a connection outside of a slice
    source: str


ULTRASCALE_PLUS = Delays(
    lut_pins=(35, 50, 90, 100, 125, 150),
    site_pin=74,
    clock_to_q=77,
    setup=100,
    setup_behind_lut=75,
    carry_in=231,
    carry_four=46,
    carry_out=231,
    mux=80,
    shift_register=500,
    block_ram=900,
    block_ram_setup=200,
    dsp=400,
    dsp_setup=300,
    net=300,
    source="UltraScale+ -2. LUT, register and carry delays, RAMB36: RapidWright's open delay model (FPT 2019), the "
    "largest where it gives a range, a CARRY8 as two CARRY4. MUXF, shift registers, DSP (with its registers), set-up "
    "of block RAM: assumed, in the order of DS925. Connections take 43 ps and 3.5 ps for each tile in that model, and "
    "200 to 450 ps on average in placed designs",
)
SERIES_7 = Delays(
    lut_pins=(124,) * 6,
    site_pin=0,
    clock_to_q=456,
    setup=100,
    setup_behind_lut=30,
    carry_in=533,
    carry_four=117,
    carry_out=334,
    mux=214,
    shift_register=1310,
    block_ram=2454,
    block_ram_setup=566,
    dsp=434,
    dsp_setup=400,
    net=600,
    source="7 series -1, as Vivado's timing reports for Artix-7 print them (DS181); DSP with all of its registers. "
    "Connections: assumed, twice those of UltraScale+",
)

_WORDS = {
    "register": "register",
    "block_ram": "block RAM",
    "dsp": "DSP slice",
    "shift_register": "shift register",
    "memory": "memory",
}


@dataclass(frozen=True)
class Path:
    """The longest path of a unit."""

    start: str  # register, memory, DSP slice or input
    end: str
    ps: int
    nets_ps: int  # of it, in connections
    luts: int
    carry_cells: int  # of four bits

    @property
    def fmax_mhz(self) -> float:
        return round(1e6 / self.ps, 1)

    def __str__(self) -> str:
        steps = [f"{self.luts} LUT{'s' * (self.luts != 1)}"] * (self.luts > 0)
        steps += [f"{4 * self.carry_cells} bits of carry"] * (self.carry_cells > 0)
        through = f" through {' and '.join(steps)}" if steps else ""
        nets = f"{self.nets_ps / 1000:.1f} of it in connections"
        return f"{self.start}{through} to {self.end}: {self.ps / 1000:.1f} ns, {nets}"


@dataclass(frozen=True)
class _Arrival:
    """When a signal is there, and what it came through."""

    ps: int
    start: str
    nets_ps: int = 0
    luts: int = 0
    carry_cells: int = 0
    slice: bool = False  # its driver is a LUT, a multiplexer or a carry chain: a register may lie beside it
    chain: bool = False  # it goes from one carry cell to the next

    def then(self, ps: int, *, net: int = 0, luts: int = 0, carry: int = 0, **where: bool) -> _Arrival:
        return _Arrival(
            self.ps + ps + net, self.start, self.nets_ps + net, self.luts + luts, self.carry_cells + carry, **where
        )


def longest_path(netlist: Mapping, delays: Delays = ULTRASCALE_PLUS, net_ps: int | None = None) -> Path:
    """The longest path of a flat netlist: `write_json` of Yosys with one module; `net_ps`: other than `delays.net`.

    Raises:
        MXExportError: it has a cell of unknown delay, or a combinational loop.
    """
    return _Analysis(netlist, delays, delays.net if net_ps is None else net_ps).longest()


class _Analysis:
    def __init__(self, netlist: Mapping, delays: Delays, net_ps: int):
        self.delays, self.net = delays, net_ps
        modules = [m for m in netlist["modules"].values() if not m.get("attributes", {}).get("blackbox")]
        tops = [m for m in modules if "top" in m.get("attributes", {})] or modules
        if len(tops) != 1:
            raise MXExportError(f"timing: expected a flat netlist, found {len(tops)} modules")
        self.module = tops[0]
        self.cells = {n: c for n, c in self.module["cells"].items() if c["type"] != "$scopeinfo"}
        self.driver: dict[int, tuple[str, str, int]] = {}
        for name, cell in self.cells.items():
            for port, bits in cell["connections"].items():
                if cell["port_directions"].get(port) == "output":
                    self.driver |= {bit: (name, port, i) for i, bit in enumerate(bits) if isinstance(bit, int)}
        self.names = dict(_names(self.module))
        self.inputs = {b for p in self.module["ports"].values() if p["direction"] == "input" for b in p["bits"]}
        self.known: dict[int, _Arrival | None] = {}

    def longest(self) -> Path:
        worst = None
        for end, arrival in self._ends():
            if worst is None or arrival.ps > worst[1].ps:
                worst = end, arrival
        if worst is None:
            return Path("no register", "none", self.delays.clock_to_q + self.delays.setup, 0, 0, 0)
        end, a = worst
        return Path(a.start, end, a.ps, a.nets_ps, a.luts, a.carry_cells)

    def _ends(self) -> Iterator[tuple[str, _Arrival]]:
        for name, cell in self.cells.items():
            kind = _kind(cell["type"])
            if kind in ("lut", "carry", "mux"):
                continue
            for port, bits in cell["connections"].items():
                if cell["port_directions"].get(port) == "input" and not _is_clock(port):
                    for bit in bits:
                        if (arrival := self._at(bit)) is not None:
                            yield self._end_name(name, kind, port), self._captured(arrival, kind, port)
        for port, found in self.module["ports"].items():
            if found["direction"] == "output":
                for bit in found["bits"]:
                    if (arrival := self._at(bit)) is not None:
                        yield f"output {port}", arrival.then(self.delays.setup, net=self.net)

    def _captured(self, arrival: _Arrival, kind: str, port: str) -> _Arrival:
        if kind == "register" and port == "D" and arrival.slice:
            return arrival.then(self.delays.setup_behind_lut)
        if kind == "dsp":
            return arrival.then(0 if port == "PCIN" else self.delays.dsp_setup, net=0 if port == "PCIN" else self.net)
        return arrival.then(self.delays.block_ram_setup if kind == "block_ram" else self.delays.setup, net=self.net)

    def _at(self, bit: int | str) -> _Arrival | None:
        """None for constants and the clock. Iterative: chains are longer than Python's stack."""
        stack = [bit]
        while stack:
            top = stack[-1]
            if not isinstance(top, int) or top in self.known:
                stack.pop()
                continue
            waits = [b for b in self._sources(top) if isinstance(b, int) and b not in self.known]
            if waits:
                if len(stack) > len(self.driver) + 1:
                    raise MXExportError(f"timing: a combinational loop through {self._name(top)}")
                stack.extend(waits)
                continue
            self.known[top] = self._arrival(top)
            stack.pop()
        return self.known.get(bit) if isinstance(bit, int) else None

    def _sources(self, bit: int) -> list[int | str]:
        """What it depends on within a cycle."""
        if bit not in self.driver:
            return []
        name, port, index = self.driver[bit]
        cell = self.cells[name]
        kind, joined = _kind(cell["type"]), cell["connections"]
        if kind == "lut":
            return (
                [joined[f"I{i}"][0] for i in _pins(cell["parameters"]["INIT"], port)] if "I0" in joined else joined["I"]
            )
        if kind == "mux":
            return [b for p, bits in joined.items() if cell["port_directions"][p] == "input" for b in bits]
        if kind == "carry":
            # A sum depends on its own S and the carries below.
            firsts = [b for p in ("CI", "CYINIT") for b in joined.get(p, [])]
            return [*firsts, *joined["S"][: index + 1], *joined["DI"][: index + (port == "CO")]]
        if kind == "memory":
            return _addresses(cell, port)
        return []

    def _arrival(self, bit: int) -> _Arrival | None:
        d = self.delays
        if bit not in self.driver:
            return _Arrival(d.clock_to_q, f"input {self._name(bit)}") if bit in self.inputs else None
        name, port, index = self.driver[bit]
        cell = self.cells[name]
        kind = _kind(cell["type"])
        if kind == "lut":
            return self._through_lut(self._sources(bit))
        if kind == "mux":
            return _latest(a.then(d.mux, net=0 if a.slice else self.net, slice=True) for a in self._of(bit))
        if kind == "carry":
            return self._through_carry(cell, port, index)
        if kind == "memory":
            read = self._through_lut(self._sources(bit))
            own = _Arrival(d.shift_register, f"memory {self._name(bit)}")
            return _latest(a for a in (read, own) if a is not None)
        start = {"register": d.clock_to_q, "block_ram": d.block_ram, "dsp": d.dsp, "shift_register": d.shift_register}
        return _Arrival(start[kind], f"{_WORDS[kind]} {self._name(bit)}")

    def _of(self, bit: int) -> list[_Arrival]:
        return [a for a in (self.known[b] for b in self._sources(bit) if isinstance(b, int)) if a is not None]

    def _through_lut(self, sources: list) -> _Arrival | None:
        found = [a for a in (self.known[b] for b in sources if isinstance(b, int)) if a is not None]
        found.sort(key=lambda a: -a.ps)
        pins = zip(found, self.delays.lut_pins, strict=False)
        return _latest(a.then(pin + self.delays.site_pin, net=self.net, luts=1, slice=True) for a, pin in pins)

    def _through_carry(self, cell: Mapping, port: str, index: int) -> _Arrival | None:
        """A carry (CO) or a sum (O) of bit `index`, by way of the carry before the cell or of its bits up to there."""
        d, joined, found = self.delays, cell["connections"], []

        def enters(bit: int | str, fours: int, beside: bool) -> None:
            """Through so many fours of bits; `beside`: a LUT that drives it lies beside the chain."""
            if isinstance(bit, int) and (a := self.known[bit]) is not None:
                first = d.carry_four if a.chain else d.carry_in
                net = 0 if a.chain or (beside and a.slice) else self.net
                ps = first + (fours - 1) * d.carry_four
                found.append(a.then(ps, net=net, carry=fours, slice=True, chain=True))

        for pin in ("CI", "CYINIT"):
            for bit in joined.get(pin, []):
                enters(bit, index // 4 + 1, beside=False)
        for i in range(index + 1):
            enters(joined["S"][i], index // 4 - i // 4 + 1, beside=True)
            if i < index or port == "CO":
                enters(joined["DI"][i], index // 4 - i // 4 + 1, beside=True)
        worst = _latest(found)
        return worst if worst is None or port == "CO" else worst.then(d.carry_out, slice=True)

    def _end_name(self, name: str, kind: str, port: str) -> str:
        joined = self.cells[name]["connections"]
        if kind == "register":
            what = {"D": "register", "CE": "the enable of register"}.get(port, "the reset of register")
            return f"{what} {self._name(joined['Q'][0])}"
        first = next((b for p, bits in joined.items() for b in bits if self.driver.get(b, ("",))[0] == name), None)
        return f"{_WORDS[kind]} {self._name(first) if first is not None else name}"

    def _name(self, bit: int) -> str:
        return self.names.get(bit, "without a name")


def _latest(arrivals) -> _Arrival | None:
    return max(arrivals, key=lambda a: a.ps, default=None)


def _names(module: Mapping) -> Iterator[tuple[int, str]]:
    """Bit -> name in the source; the shortest, as inner ones repeat the path."""
    found: dict[int, str] = {}
    for name, net in module["netnames"].items():
        if net.get("hide_name"):
            continue
        for i, bit in enumerate(net["bits"]):
            label = f"{name}[{i}]" if len(net["bits"]) > 1 else name
            if isinstance(bit, int) and (bit not in found or len(label) < len(found[bit])):
                found[bit] = label
    return iter(found.items())


def _is_clock(port: str) -> bool:
    return port in ("C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK", "G")


_KINDS = {"LUT": "lut", "INV": "lut", "CARRY": "carry", "MUXF": "mux", "FD": "register", "SRL": "shift_register",
          "RAMB": "block_ram", "URAM": "block_ram", "RAM": "memory", "DSP48": "dsp", "DSP58": "dsp"}  # fmt: skip


@functools.cache
def _kind(cell_type: str) -> str:
    for start, kind in _KINDS.items():
        if cell_type.startswith(start):
            return kind
    raise MXExportError(f"timing: no delay is known for cell {cell_type}")


@functools.cache
def _pins(init: str, port: str) -> tuple[int, ...]:
    """Inputs of a LUT that its output depends on."""
    bits = [digit == "1" for digit in reversed(init)]
    if port == "O5":
        bits = bits[:32]
    count = (len(bits) - 1).bit_length()
    return tuple(k for k in range(count) if any(bits[i] != bits[i ^ (1 << k)] for i in range(len(bits))))


def _addresses(cell: Mapping, port: str) -> list[int | str]:
    """Read addresses of a distributed RAM: those of the port with the output's letter, or all of them."""
    joined = cell["connections"]
    letter = port[-1] if port.startswith("DO") and len(port) == 3 else ""
    own = joined.get(f"ADDR{letter}")
    if own is not None:
        return list(own)
    return [b for p, bits in joined.items() if p.startswith(("A", "DPRA")) and not _is_clock(p) for b in bits]
