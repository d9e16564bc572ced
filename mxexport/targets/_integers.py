"""Constant tensors as integers times a power of two, and what a graph holds constant (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import graph
from mxexport.ops import OPERATORS, qonnx_general

_UNWRAPPED = {"Identity", "Cast", "Expand"}  # give the value of their first input, or copies of it


@dataclass(frozen=True)
class Grid:
    """Values that are integers times 2**exponent, none larger than `magnitude` (in integers)."""

    exponent: int
    magnitude: int
    signed: bool = True

    @property
    def bits(self) -> int:
        """Bits of the integers, the sign included."""
        return max(self.magnitude.bit_length() + self.signed, 1 + self.signed)


def grid_of(values: np.ndarray) -> Grid:
    """The coarsest grid that holds every value of a finite float32 array."""
    mantissa, exponent = np.frexp(np.float64(values[values != 0]))
    if not mantissa.size:
        return Grid(0, 0)
    whole = np.abs(mantissa * 2.0**24).astype(np.int64)  # float32 has 24 significant bits
    zeros = np.log2(whole & -whole).astype(np.int64)  # trailing zeros: log2 of a power of two is exact
    lowest = int((exponent - 24 + zeros).min())
    largest = float(np.abs(values).max()) * 2.0**-lowest  # a whole number, exact in float64
    return Grid(lowest, int(largest), bool((values < 0).any()))


def constant_value(value: ir.Value | None) -> np.ndarray | None:
    """The array behind a value that does not depend on the graph's inputs; None for any other.

    Looks through our quantizers, QONNX's `Quant`, Transpose, Identity and, for scales, Expand (left unexpanded).
    """
    known = graph.constant(value)
    if known is not None or value is None or (node := value.producer()) is None:
        return known
    if node.op_type == "Constant" and node.domain == "":
        attribute = next(iter(node.attributes.values()))
        return np.asarray(attribute.value.numpy() if attribute.type == ir.AttributeType.TENSOR else attribute.value)
    if node.domain == "" and node.op_type in {*_UNWRAPPED, "Transpose"}:
        array = constant_value(node.inputs[0])
        if array is None or node.op_type in _UNWRAPPED:
            return array
        order = node.attributes["perm"].value if "perm" in node.attributes else None
        return np.ascontiguousarray(array.transpose(order))
    if graph.is_ours(node, graph.QUANTIZERS) or (node.domain == qonnx_general.DOMAIN and node.op_type == "Quant"):
        arrays = [constant_value(v) for v in node.inputs]
        if any(a is None for a, v in zip(arrays, node.inputs, strict=True) if v is not None):
            return None
        return _evaluate(node, arrays)
    return None


def weight_quantizer(value: ir.Value | None) -> ir.Node | None:
    """The quantizer node of ours behind a constant operand, seen through Transpose and Identity."""
    node = None if value is None else value.producer()
    while node is not None and node.domain == "" and node.op_type in {"Transpose", "Identity"}:
        node = node.inputs[0].producer()
    return node if graph.is_ours(node, graph.QUANTIZERS) else None


def _evaluate(node: ir.Node, arrays: list[np.ndarray | None]) -> np.ndarray:
    if graph.is_ours(node, graph.QUANTIZERS):
        return OPERATORS[node.op_type].reference(*arrays, **graph.attributes(node))[0]
    from qonnx.custom_op.general.intquant import int_quant

    a = {name: attribute.value for name, attribute in node.attributes.items()}
    mode = a.get("rounding_mode", "ROUND")
    return int_quant(*arrays, a.get("signed", 1), a.get("narrow", 0), mode).astype(np.float32)
