"""layers + foldings -> SystemVerilog: the list of unit instances, the top level and the memory files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

import mxexport
from mxexport.fpga import memory
from mxexport.fpga.folding import Folding
from mxexport.fpga.identifiers import identifiers, one_line
from mxexport.fpga.lower import Layer, Stream
from mxexport.fpga.simulate import parameter_text
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import get_format

TOP = "mx_top"


@dataclass(frozen=True)
class Link:
    """One stream between two units."""

    name: str
    bits: int


@dataclass
class Unit:
    """One instance: module, parameters (strings are memory files, plain names), the streams it joins."""

    name: str
    module: str
    parameters: dict[str, int | str]
    source: str
    sink: str
    comment: str
    clocked: bool = True
    ports: dict[str, str] = field(default_factory=dict)


@dataclass
class Pipeline:
    """Everything the top level instantiates, in stream order. `names`: what each layer is called there."""

    layers: list[Layer]
    foldings: list[Folding]
    names: list[str]
    units: list[Unit]
    links: list[Link]

    @property
    def source(self) -> Stream:
        return self.layers[0].source

    @property
    def result(self) -> Stream:
        return self.layers[-1].result

    @property
    def in_lanes(self) -> int:
        return self.foldings[0].simd

    @property
    def out_lanes(self) -> int:
        return self.foldings[-1].pe

    @property
    def in_beats(self) -> int:
        return math.ceil(self.source.length / self.in_lanes)

    @property
    def out_beats(self) -> int:
        return math.ceil(self.result.length / self.out_lanes)


def whole_bytes(bits: int) -> int:
    return -(-bits // 8) * 8


def build_pipeline(layers: list[Layer], foldings: list[Folding]) -> Pipeline:
    """Chain the units; lane converters stand where a producer and a consumer take different lanes per beat."""
    links = [Link("input", foldings[0].simd * layers[0].source.width)]
    units: list[Unit] = []

    def append(name, module, parameters, bits, comment, **more) -> None:
        sink = Link(name, bits)
        units.append(Unit(name, module, parameters, links[-1].name, sink.name, comment, **more))
        links.append(sink)

    names, lanes = identifiers(layer.name for layer in layers), foldings[0].simd
    for index, (layer, folding, name) in enumerate(zip(layers, foldings, names, strict=True)):
        if lanes != folding.simd:
            parameters = {
                "InLanes": lanes,
                "OutLanes": folding.simd,
                "ElemWidth": layer.source.width,
                "K": layer.source.length,
            }
            comment = f"{lanes} to {folding.simd} values per beat"
            append(f"{name}_lanes", "mx_lanes", parameters, folding.simd * layer.source.width, comment)
        element = get_format(layer.x_format).element
        append(
            f"{name}_quantize",
            "mx_quantize",
            _quantize_parameters(layer, folding),
            8 + folding.simd * element.bits,
            f"{layer.name}: {layer.source.length} wide integers to {layer.blocks} {layer.x_format} blocks",
            ports={"clamped_o": f"clamped_o[{32 * index}+:32]", "error_o": f"errors[{2 * index}]"},
        )
        files = {kind: f"{name}_{kind}.mem" for kind in ("weight", "scale", "bias")}
        append(
            f"{name}_matmul",
            "mx_matmul",
            _matmul_parameters(layer, folding, files),
            folding.pe * layer.result.width,
            f"{layer.name}: [{layer.rows}, {layer.source.length}] {layer.w_format} weights, "
            f"{folding.cycles(layer)} cycles per frame",
            ports={"error_o": f"errors[{2 * index + 1}]"},
        )
        lanes = folding.pe
        if layer.relu:
            parameters = {"Width": layer.result.width, "Lanes": folding.pe}
            append(f"{name}_relu", "mx_relu", parameters, links[-1].bits, f"{layer.name}: max(x, 0)", clocked=False)
    return Pipeline(layers, foldings, names, units, links)


def _quantize_parameters(layer: Layer, folding: Folding) -> dict[str, int | str]:
    q = layer.quantizer
    return {
        "Width": layer.source.width,
        "LsbExp": layer.source.lsb_exp,
        "K": layer.source.length,
        "Group": layer.group_size,
        "Lanes": folding.simd,
        "ExpBits": q.exponent_bits,
        "ManBits": q.mantissa_bits,
        "Bias": q.exponent_bias,
        "MaxCode": q.max_code,
        "Emax": q.emax,
        "RoundBias": q.round_bias,
        "CodeMin": q.code_min,
        "CodeMax": q.code_max,
    }


def _matmul_parameters(layer: Layer, folding: Folding, files: dict[str, str]) -> dict[str, int | str]:
    w = fixedpoint.element_parameters(get_format(layer.w_format).element)
    return {
        "K": layer.source.length,
        "Rows": layer.rows,
        "Group": layer.group_size,
        "Pe": folding.pe,
        "Simd": folding.simd,
        "AExpBits": layer.quantizer.exponent_bits,
        "AManBits": layer.quantizer.mantissa_bits,
        "WExpBits": w["exponent_bits"],
        "WManBits": w["mantissa_bits"],
        "AccWidth": layer.result.width,
        "ScaleOffset": layer.scale_offset,
        "ShiftMax": layer.quantizer.code_max + int(layer.scale_codes.max()) - layer.scale_offset,
        "HasBias": int(layer.bias.any()),
        "WeightFile": files["weight"],
        "ScaleFile": files["scale"],
        "BiasFile": files["bias"],
    }


def top_level(pipeline: Pipeline) -> str:
    """Text of the top-level module."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mxexport.fpga", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"literal": parameter_text, "one_line": one_line}
    return environment.get_template("top.sv.j2").render(
        module=TOP,
        version=mxexport.__version__,
        layers=pipeline.layers,
        units=pipeline.units,
        links=pipeline.links,
        source=pipeline.source,
        result=pipeline.result,
        in_lanes=pipeline.in_lanes,
        out_lanes=pipeline.out_lanes,
        in_beats=pipeline.in_beats,
        out_beats=pipeline.out_beats,
        in_bits=whole_bytes(pipeline.links[0].bits),
        out_bits=whole_bytes(pipeline.links[-1].bits),
    )


def write_memories(pipeline: Pipeline, directory: Path) -> None:
    """The .mem file of every weight, scale and bias memory."""
    for layer, folding, name in zip(pipeline.layers, pipeline.foldings, pipeline.names, strict=True):
        memories = memory.matmul_memories(
            layer.codes,
            layer.scale_codes,
            layer.bias if layer.bias.any() else None,
            layer.group_size,
            folding.pe,
            folding.simd,
            get_format(layer.w_format).element.bits,
            layer.result.width,
        )
        for kind, (fields, width) in memories.items():
            memory.write_mem(directory / f"{name}_{kind}.mem", fields, width)
