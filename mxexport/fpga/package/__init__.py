"""The folder of a design as toolflows take it: Vivado, FuseSoC, Yosys, a test bench, drivers.

One template beside this file for each file that is written; what stands in them is collected once (`_facts`). Nothing
here knows a layer or a unit: all comes from the placed design and its report.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import mxexport
from mxexport.errors import OptionError
from mxexport.fpga import library
from mxexport.fpga.areas.devices import family
from mxexport.fpga.package import weights
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.tools.verilator import WAIVED
from mxexport.fpga.writing import emit, templates
from mxexport.fpga.writing.identifiers import KEYWORDS
from mxexport.model.writer import write_bytes

FRAMES = 4
"""Of the test bench."""
_LITE = [
    ("awvalid", "in", 1), ("awready", "out", 1), ("awaddr", "in", 12), ("wvalid", "in", 1), ("wready", "out", 1),
    ("wdata", "in", 32), ("wstrb", "in", 4), ("bvalid", "out", 1), ("bready", "in", 1), ("bresp", "out", 2),
    ("arvalid", "in", 1), ("arready", "out", 1), ("araddr", "in", 12), ("rvalid", "out", 1), ("rready", "in", 1),
    ("rdata", "out", 32), ("rresp", "out", 2),
]  # fmt: skip
_OURS = "Written by mxexport"
_ON_BOARDS = {  # device -> package and speed grade of the boards that devices.py names
    "xc7z020": "xc7z020clg400-1", "xc7a100t": "xc7a100tcsg324-1", "xczu3eg": "xczu3eg-sbva484-1-e",
    "xczu7ev": "xczu7ev-ffvc1156-2-e", "xczu9eg": "xczu9eg-ffvb1156-2-e", "xczu28dr": "xczu28dr-ffvg1517-2-e",
    "xck26": "xck26-sfvc784-2LV-c", "xcu50": "xcu50-fsvh2104-2-e", "xcu55c": "xcu55c-fsvh2892-2L-e",
    "xcu200": "xcu200-fsgd2104-2-e", "xcu250": "xcu250-figd2104-2L-e", "xcu280": "xcu280-fsvh2892-2L-e",
    "xcvc1902": "xcvc1902-vsva2197-2MP-e-S",
}  # fmt: skip
_FIRST_COUNTER = 8  # word, as mx_registers has it
_COUNTED = {
    "saturated_o": "values of input {} beyond its width",
    "misplaced_o": "frames of input {} with a misplaced TLAST",
    "dropped_o": "frames of output {} left out",
    "clamped_o": "blocks whose shared scale lay outside of the calibrated range, counter {}",
}
_TEMPLATES = {
    "wrapper.v.j2": "xilinx/{name}.v",
    "files.tcl.j2": "xilinx/files.tcl",
    "synth.tcl.j2": "xilinx/synth.tcl",
    "package_ip.tcl.j2": "xilinx/package_ip.tcl",
    "block_design.tcl.j2": "xilinx/block_design.tcl",
    "constraints.xdc.j2": "xilinx/{name}.xdc",
    "component.xml.j2": "component.xml",
    "core.j2": "{name}.core",
    "testbench.sv.j2": "tb/{name}_tb.sv",
    "run.sh.j2": "tb/run.sh",
    "header.h.j2": "driver/{name}.h",
    "driver.py.j2": "driver/{name}.py",
    "synth.ys.j2": "yosys/synth.ys",
    "yosys.sh.j2": "yosys/run.sh",
    "readme.md.j2": "README.md",
}


def check_name(name: str) -> str:
    """`name` where it can name a module, a Python file and an IP.

    Raises:
        OptionError: it cannot.
    """
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,62}", name) or name in KEYWORDS:
        raise OptionError(f"name is {name!r}; expected a letter, then letters, digits and underscores, and no keyword")
    if name.lower().startswith("mx_"):
        raise OptionError(f"name is {name!r}; names that begin with mx_ are those of the library")
    return name


def name_of(directory: Path) -> str:
    """A name for the design that lies there."""
    words = re.sub("[^A-Za-z0-9]+", "_", directory.resolve().name).strip("_")[:40]
    fits = words[:1].isalpha() and words not in KEYWORDS and not words.lower().startswith("mx_")
    return words if fits else f"design_{words}".strip("_")


def texts(design: emit.Design, report: Mapping, name: str, streams: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Relative path -> text of every file. `streams`: integers [N, ...] of every input and output of the network, the
    frames of the test bench."""
    environment = templates.environment("package")
    facts, vectors = _facts(design, report, name, streams), _vectors(design, streams) | _outside(design)
    facts["vectors"] = sorted(vectors)
    made = {
        path.format(name=name): environment.get_template(template).render(facts)
        for template, path in _TEMPLATES.items()
    }
    return made | vectors


def ours(texts: Mapping[str, str], directory: Path) -> dict[str, str]:
    """`texts` without a README.md where the one in `directory` is somebody else's."""
    readme = directory / "README.md"
    foreign = readme.exists() and _OURS not in readme.read_text(errors="replace")
    return {file: text for file, text in texts.items() if not (foreign and file == "README.md")}


