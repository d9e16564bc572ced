"""Scales and zero points of weights as constants of the file: the values torch computes, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from mxexport.exporting.naming import names_in_use
from mxexport.model import graph, rewriting as rw
from mxexport.model.editing import new_initializer
from mxexport.model.names import Names
from mxexport.model.rewriting import constant
from mxexport.ops import DOMAIN, OPERATORS
from mxexport.passes.clean.fold_constants import compute

_EXACT = {
    *("Abs", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand"),
    *("Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual"),
    *("Max", "Min", "Mul", "Neg", "Not", "Or", "Pad", "ReduceMax", "ReduceMin", "Reshape", "Round", "Shape"),
    *("Slice", "Split", "Sub", "Add", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where", "Xor"),
}
"""What is rounded once, or not at all, and so is the same in torch and in every executor; sums are not."""
_FINDERS = graph.SCALES | graph.ZERO_POINTS


def fold_weight_scales(model: ir.Model) -> None:
    """MXScale(initializer) -> initializer, and the same of scales and zero points that several nodes find from
    constants: the largest magnitude of a channel or tensor, scales in two levels. What takes sums stays."""
    names = names_in_use(model.graph)
    _fold_operators(model.graph, names)
    _fold_searches(model, names)


def _fold_operators(g: ir.Graph, names: Names) -> None:
    for node in list(g):
        if node.domain != DOMAIN or node.op_type in graph.QUANTIZERS:
            continue
        arrays = [constant(value) for value in node.inputs]
        if any(array is None for array in arrays):
            continue
        (folded,) = OPERATORS[node.op_type].reference(*arrays, **graph.attributes(node))
        if node.op_type == "NVFP4Scale":
            for quantizer, _ in node.outputs[0].uses():
                quantizer.meta[graph.FORMAT_KEY] = "nvfp4"
        suffix = "zero_point" if node.op_type == "GroupwiseZeroPoint" else "scale"
        name = names.unique(f"{node.inputs[0].name}_{suffix}")  # a tied weight may have scales of two formats
        node.outputs[0].replace_all_uses_with(new_initializer(g, name, folded))
        g.remove(node, safe=True)


def _fold_searches(model: ir.Model, names: Names) -> None:
    """All of them in one session of onnxruntime."""
    found = {value: (region, name) for value, name in _searched(model.graph) if (region := _region(value))}
    if not found:
        return
    inside = {node for region, _ in found.values() for node in region}
    region = [node for node in model.graph if node in inside]
    for value in (v for node in region for v in node.outputs):
        value.name = value.name or names.unique("scale_search")
    for value, tensor in compute(model, region, list(found), {}).items():
        name = names.unique(found[value][1])
        value.replace_all_uses_with(new_initializer(model.graph, name, tensor.numpy()))
    for node in reversed(region):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            model.graph.remove(node, safe=True)


def _searched(g: ir.Graph) -> Iterator[tuple[ir.Value, str]]:
    """(value, name) of scales and zero points that nodes make; those repeated for every group, as before that."""
    for node in g:
        if not rw.is_quantizer(node):
            continue
        for value, suffix in zip(node.inputs[1:3], ("scale", "zero_point"), strict=False):
            while value is not None and rw.is_op(value.producer(), "Expand"):
                value = value.producer().inputs[0]
            if value is not None and value.producer() is not None and not value.is_graph_output():
                source = node.inputs[0].name if node.inputs[0].is_initializer() else "weight"
                yield value, f"{source}_{suffix}"


def _region(value: ir.Value) -> list[ir.Node]:
    """The nodes that make a value of constants, by exact operators alone; else none."""
    region, waiting = {}, [value.producer()]
    while waiting:
        node = waiting.pop()
        if node in region:
            continue
        if not (rw.is_op(node, *_EXACT) or graph.is_ours(node, _FINDERS)):
            return []
        region[node] = None
        for given in node.inputs:
            if given is not None and given.const_value is None:
                if given.producer() is None:  # an input of the model
                    return []
                waiting.append(given.producer())
    return list(region)
