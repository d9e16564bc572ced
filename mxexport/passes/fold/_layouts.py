"""A quantizer and the layout operator (Transpose, Reshape, …) behind it change places; groups stay whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.editing import Editor, sole_user
from mxexport.model.rewriting import constant, label
from mxexport.ops import DOMAIN
from mxexport.passes.fold._weights import copy_description, replace_weight, weight_of

Relayout = Callable[[np.ndarray], np.ndarray]
FOUND = graph.SCALES | graph.ZERO_POINTS
"""Operators that find scale and zero point at run time."""


def move_quantizer_behind(
    editor: Editor, layout: ir.Node, axis: int, values: Relayout, parameters: Relayout
) -> str | None:
    """layout(Q(x)) -> Q(layout(x)), with groups along `axis`; a reason where that cannot be.

    `values` and `parameters` do to arrays what `layout` does: to quantized constants and to contracted scales.
    """
    quantizer = layout.inputs[0].producer()
    if quantizer.graph is not layout.graph:
        return f"`{label(quantizer)}` stands in another graph"
    if sole_user(quantizer.outputs[0]) is not layout:
        return f"`{label(quantizer)}` also feeds {_others(quantizer, layout)}"
    weight = weight_of(layout.inputs[0])
    if weight is not None:
        if reason := weight.why_not_rewritten():
            return reason
        made = replace_weight(
            editor, weight, values(weight.values), [parameters(p) for p in weight.parameters], "moved", axis=axis
        )
    else:
        reason = why_not_found_anew(quantizer)
        if reason:
            return reason
        made = _requantize(editor, quantizer, layout, axis, parameters)
    made.shape = layout.outputs[0].shape or made.shape
    editor.take_over(layout.outputs[0], made)
    editor.drop(layout)
    return None


def _others(quantizer: ir.Node, layout: ir.Node) -> str:
    names = [f"`{label(user)}`" for user in quantizer.outputs[0].consumers() if user is not layout]
    return ", ".join(dict.fromkeys(names)) or "an output of the graph"


def why_not_found_anew(quantizer: ir.Node, shared: bool = False) -> str | None:
    """Why scale and zero point cannot be made once more for a rearranged input; `shared`: others may use them, too."""
    x, made_here = quantizer.inputs[0], {quantizer}
    for value in quantizer.inputs[1:]:
        if value is None or constant(value) is not None:
            continue
        producer = value.producer()
        if not graph.is_ours(producer, FOUND) or producer.inputs[0] is not x:
            return f"its scale `{value.name}` is not found from its own input"
        made_here.add(producer)
    for node in set() if shared else made_here - {quantizer}:
        if node.outputs[0].is_graph_output() or not set(node.outputs[0].consumers()) <= made_here:
            return f"its scale `{node.outputs[0].name}` is used elsewhere, too"
    return None


def _requantize(editor: Editor, quantizer: ir.Node, layout: ir.Node, axis: int, relayout: Relayout) -> ir.Value:
    old_x = quantizer.inputs[0]
    operands = list(layout.inputs[1:])
    x = editor.node(
        layout.op_type, [old_x, *operands], dict(layout.attributes), name=label(layout),
        output=f"{old_x.name}_{layout.op_type.lower()}", like=layout.outputs[0], before=layout,
    )  # fmt: skip
    x.shape = layout.outputs[0].shape
    replaced: dict[ir.Value | None, ir.Value | None] = {None: None, old_x: x}
    for value in quantizer.inputs[1:]:
        if value in replaced:
            continue
        known = constant(value)
        if known is not None:
            replaced[value] = editor.constant(value.name, relayout(known))
        else:
            replaced[value] = again(editor, value.producer(), replaced, axis, layout)
    return again(editor, quantizer, replaced, axis, layout)


def again(editor: Editor, node: ir.Node, replaced: dict, axis: int, before: ir.Node) -> ir.Value:
    """`node` with its inputs replaced and its groups along `axis`."""
    attributes = graph.attributes(node) | {"axis": axis}
    inputs = [replaced[v] for v in node.inputs]
    like = node.outputs[0]
    made = editor.node(
        node.op_type, inputs, attributes, name=label(node), output=f"{like.name}_moved", like=like, domain=DOMAIN,
        before=before,
    )  # fmt: skip
    shape = None if inputs[0].shape is None else list(inputs[0].shape)
    if shape is not None and node.op_type in FOUND:
        length = shape[axis]
        shape[axis] = -(-length // attributes["group_size"]) if isinstance(length, int) else None
    made.shape = None if shape is None else ir.Shape(shape)
    copy_description(node, made.producer())
    return made
