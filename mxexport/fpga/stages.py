"""Compares the QONNX graph with the dataflow graph: layer by layer with the same input, and end to end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import VerificationError
from mxexport.fpga.lower import Layer, Stream
from mxexport.numbers import fixedpoint, groups, numerics
from mxexport.numbers.formats import get_format
from mxexport.running import executors

_FLOAT32_BITS = 24


@dataclass(frozen=True)
class LayerComparison:
    """`flipped_codes` of `codes` element codes differ end to end; `error`: largest product error over its bound."""

    layer: str
    codes: int
    flipped_codes: int
    error: float


@dataclass(frozen=True)
class StageComparison:
    layers: list[LayerComparison]
    flip_rate: float
    same_predictions: float


def compare(
    qonnx: ir.Model, dataflow: ir.Model, layers: list[Layer], inputs: np.ndarray, fixed: np.ndarray
) -> StageComparison:
    """Run both graphs on `inputs` (float, as the QONNX graph takes them) and `fixed` (the same in int64 [N, K]).

    With the same input injected, quantizer outputs must be equal wherever float32 holds the input exactly, and
    products must agree within float32 rounding: |error| <= (K + 2) * 2**-23 * (|x| . |w| + |bias|) + half an LSB of
    the accumulator (the bias is rounded once to it).

    Raises:
        VerificationError: names the first layer and tensor that differ.
    """
    proto = executors.load_proto(qonnx)
    wide = _run_dataflow(dataflow, layers, fixed)
    names = [layer.quant_tensor for layer in layers] + [layers[-1].output_tensors[0]]
    free = executors.run(proto, inputs, names)
    compared = []
    for layer in layers:
        error = _check_injected(proto, layer, wide)
        dequantized = _dequantize(layer, wide)
        flips = int((free[layer.quant_tensor].reshape(dequantized.shape) != dequantized).sum())
        compared.append(LayerComparison(layer.name, dequantized.size, flips, error))
    float_out, wide_out = free[names[-1]], wide[layers[-1].output_tensors[1]]
    same = float((float_out.argmax(-1) == wide_out.argmax(-1)).mean())
    total = sum(c.codes for c in compared)
    return StageComparison(compared, sum(c.flipped_codes for c in compared) / total, same)


def _run_dataflow(dataflow: ir.Model, layers: list[Layer], fixed: np.ndarray) -> dict[str, np.ndarray]:
    names = [name for x in layers for name in (f"{x.name}.codes", f"{x.name}.scale_codes", x.output_tensors[1])]
    wide = executors.run(dataflow, fixed, list(dict.fromkeys(names)))
    wide[layers[0].input_tensors[1]] = fixed
    return wide


def _dequantize(layer: Layer, wide: dict[str, np.ndarray]) -> np.ndarray:
    """What the layer's quantizer put out in hardware, as float32 values."""
    table = fixedpoint.linear_table(layer.quantizer.exponent_bits, layer.quantizer.mantissa_bits)
    element = get_format(layer.x_format).element
    values = np.ldexp(table[wide[f"{layer.name}.codes"]].astype(np.float32), -element.frac_bits)
    scale = numerics.scale_from_codes(wide[f"{layer.name}.scale_codes"])
    return values * groups.expand(scale, 1, layer.group_size, values.shape[1])


def _to_float(values: np.ndarray, stream: Stream) -> np.ndarray:
    return np.ldexp(values.astype(np.float64), stream.lsb_exp)


def _check_injected(proto: onnx.ModelProto, layer: Layer, wide: dict[str, np.ndarray]) -> float:
    source, ours = wide[layer.input_tensors[1]], _dequantize(layer, wide)
    x = _to_float(source, layer.source).astype(np.float32)
    theirs = _run_between(proto, layer.input_tensors[0], layer.quant_tensor, x)
    exact = groups.to_groups(np.abs(source), 1, layer.group_size).max(axis=2) < 2**_FLOAT32_BITS
    exact = groups.expand(exact, 1, layer.group_size, ours.shape[1])
    differ = (ours != theirs) & exact
    if differ.any():
        where = tuple(int(i) for i in np.argwhere(differ)[0])
        raise VerificationError(
            f"layer {layer.name}: tensor {layer.quant_tensor!r} differs at {where}: QONNX {theirs[where]!r}, dataflow "
            f"{ours[where]!r} ({int(differ.sum())} of {differ.size} values)"
        )
    product = _run_between(proto, layer.quant_tensor, layer.output_tensors[0], ours)
    return _check_product(layer, ours, product, _to_float(wide[layer.output_tensors[1]], layer.result))


def _check_product(layer: Layer, x: np.ndarray, theirs: np.ndarray, ours: np.ndarray) -> float:
    w = np.abs(_weights(layer))
    bias = np.abs(_to_float(layer.bias, layer.result))
    rounding = (x.shape[1] + 2) * 2.0**-23
    bound = rounding * (np.abs(x.astype(np.float64)) @ w.T + bias) + 2.0 ** (layer.result.lsb_exp - 1)
    ratio = np.abs(ours - theirs.reshape(ours.shape)) / bound
    worst = float(ratio.max())
    if worst > 1:
        where = tuple(int(i) for i in np.unravel_index(ratio.argmax(), ratio.shape))
        raise VerificationError(
            f"layer {layer.name}: tensor {layer.output_tensors[0]!r} differs at {where} by {worst:.3g} times the "
            f"float32 rounding bound: QONNX {theirs.reshape(ours.shape)[where]!r}, dataflow {ours[where]!r}"
        )
    return worst


def _weights(layer: Layer) -> np.ndarray:
    w = fixedpoint.element_parameters(get_format(layer.w_format).element)
    table = fixedpoint.linear_table(w["exponent_bits"], w["mantissa_bits"])
    values = np.ldexp(table[layer.codes].astype(np.float64), -get_format(layer.w_format).element.frac_bits)
    scale = np.ldexp(1.0, layer.scale_codes.astype(int) - 127)
    return values * groups.expand(scale, 1, layer.group_size, values.shape[1])


def _run_between(proto: onnx.ModelProto, start: str, end: str, x: np.ndarray) -> np.ndarray:
    """The part of the graph from tensor `start`, given as `x`, to tensor `end`."""
    return executors.run(onnx.utils.Extractor(proto).extract_model([start], [end]), x)[end]
