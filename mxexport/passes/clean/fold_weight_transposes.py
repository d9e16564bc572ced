from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from mxexport.model import rewriting as rw
from mxexport.model.editing import new_initializer
from mxexport.model.graph import QUANTIZERS, is_ours
from mxexport.model.names import Names
from mxexport.model.outcome import Outcome
from mxexport.numbers import groups


def fold_weight_transposes(model: ir.Model) -> Outcome:
    """Transpose(quant(W, scale)) -> quant(W', scale')  when W and scale are constants nobody else needs as they are.

    The groups' axis follows the transposition and the contracted scale is transposed like the weight: exact.
    """
    outcome, names = Outcome(), None
    for graph, node in rw.nodes(model):
        if not rw.is_op(node, "Transpose") or not _is_weight_quantizer(node.inputs[0].producer()):
            continue
        quantizer = node.inputs[0].producer()
        reason = _why_not(graph, node, quantizer)
        if reason:
            outcome.declined.append((rw.label(node), reason))
            continue
        names = names or Names(rw.value_names(model))
        _fold(graph, node, quantizer, names)
        outcome.changed.append(f"{rw.label(node)}: folded into the weight of {rw.label(quantizer)}")
    return outcome


def _is_weight_quantizer(node: ir.Node | None) -> bool:
    ours = is_ours(node, QUANTIZERS)
    qonnx = rw.is_qonnx(node) and node.op_type in ("Quant", "IntQuant", "BipolarQuant", "FloatQuant")
    return (ours or qonnx) and rw.is_constant(node.inputs[0])


def _why_not(graph: ir.Graph, node: ir.Node, quantizer: ir.Node) -> str | None:
    weight, quantized = quantizer.inputs[0], quantizer.outputs[0]
    if quantizer.graph is not graph:
        return "the quantizer stands in an outer graph"
    if len(quantized.uses()) > 1 or quantized.is_graph_output():
        return f"{quantized.name!r} is used untransposed, too"
    if len(weight.uses()) > 1 or weight.is_graph_output():
        return f"the weight {weight.name!r} is used elsewhere, too, and would be stored twice"
    width = len(weight.const_value.shape)
    for value in quantizer.inputs[1:]:
        if value is None:
            continue
        if not rw.is_constant(value):
            return f"{value.name!r} is computed at run time"
        if is_ours(quantizer, QUANTIZERS) and len(value.const_value.shape) != width:
            return f"{value.name!r} has rank {len(value.const_value.shape)}, its weight rank {width}"
    return None


def _fold(graph: ir.Graph, node: ir.Node, quantizer: ir.Node, names: Names) -> None:
    weight = quantizer.inputs[0]
    width = len(weight.const_value.shape)
    perm = list(rw.attribute(node, "perm") or range(width)[::-1])
    weight.const_value = _transposed_later(weight.const_value, perm)
    weight.shape = ir.Shape(weight.const_value.shape)
    for i, value in enumerate(quantizer.inputs[1:], 1):
        if value is not None and value.const_value.size > 1 or (value is not None and is_ours(quantizer, QUANTIZERS)):
            quantizer.replace_input_with(i, _transposed_parameter(graph, value, perm, names))
    if "axis" in quantizer.attributes:
        axis = groups.normalize_axis(quantizer.attributes["axis"].value, width)
        quantizer.attributes["axis"] = ir.AttrInt64("axis", perm.index(axis))
        if quantizer.doc_string:
            quantizer.doc_string = quantizer.doc_string.replace(f"axis {axis}", f"axis {perm.index(axis)}")
    quantized, result = quantizer.outputs[0], node.outputs[0]
    quantized.shape = ir.Shape(weight.const_value.shape)
    result.replace_all_uses_with(quantized, replace_graph_outputs=True)
    quantized.name, result.name = result.name, f"{result.name}_folded"
    graph.remove(node, safe=True)


def _transposed_parameter(graph: ir.Graph, value: ir.Value, perm: Sequence[int], names: Names) -> ir.Value:
    array = value.const_value.numpy()
    array = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    swapped = _transposed(array, perm)
    if len(value.uses()) > 1 or value.is_graph_output():  # others still read it as it is
        return new_initializer(graph, names.unique(f"{value.name}_transposed"), swapped)
    # Stages are compared by name, and a packed weight's scale is a tensor of the graph: another value, another name.
    value.name = names.unique(f"{value.name}_transposed")
    value.const_value, value.shape = ir.tensor(swapped, name=value.name), ir.Shape(swapped.shape)
    return value


def _transposed_later(tensor: ir.TensorProtocol, perm: Sequence[int]) -> ir.LazyTensor:
    """Made anew whenever it is read: a second copy of all weights would double the memory a model needs."""
    shape = ir.Shape([tensor.shape[axis] for axis in perm])
    return ir.LazyTensor(lambda: ir.tensor(_transposed(tensor.numpy(), perm)), dtype=tensor.dtype, shape=shape)


def _transposed(array: np.ndarray, perm: Sequence[int]) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(perm))
