"""Which integers a graph computes: the grid of every tensor, and the accumulator width of every product.

Follows values from the quantizers through MatMul, Conv and what only moves, adds or selects values. Where a product
fits 24 bits, float32 executors are exact whatever the order they sum in.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.errors import UnsupportedError
from mxexport.model.constants import constant_array
from mxexport.model.uniform import is_quantizer, read_activation
from mxexport.numbers.grids import Grid, grid_of

FLOAT32_BITS = 24
PRODUCTS = {"MatMul", "Gemm", "Conv"}
_MOVES = {"Relu", "MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout"}


def grids(model: ir.Model) -> dict[ir.Value, Grid]:
    """Value -> grid for every value whose grid is known, constants included."""
    known: dict[ir.Value, Grid] = {}
    for node in model.graph:
        if not node.outputs:
            continue
        out = node.outputs[0]
        found = _grid_after(node, known) if constant_array(out) is None else _constant_grid(out)
        if found is not None:
            known[node.outputs[0]] = found
    return known


def _grid_after(node: ir.Node, known: dict[ir.Value, Grid]) -> Grid | None:
    if is_quantizer(node):
        try:
            return read_activation(node).grid
        except UnsupportedError:
            return None
    if node.domain != "" or not node.inputs:
        return None
    if node.op_type in PRODUCTS:
        return _product(node, known)
    inputs = [known.get(v) or _constant_grid(v) for v in node.inputs]
    if node.op_type in _MOVES:
        return inputs[0]
    if node.op_type == "Add" and None not in inputs:
        return inputs[0] + inputs[1]
    if node.op_type == "Mul" and None not in inputs:
        return inputs[0] * inputs[1]
    return None


def _product(node: ir.Node, known: dict[ir.Value, Grid]) -> Grid | None:
    """The largest sum of magnitudes of one output's weights, times the largest input."""
    x, weight = known.get(node.inputs[0]), constant_array(node.inputs[1])
    if x is None or weight is None or weight.ndim < 2 or not np.isfinite(weight).all():
        return None
    w = grid_of(weight)
    magnitudes = np.abs(weight).astype(np.float64) * 2.0**-w.exponent
    transposed = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].value
    if node.op_type == "Conv" or transposed:
        sums = magnitudes.reshape(len(magnitudes), -1).sum(1)
    else:
        sums = magnitudes.sum(-2)
    product = Grid.within(x.exponent + w.exponent, int(np.ceil(sums.max(initial=0) * x.magnitude)))
    bias = _constant_grid(node.inputs[2]) if len(node.inputs) > 2 else None
    return product if bias is None else product + bias


def _constant_grid(value: ir.Value | None) -> Grid | None:
    array = constant_array(value)
    known = array is not None and np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all()
    return grid_of(array) if known else None
