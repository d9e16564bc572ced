"""What a reader of a quantized model should know before going on: where, what, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.numbers.formats import GroupFormat
from mxexport.reporting.layers import LayerReport
from mxexport.reporting.page import Finding
from mxexport.reporting.products import Product

_PADDED, _SATURATED, _FAINT = 50, 0.1, 15
"""Percent of stored elements that are padding, percent of elements clipped, dB: from here on it is worth a word."""


def findings(model: ir.Model, layers: list[LayerReport], found: list[Product]) -> list[Finding]:
    return [*_in_float(found), *_of_layers(layers), *_of_formats(found), *_scales(model)]


def _in_float(found: list[Product]) -> Iterator[Finding]:
    for p in found:
        sides = {"weight": p.weight, "activation": p.activation}
        plain = [name for name, side in sides.items() if side.quantizer is None]
        if plain:
            what = f"{p.node.op_type} multiplies a float {' and a float '.join(plain)}"
            yield Finding(p.name, what, "hardware and integer targets cannot take it; quantize the layer")


def _of_layers(layers: list[LayerReport]) -> Iterator[Finding]:
    for layer in layers:
        if layer.padding_percent >= _PADDED and layer.bytes is not None:
            advice = "narrow and depthwise layers fill no group; per channel integers (int8) waste nothing"
            yield Finding(layer.name, f"{layer.padding_percent:.0f}% of the stored weight is padding", advice)
        if (layer.saturated_percent or 0) > _SATURATED:
            what = f"{layer.saturated_percent:.2f}% of the elements lie beyond the largest code and are clipped"
            advice = "Brevitas's MX int8 and scales found by floor clip so; scale_rule='ceil' or 'even' does not"
            yield Finding(layer.name, what, advice)
        if layer.sqnr_db is not None and layer.sqnr_db < _FAINT:
            advice = "give this layer more bits (formats={...}); mx.sensitivity ranks the layers"
            yield Finding(layer.name, f"its SQNR is {layer.sqnr_db:.1f} dB", advice)


def _of_formats(found: list[Product]) -> Iterator[Finding]:
    """Elements whose products need long shifts: each exponent bit doubles the width of a sum."""
    for p in found:
        wide = [fmt for fmt in map(_format, (p.weight.quantizer, p.activation.quantizer)) if fmt and _spread(fmt) > 8]
        if wide:
            what = f"{' x '.join(dict.fromkeys(fmt.name for fmt in wide))} products take many LUTs in hardware"
            yield Finding(
                p.name, what, "mxint8 and mxfp6_e2m3 take DSP slices; e4m3 takes 9 times the LUTs (docs/hardware.md)"
            )


def _format(node: ir.Node | None) -> GroupFormat | None:
    ours = graph.is_ours(node, graph.QUANTIZERS | graph.DEQUANTIZERS)
    return graph.quantizer_format(node) if ours and node is not None else None


def _spread(fmt: GroupFormat) -> int:
    """Exponents that the elements of a format range over."""
    return fmt.element.linear_bits - fmt.element.mantissa_bits if fmt.is_float else 0


def _scales(model: ir.Model) -> Iterator[Finding]:
    for node in model.graph:
        if graph.is_ours(node, graph.QUANTIZERS | graph.DEQUANTIZERS):
            scale = constant_array(node.inputs[1])
            if scale is not None and scale.size and not graph.is_power_of_two(scale):
                advice = "hardware multiplies by them once a layer (WideAffine); hls4ml needs powers of two"
                yield Finding(node.name or node.op_type, "its scales are no powers of two", advice)
