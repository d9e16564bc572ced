"""What a compiled design is and how fast: the content of report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from mxexport.fpga import emit
from mxexport.fpga.folding import Folding, choices
from mxexport.fpga.lower import Layer


def describe(
    pipeline: emit.Pipeline, clock_mhz: float, target_fps: float | None, folding: Mapping[str, tuple[int, int]]
) -> dict:
    """Numbers of the whole design and of every layer.

    `limited_by` is the layer that takes the most cycles per frame; `limit` says so in words where `target_fps` is not
    reached, and is None elsewhere.
    """
    layers = [_describe(layer, f) for layer, f in zip(pipeline.layers, pipeline.foldings, strict=True)]
    slowest = max(range(len(layers)), key=lambda i: layers[i]["cycles"])
    cycles = max(layers[slowest]["cycles"], pipeline.in_beats)
    fps = clock_mhz * 1e6 / cycles
    limit = None
    if target_fps is not None and fps < float(target_fps) * (1 - 1e-12):
        why = _why_limited(pipeline.layers[slowest], pipeline.foldings[slowest], folding)
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
        "input": asdict(pipeline.source) | {"lanes": pipeline.in_lanes},
        "output": asdict(pipeline.result) | {"lanes": pipeline.out_lanes},
        "layers": layers,
    }


def _why_limited(layer: Layer, chosen: Folding, folding: Mapping[str, tuple[int, int]]) -> str:
    takes = f"layer {layer.name!r} takes {chosen.cycles(layer)} cycles per frame at pe={chosen.pe}, simd={chosen.simd}"
    fastest = choices(layer)[-1]
    if layer.name in folding and chosen.cycles(layer) > fastest.cycles(layer):
        return f"{takes}, as folding asks; up to pe={fastest.pe}, simd={fastest.simd} can be given"
    return f"{takes}, its largest folding; raise clock_mhz or ask for less"


def _describe(layer: Layer, f: Folding) -> dict:
    return {
        "name": layer.name,
        "inputs": layer.source.length,
        "outputs": layer.rows,
        "activation": layer.x_format,
        "weight": layer.w_format,
        "scale_codes": [layer.quantizer.code_min, layer.quantizer.code_max],
        "accumulator_bits": layer.result.width,
        "lsb_exp": layer.result.lsb_exp,
        "pe": f.pe,
        "simd": f.simd,
        "cycles": f.cycles(layer),
        "padding_percent": round(100 * (1 - layer.source.length / (layer.blocks * layer.group_size)), 1),
    }