def write(texts: Mapping[str, str], directory: Path) -> None:
    """Each file whole, or as it was. Raises OSError."""
    for file, text in texts.items():
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())


def _facts(design: emit.Design, report: Mapping, name: str, streams: Mapping[str, np.ndarray]) -> dict:
    network, part = design.network, report["part"]
    ends = [_end(design, s, "s", i) for i, s in enumerate(network.inputs)]
    ends += [_end(design, s, "m", i) for i, s in enumerate(network.outputs)]
    status = emit.status_bits(design)
    fed, axi = weights.stream(design), weights.axi(design)
    registers, counted = _registers([*ends, *fed], status)
    registers[5:5] = weights.REGISTERS * bool(axi)
    frames = len(next(iter(streams.values())))
    rtl = [f"rtl/{p.name}" for p in library.rtl_sources()] + [f"rtl/{emit.TOP}.sv", f"xilinx/{name}.v"]
    inputs, outputs = ([e for e in ends if e["side"] == side] for side in "sm")
    interfaces = [e["port"] for e in (*ends, *fed)] + ["s_axilite"] + ["m_axi"] * bool(axi)
    own = {key: report[key] for key in ("clock_mhz", "frames_per_second", "cycles_per_frame")}
    own["part"] = _ON_BOARDS.get(part.lower(), part)
    counts = [frames] * len(ends) + [1] * len(fed)
    ports = [{**e, "beats": e["beats"] * n} for e, n in zip((*ends, *fed), counts, strict=True)]
    checks = [
        (_FIRST_COUNTER + 2 * i, 1 if e in fed else frames, f"frames of {e['port']}")
        for i, e in enumerate(_by_side([*ends, *fed]))
    ]
    version = mxexport.__version__
    return own | {
        "name": name,
        "version": version,
        "vlnv": f"mxexport:designs:{name}:{version}",
        "ip_version": ".".join(version.split(".")[:2]),
        "description": _description(report),
        "top": emit.TOP,
        "period": 1e3 / report["clock_mhz"],
        "hertz": int(report["clock_mhz"] * 1e6),
        "defines": _defines(part),
        "interfaces": interfaces,
        "streams": [p | {"name": p["port"]} for p in ports],
        "ends": ends,
        "inputs": len(inputs) + len(fed),
        "outputs": len(outputs),
        "lite": _LITE,
        "buses": _buses([*ends, *fed], axi, interfaces, report["clock_mhz"]),
        "ports": _ports([*ends, *fed], axi),
        "axi": axi,
        "image": weights.streamed_beats(design),
        "bus_bits": design.bus,
        "status": status,
        "counted": [port for port in status if port != "error_o"],
        "counters": counted,
        "registers": registers,
        "offsets": {r["name"]: r["offset"] for r in registers},
        "identity": zlib.crc32(repr([ends, own, sorted(design.foldings.items())]).encode()),
        "rtl": rtl,
        "memories": sorted(f"mem/{file}" for cell in design.cells for file in cell.memories),
        "waived": WAIVED,
        "frames": frames,
        "checks": checks,
        "patience": _patience(report, frames) + 20 * sum(e["beats"] for e in fed),
        "driver_inputs": inputs,
        "driver_outputs": outputs,
        "mask": Wide.mask(()),
    }


def _patience(report: Mapping, frames: int) -> int:
    """Cycles after which the test bench gives up."""
    return 100 * (report["latency_cycles"] + report["cycles_per_frame"] * (frames + 2)) + 10_000


def _by_side(ends: list[dict]) -> list[dict]:
    """Inputs first, as mx_registers counts them."""
    return sorted(ends, key=lambda e: e["side"] == "m")


def _outside(design: emit.Design) -> dict[str, str]:
    """Words of the test bench for weights that come from outside."""
    found = {}
    if (sent := weights.loaded(design)) is not None:
        found[f"tb/{weights.STREAM['port']}_in.mem"] = _words(sent, np.arange(len(sent)) == len(sent) - 1)
    if (image := weights.streamed(design)) is not None:
        found["tb/m_axi.mem"] = _words(image, np.zeros(len(image), bool))
    return found


