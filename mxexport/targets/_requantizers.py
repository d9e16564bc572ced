"""A quantizer right behind another one, as blocks that end in one and begin with one have it."""

from __future__ import annotations

import onnx_ir as ir

from mxexport.model.editing import replace_output
from mxexport.model.uniform import Uniform, is_quantizer, read_activation
from mxexport.ops import qonnx_general

MOVERS = {"MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"}
"""Operators that choose among values and change none."""


def quantizer_before(value: ir.Value) -> ir.Node | None:
    """The quantizer that made these values; operators that only move them may stand between."""
    maker = value.producer()
    while maker is not None and maker.domain == "" and maker.op_type in MOVERS:
        maker = maker.inputs[0].producer()
    return maker if maker is not None and is_quantizer(maker) else None


def merge_requantizer(node: ir.Node) -> None:
    """Quant2(Quant1(x)) -> Quant1(x)  when Quant2 has every value that Quant1 gives; else, where those are none below
    zero, Quant2 becomes unsigned: FINN takes thresholds below zero for a mistake there."""
    first = quantizer_before(node.inputs[0]) if _is_quant(node) else None
    if first is None or not _is_quant(first):
        return
    before, after = read_activation(first), read_activation(node)
    if _has_all(after, before) and not (node.inputs[0].is_graph_input() or node.outputs[0].is_graph_output()):
        replace_output(node.outputs[0], node.inputs[0])
        node.graph.remove(node, safe=True)
    elif after.signed and not before.signed and after.bits > 1:
        node.attributes["signed"], node.attributes["narrow"] = (ir.AttrInt64(n, 0) for n in ("signed", "narrow"))
        bits = node.inputs[3]
        made = ir.tensor(bits.const_value.numpy() - 1, name=bits.name)
        bits.const_value = made


def _is_quant(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == (qonnx_general.DOMAIN, "Quant")


def _has_all(second: Uniform, first: Uniform) -> bool:
    """Whether every value of `first` is one of `second`."""
    ratio = float(first.scale) / float(second.scale)
    whole = ratio == round(ratio) and float(second.scale) * ratio == float(first.scale)
    return whole and second.lowest <= first.lowest * ratio and first.highest * ratio <= second.highest
