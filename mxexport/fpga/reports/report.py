"""What a compiled design is and how fast: the content of report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from mxexport.fpga.areas.area import Area, total
from mxexport.fpga.areas.devices import clock_limit, resources
from mxexport.fpga.folding.estimate import estimate, whole
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.scheduling import copies, memory
from mxexport.fpga.scheduling.schedule import next_faster
from mxexport.fpga.scheduling.timing import TURNS, cycles_per_unit, latency, turn_cycles
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding
from mxexport.fpga.writing import emit


def describe(
    design: emit.Design,
    clock_mhz: float,
    target_fps: float | None,
    folding: Mapping[str, tuple[int, ...]],
    part: str,
) -> dict:
    """Numbers of the whole design and of every layer.

    `frames_per_second` are promised at `clock_mhz`, or at `clock_limit_mhz`, the clock that the timing estimate
    supports, where that is less; it is None where the family has no estimate. `limited_by` is the layer that takes the
    most cycles per frame; `limit` says so in words where `target_fps` is not reached, or that the clock is too fast,
    and is None elsewhere. `estimate` is that of `Design.estimate`; `next_step`: what the layers would
    reach with the next faster foldings, and the area that takes.
    """
    network, foldings = design.network, design.foldings
    products = network.products()
    taken = cycles_per_unit(network, foldings)
    weighted = {p.name: p.layer in folding for p in products}  # of layers equally slow, one whose folding was asked for
    slowest = max(taken, key=lambda name: (taken[name], name in weighted, weighted.get(name, False)))
    cycles = taken[slowest]
    most = clock_limit(part)
    supported = min(clock_mhz, most or clock_mhz)
    fps = supported * 1e6 / cycles
    areas, delay, limit = estimate(design), latency(network, foldings), None
    area = total(areas.values())
    if supported < clock_mhz:
        limit = (
            f"clock_mhz {clock_mhz:g} is more than the {supported:g} MHz that the timing estimate supports; "
            f"frames per second are those at {supported:g} MHz"
        )
    if target_fps is not None and fps < float(target_fps) * (1 - 1e-12):
        why = _why_limited(network, slowest, cycles, foldings, folding)
        limit = (
            f"target_fps {float(target_fps):g} is not reached: {fps:,.6g} frames per second at {supported:g} MHz; {why}"
        )
    return {
        "top": emit.TOP,
        "clock_mhz": clock_mhz,
        "clock_limit_mhz": most,
        "frames_per_second": fps,
        "cycles_per_frame": cycles,
        "latency_cycles": delay,
        "latency_us": delay / supported,
        "target_fps": None if target_fps is None else float(target_fps),
        "limited_by": _layer_of(network, slowest),
        "limit": limit,
        "inputs": {network.tensors[s]: _end(network.streams[s], design.lanes(s)) for s in network.inputs},
        "outputs": {network.tensors[s]: _end(network.streams[s], design.lanes(s)) for s in network.outputs},
        "layers": [describe_product(network, p, foldings[p.name]) for p in products],
        "foldings": {name: asdict(f) for name, f in foldings.items()},
        "fifos": design.fifos,
        "cells": _cells(design, taken, areas),
        "estimate": area.table(),
        "utilization_percent": _utilization(area, part),
        "next_step": _next_step(design, supported, folding, area),
    } | _in_turn(network, foldings)


def _in_turn(network: Network, foldings: Mapping[str, Folding]) -> dict:
    """Of layers in turn: how many turns a frame takes, in which units, and the cycles of one; nothing of others."""
    loop = network.loop
    if loop is None:
        return {}
    body = [i.name for i in network.instances if i.name in loop.body]
    return {"in_turn": {"turns": loop.count, "turn_cycles": turn_cycles(network, foldings), "body": body}}


def _cells(design: emit.Design, cycles: Mapping[str, int], areas: Mapping[str, Area]) -> list[dict]:
    """Every cell of the top level, in the order of the data: what it is, whom it reads, what it takes."""
    makers = {link.name: cell.name for cell in design.cells for link in (*cell.sinks, *cell.verdicts)}
    instances = {design.units[i.name]: i for i in design.network.instances}
    found = []
    for cell in design.cells:
        own = instances.get(cell.name)
        found.append(
            {
                "name": cell.name,
                "module": cell.module,
                "layer": None if own is None else own.layer,
                "sources": list(dict.fromkeys(makers[link.name] for link in cell.sources if link.name in makers)),
                "bits": [link.bits for link in cell.sinks],
                "copies": cell.copies,
                "folding": None if own is None else str(design.foldings[own.name]),
                "cycles": None if own is None else cycles[own.name],
                "depth": design.fifos.get(cell.name),
                "estimate": areas[cell.name].table(),
            }
        )
    return found


def too_large(report: Mapping) -> str | None:
    """Says so where a design takes more than its part holds, by the estimate."""
    shares = report["utilization_percent"] or {}
    over = [f"{share:g}% of its {name}" for name, share in shares.items() if share > 100]
    if not over:
        return None
    return f"{report['part']} is too small by the estimate: {', '.join(over)}; name a budget or a larger part"


def _utilization(area: Area, part: str) -> dict[str, float] | None:
    """Percent of what the part holds; None where that is not known."""
    held = resources(part)
    if held is None:
        return None
    most = held.table()
    return {name: round(100 * n / most[name], 1) for name, n in area.table().items() if most[name]}


def _next_step(design: emit.Design, clock_mhz: float, folding: Mapping, area: Area) -> dict | None:
    found = None if design.network.loop else next_faster(design.network, design.foldings, folding)
    if found is None:
        return None
    cycles, foldings = found
    more = whole(design.network, foldings) + area * -1
    return {"layer_cycles": cycles, "layer_frames_per_second": clock_mhz * 1e6 / cycles, "more": more.table()}


def _layer_of(network: Network, name: str) -> str:
    """The layer of an instance that is a product; others, and the input, by their own name."""
    product = next((p for p in network.products() if p.name == name), None)
    return name if product is None else product.layer


def _end(stream: Wide, lanes: int) -> dict:
    return {
        "length": stream.length,
        "width": stream.width,
        "lsb_exp": stream.lsb_exp,
        "lanes": lanes,
        "beats": stream.beats(lanes),
        "slot_bits": stream.at_border().width,
        "bus_bits": stream.at_border().beat_bits(lanes),
    }


def _why_limited(
    network: Network, name: str, cycles: int, foldings: Mapping[str, Folding], folding: Mapping[str, tuple[int, ...]]
) -> str:
    product = next((p for p in network.products() if p.name == name), None)
    if name == memory.READS:
        return f"weights take {cycles} cycles per frame from memory; give more memory_bits or larger tiles"
    if name == TURNS:
        return f"layers in turn take {cycles} cycles per frame, {network.loop.count} turns one behind the other"
    if product is None:
        return f"{name!r} takes {cycles} cycles per frame; give the layers around it more lanes"
    chosen, layer = foldings[name], product.layer
    takes = f"layer {layer!r} takes {cycles} cycles per frame at {chosen}"
    fastest = copies.foldings(product.unit)[-1]
    if layer in folding and cycles > copies.cycles(product.unit, fastest):
        return f"{takes}, as folding asks; up to {fastest} can be given"
    return f"{takes}, its largest folding; raise clock_mhz or ask for less"


def describe_product(network: Network, product: Instance, f: Folding) -> dict:
    """A row of `layers`; of layers in turn, weights and macs of all turns, and the cycles of one."""
    unit, turns = product.unit, len(product.unrolled)
    x, weight = unit.sources[0], getattr(unit, "weight", None)  # None: the other operand is a stream
    per_vector = x.channels * unit.result.channels if weight is None else int(weight.codes.size)
    return {
        "name": product.layer,
        "inputs": x.channels,
        "outputs": unit.result.channels,
        "activation": x.format,
        "weight": unit.sources[1].format if weight is None else weight.format.name,
        "scale_codes": [x.code_min, x.code_max],
        "accumulator_bits": unit.result.width,
        "lsb_exp": unit.result.lsb_exp,
        **asdict(f),
        "weights": 0 if weight is None else turns * int(weight.codes.size),
        "macs": turns * per_vector * unit.result.vectors,
        "cycles": copies.cycles(unit, f),
        "padding_percent": round(100 * (1 - x.channels / (x.blocks * x.group_size)), 1),
    }
