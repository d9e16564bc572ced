"""What every quantizer of a graph costs and loses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.rewriting import attribute, constant, is_qonnx_quantizer
from mxexport.numbers import groups
from mxexport.numbers.formats import GroupFormat
from mxexport.ops import OPERATORS


@dataclass(frozen=True)
class LayerReport:
    """One quantizer of the exported file.

    `bytes` (packed codes and scales), `sqnr_db` and `saturated_percent` (elements beyond the largest code) are known
    for weights only; None at run time. `groups` is None where the shape is open. Quantizers without groups (QONNX's
    own) have no axis and no figures.
    """

    name: str
    format: str
    axis: int | None
    shape: list[int | str]
    scale_shape: list[int | str]
    groups: int | None = None
    bytes: int | None = None
    sqnr_db: float | None = None
    saturated_percent: float | None = None
    padding_percent: float = 0.0


def describe_layers(model: ir.Model) -> list[LayerReport]:
    """A report for every quantizer of the graph: ours in order, then QONNX's own."""
    ours = [_describe(node) for node in model.graph if graph.is_ours(node, graph.QUANTIZERS)]
    return ours + [_describe_standard(node) for node in model.graph if is_qonnx_quantizer(node)]


def describe_packed(model: ir.Model) -> list[LayerReport]:
    """A report for every packed weight of the graph; what it lost is not known any more."""
    return [_describe_packed(node) for node in model.graph if graph.is_ours(node, graph.DEQUANTIZERS)]


def _describe_packed(node: ir.Node) -> LayerReport:
    fmt, a = graph.quantizer_format(node), graph.attributes(node)
    shape, scale_shape = list(a["shape"]), _dims(node.inputs[1])
    codes = _dims(node.inputs[0])
    known = bool(codes) and all(isinstance(d, int) for d in (*codes, *scale_shape))
    scale = math.prod(scale_shape) if known else 0
    return LayerReport(
        node.name,
        fmt.name,
        a["axis"],
        shape,
        scale_shape,
        groups=scale or None,
        bytes=math.prod(codes) + scale_bytes(fmt, scale) if known else None,
        padding_percent=_padding_percent(shape[a["axis"]], a["group_size"]),
    )


def _describe(node: ir.Node) -> LayerReport:
    fmt, axis = graph.quantizer_format(node), node.attributes["axis"].value
    shape, scale_shape = _dims(node.inputs[0]), _dims(node.inputs[1])
    length = shape[axis] if -len(shape) <= axis < len(shape) else 0
    weight, scale = constant(node.inputs[0]), constant(node.inputs[1])
    return LayerReport(
        node.name,
        fmt.name,
        axis,
        shape,
        scale_shape,
        groups=math.prod(scale_shape) if scale_shape and all(isinstance(d, int) for d in scale_shape) else None,
        padding_percent=_padding_percent(length, fmt.group_size),
        **({} if weight is None or scale is None else _weight_figures(node, fmt, weight, scale)),
    )


def _padding_percent(length: int | str, size: int) -> float:
    """Zeros among the stored elements of an axis, from a short last group; 0 where length or size says nothing."""
    if not isinstance(length, int) or not length or size < 1:
        return 0.0
    padded = groups.group_count(length, size) * size
    return 100 * (padded - length) / padded


def scale_bytes(fmt: GroupFormat, count: int) -> int:
    """Of so many stored scales; nvfp4 has one more for the tensor."""
    return 4 * count if fmt.scale == "float32" else count + 4 * (fmt.scale == "nvfp4")


def _weight_figures(node: ir.Node, fmt: GroupFormat, weight: np.ndarray, scale: np.ndarray) -> dict:
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    inputs = (weight, scale, zero) if node.op_type == "GroupwiseQuant" else (weight, scale)
    a = graph.attributes(node)
    (quantized,) = OPERATORS[node.op_type].reference(*inputs, **a)
    return {
        "bytes": -(-weight.size * fmt.element.bits // 8) + scale_bytes(fmt, scale.size),
        "sqnr_db": sqnr(weight, quantized),
        "saturated_percent": 100 * saturated(weight, quantized, scale, a, fmt) / weight.size if weight.size else 0.0,
    }


def saturated(x: np.ndarray, quantized: np.ndarray, scale: np.ndarray, attributes: dict, fmt: GroupFormat) -> int:
    """How many elements lost more than half the last step, which rounding alone never takes: they were clipped.

    A zero point only shifts the grid, so the error tells in every format. Elements of non-finite groups do not count.
    """
    axis, size = attributes["axis"], attributes["group_size"]
    step = groups.expand(scale, axis, size, x.shape[axis]).astype(np.float64) * _last_step(fmt)
    with np.errstate(invalid="ignore"):
        return int((np.abs(x.astype(np.float64) - quantized) > step / 2).sum())


def _last_step(fmt: GroupFormat) -> float:
    """Distance of the two largest element values, in units of the scale."""
    return 2.0 ** (fmt.element.emax - fmt.element.mantissa_bits) if fmt.is_float else 1.0


def _describe_standard(node: ir.Node) -> LayerReport:
    widths = [_whole(v) for v in node.inputs[2:]]
    if node.op_type == "Quant":  # signed is the default of QONNX
        fmt = f"{'int' if attribute(node, 'signed', 1) else 'uint'}{widths[1]}"
    else:
        fmt = "bipolar" if node.op_type == "BipolarQuant" else f"float_e{widths[0]}m{widths[1]}"
    return LayerReport(node.name, fmt, None, _dims(node.inputs[0]), _dims(node.inputs[1]))


def _whole(value: ir.Value | None) -> str:
    """A constant whole number; a question mark where it is none."""
    array = constant(value)
    known = array is not None and array.size == 1 and np.isfinite(array).all()
    return str(int(array.reshape(()))) if known else "?"


def _dims(value: ir.Value) -> list[int | str]:
    return [d if isinstance(d, int) else str(d) for d in value.shape] if value.shape is not None else []


def sqnr(x: np.ndarray, y: np.ndarray) -> float | None:
    """10 log10(sum x^2 / sum (x - y)^2); None where it is not finite (no error, or zeros)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    noise, signal = float(((x - y) ** 2).sum()), float((x**2).sum())
    return round(10 * float(np.log10(signal / noise)), 2) if 0 < noise < np.inf and 0 < signal < np.inf else None