def _ports(ends: list[dict], axi: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Name, direction and bits of every port of the wrapper."""
    found = [("ap_clk", "in", 1), ("ap_rst_n", "in", 1)]
    for e in ends:
        taken, given = ("in", "out") if e["side"] == "s" else ("out", "in")
        wires = (("tvalid", taken, 1), ("tready", given, 1), ("tdata", taken, e["bits"]), ("tlast", taken, 1))
        found += [(f"{e['port']}_{wire}", way, bits) for wire, way, bits in wires]
    found += [(f"s_axilite_{signal}", way, bits) for signal, way, bits in _LITE]
    return found + [(f"m_axi_{signal}", way, bits) for signal, way, bits in axi]


def _buses(ends: list[dict], axi: list[tuple[str, str, int]], interfaces: list[str], clock_mhz: float) -> list[dict]:
    """The interfaces of the wrapper, as IP-XACT wants them."""
    clock = [
        ("ASSOCIATED_BUSIF", ":".join(interfaces)),
        ("ASSOCIATED_RESET", "ap_rst_n"),
        ("FREQ_HZ", int(clock_mhz * 1e6)),
    ]
    found = []

    def bus(name: str, kind: str, role: str, ports: list[tuple[str, str]], parameters=(), library="interface") -> None:
        own = {"name": name, "type": kind, "role": role, "ports": ports}
        found.append(own | {"parameters": list(parameters), "library": library})

    for e in ends:
        wires = [(f"T{w}", f"{e['port']}_t{w.lower()}") for w in ("VALID", "READY", "DATA", "LAST")]
        bus(e["port"], "axis", "slave" if e["side"] == "s" else "master", wires)
    bus("s_axilite", "aximm", "slave", [(signal.upper(), f"s_axilite_{signal}") for signal, _, _ in _LITE])
    if axi:
        bus("m_axi", "aximm", "master", [(signal.upper(), f"m_axi_{signal}") for signal, _, _ in axi])
    bus("ap_clk", "clock", "slave", [("CLK", "ap_clk")], clock, "signal")
    bus("ap_rst_n", "reset", "slave", [("RST", "ap_rst_n")], [("POLARITY", "ACTIVE_LOW")], "signal")
    return found


def _description(report: Mapping) -> str:
    layers = report["layers"]
    formats = sorted({f"{row['activation']} x {row['weight']}" for row in layers})
    rate = f"{report['frames_per_second']:,.0f} frames/s at {report['clock_mhz']:g} MHz"
    return f"A quantized network of {len(layers)} matrix layers ({', '.join(formats)}), {rate}."


def _defines(part: str) -> list[str]:
    """Macros of the cells that the family of a part has by name."""
    known = {"7 series": ["MX_DSP48E1"], "UltraScale+": ["MX_LUT6_2", "MX_DSP48E2"], "Versal": ["MX_DSP58"]}
    return known.get(family(part), [])


def _end(design: emit.Design, stream: str, side: str, index: int) -> dict:
    """A stream at the border, as documentation and drivers need it; `inner`: its port on mx_top."""
    kind, lanes = design.network.streams[stream], design.lanes(stream)
    border = kind.at_border()
    inner = design.port_of(stream)
    return {
        "port": f"{side}_axis_{index}",
        "side": side,
        "inner": inner.name,
        "bits": inner.bits,
        "name": design.network.tensors[stream],
        "length": kind.length,
        "vector": kind.channels * kind.side_by_side(lanes),
        "width": kind.width,
        "lsb_exp": kind.lsb_exp,
        "slot_bits": border.width,
        "lanes": lanes,
        "beats": kind.beats(lanes),
    }


def _registers(ends: list[dict], status: Mapping[str, int]) -> tuple[list[dict], list[str]]:
    """(the register map, names of the counters that mx_top has)."""
    found = [
        {"name": "ident", "offset": 0, "access": "r", "what": '"MXEX"'},
        {"name": "identity", "offset": 4, "access": "r", "what": "of this design, as its driver knows it"},
        {"name": "error", "offset": 8, "access": "r", "what": "1: a TLAST was misplaced, or a unit lost its place"},
        {"name": "clear", "offset": 12, "access": "w", "what": "1: all counters begin anew"},
        {"name": "count", "offset": 16, "access": "r", "what": "how many counters there are"},
    ]
    counters = []
    for e in _by_side(ends):
        way = "taken" if e["side"] == "s" else "given"
        counters.append((f"{e['port']}_frames", f"frames {way}"))
        counters.append((f"{e['port']}_waits", "cycles in which a beat waited"))
    own = [
        (f"{port.removesuffix('_o')}_{i}", _COUNTED[port].format(i))
        for port, bits in status.items()
        if port != "error_o"
        for i in range(bits // 32)
    ]
    for i, (name, what) in enumerate(counters + own):
        found.append({"name": name, "offset": 4 * (_FIRST_COUNTER + i), "access": "r", "what": what})
    return found, [name for name, _ in own]


def _vectors(design: emit.Design, streams: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Words of the test bench: TLAST above the data; of outputs a mask, too, as surplus lanes are undefined."""
    found = {}
    network = design.network
    for side, names in (("s", network.inputs), ("m", network.outputs)):
        for i, stream in enumerate(names):
            kind, lanes = network.streams[stream].at_border(), design.lanes(stream)
            beats, last = kind.pack(streams[stream], lanes)
            found[f"tb/{side}_axis_{i}_{'in' if side == 's' else 'out'}.mem"] = _words(beats, last)
            if side == "m":
                ones, _ = kind.pack(np.full_like(streams[stream], -1), lanes)
                found[f"tb/{side}_axis_{i}_mask.mem"] = _words(ones, np.ones_like(last))
    return found


def _words(beats: np.ndarray, last: np.ndarray) -> str:
    bits = 8 * beats.shape[1]
    pairs = zip(beats, last, strict=True)
    return "".join(f"{int.from_bytes(beat.tobytes(), 'little') | (int(end) << bits):x}\n" for beat, end in pairs)
