"""What a compiled design is and how fast: the content of report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from mxexport.fpga import emit
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.types import Wide
from mxexport.fpga.unit import Folding


def describe(
    design: emit.Design, clock_mhz: float, target_fps: float | None, folding: Mapping[str, tuple[int, int]]
) -> dict:
    """Numbers of the whole design and of every layer.

    `limited_by` is the layer that takes the most cycles per frame; `limit` says so in words where `target_fps` is not
    reached, and is None elsewhere.
    """
    network = design.network
    products = network.products()
    layers = [_describe(network, p, design.foldings[p.name]) for p in products]
    slowest = max(range(len(layers)), key=lambda i: layers[i]["cycles"])
    cycles = max(layers[slowest]["cycles"], network.source.beats(design.in_lanes))
    fps = clock_mhz * 1e6 / cycles
    limit = None
    if target_fps is not None and fps < float(target_fps) * (1 - 1e-12):
        why = _why_limited(products[slowest], design.foldings[products[slowest].name], folding)
        limit = (
            f"target_fps {float(target_fps):g} is not reached: {fps:,.6g} frames per second at {clock_mhz:g} MHz; {why}"
        )
    return {
        "top": emit.TOP,
        "clock_mhz": clock_mhz,
        "frames_per_second": fps,
        "target_fps": None if target_fps is None else float(target_fps),
        "limited_by": layers[slowest]["name"],
        "limit": limit,
        "input": _end(network.source, design.in_lanes),
        "output": _end(network.result, design.out_lanes),
        "layers": layers,
    }


def _end(stream: Wide, lanes: int) -> dict:
    return {"length": stream.length, "width": stream.width, "lsb_exp": stream.lsb_exp, "lanes": lanes}


def _why_limited(product: Instance, chosen: Folding, folding: Mapping[str, tuple[int, int]]) -> str:
    cycles, name = product.unit.cycles(chosen), product.layer
    takes = f"layer {name!r} takes {cycles} cycles per frame at pe={chosen.pe}, simd={chosen.simd}"
    fastest = product.unit.foldings()[-1]
    if name in folding and cycles > product.unit.cycles(fastest):
        return f"{takes}, as folding asks; up to pe={fastest.pe}, simd={fastest.simd} can be given"
    return f"{takes}, its largest folding; raise clock_mhz or ask for less"


def _describe(network: Network, product: Instance, f: Folding) -> dict:
    unit = product.unit
    x = unit.source
    return {
        "name": product.layer,
        "inputs": x.channels,
        "outputs": unit.result.channels,
        "activation": x.format,
        "weight": unit.weight.format.name,
        "scale_codes": [x.code_min, x.code_max],
        "accumulator_bits": unit.result.width,
        "lsb_exp": unit.result.lsb_exp,
        **asdict(f),
        "cycles": unit.cycles(f),
        "padding_percent": round(100 * (1 - x.channels / (x.blocks * x.group_size)), 1),
    }
