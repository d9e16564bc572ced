"""The products of a graph: what multiplies what, in which formats, and how much work that is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.rewriting import attribute, constant, is_op, is_qonnx_quantizer, label

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LAYOUT = ("Cast", "Expand", "Flatten", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that move values and leave them as they are."""


@dataclass(frozen=True)
class Operand:
    """One side of a product: the node that quantized it (None: float), its format, whether it is a constant."""

    quantizer: ir.Node | None
    format: str
    fixed: bool


@dataclass(frozen=True)
class Product:
    """`macs`: multiply-accumulates of one frame; None where a size is open (but the batch)."""

    node: ir.Node
    name: str
    operands: tuple[Operand, Operand]
    macs: int | None

    @property
    def activation(self) -> Operand:
        return self.operands[1] if self.operands[0].fixed else self.operands[0]

    @property
    def weight(self) -> Operand:
        return self.operands[0] if self.operands[0].fixed else self.operands[1]


def products(model: ir.Model) -> Iterator[Product]:
    """Of the main graph, in order."""
    for node in model.graph:
        if is_op(node, *PRODUCTS) and len(node.inputs) > 1 and None not in node.inputs[:2]:
            sides = (operand(node.inputs[0]), operand(node.inputs[1]))
            yield Product(node, label(node), sides, _macs(node))


def operand(value: ir.Value) -> Operand:
    """Who quantized a value, looked for behind nodes that only move it."""
    node = value.producer()
    while is_op(node, *_LAYOUT) and node.inputs and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    if graph.is_ours(node, graph.QUANTIZERS | graph.DEQUANTIZERS):
        return Operand(node, graph.quantizer_format(node).name, constant(node.inputs[0]) is not None)
    if is_qonnx_quantizer(node):
        return Operand(node, f"QONNX {node.op_type}", constant(node.inputs[0]) is not None)
    if is_op(node, "DequantizeLinear"):
        return Operand(node, "QDQ", constant(node.inputs[0]) is not None)
    return Operand(None, "float", constant(value) is not None)


def _macs(node: ir.Node) -> int | None:
    """Of one frame: outputs times the length of their sums. Transposed convolutions: inputs times taps and outputs."""
    out, x, weight = (None if v.shape is None else list(v.shape) for v in (node.outputs[0], *node.inputs[:2]))
    if not x or not weight or out is None:  # a scalar has no sums
        return None
    turned = node.op_type == "Gemm" and attribute(node, "transA", 0)
    sizes = {
        "Conv": lambda: [1, *out[1:], *weight[1:]],
        "ConvTranspose": lambda: [1, *x[1:], *weight[1:]],
        "Gemm": lambda: [1, *out[1:], x[0 if turned else -1]],
        "MatMul": lambda: [*([1, *out[1:]] if len(out) > 1 else out), x[-1]],
    }[node.op_type]()
    return math.prod(sizes) if all(isinstance(d, int) for d in sizes) else None
