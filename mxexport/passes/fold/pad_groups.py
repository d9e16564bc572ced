from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.editing import Editor, sole_user
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import attribute, constant, dims, is_op, label
from mxexport.passes.exactness import approximate
from mxexport.passes.fold._layouts import again, why_not_found_anew
from mxexport.passes.fold._weights import Weight, replace_weight, weight_of


@approximate(
    ulp=256,
    reason="only zeros are added, so quantizers keep every bit; a sum of K products may run in another order, within "
    "2 * K * 2**-24 of the sum of the magnitudes of its products",
)
def pad_groups(model: ir.Model) -> Outcome:
    """Q(x) @ Q(w) -> Q(Pad(x)) @ Q(w')  when the last group along K is short: both are filled up with zeros.

    Also Conv along its input channels. For targets that need whole groups; scales keep their shape and values.
    """
    editor = Editor(model)
    padded: dict[tuple, ir.Value] = {}
    for node in list(editor.nodes()):
        if not is_op(node, "MatMul", "Conv", "Gemm") or len(node.inputs) < 2:
            continue
        weight = weight_of(node.inputs[1])
        if weight is None:
            weight = _behind_transpose(editor, node)
            if weight is None:
                continue
        if not _short(weight):
            continue
        name = label(weight.node)
        reason = _why_not(node, weight) or _pad(editor, node, weight, padded)
        if reason:
            editor.declined(node, f"groups of `{name}` not padded: {reason}")
    return editor.finish()


def _short(weight: Weight) -> int:
    """Zeros the last group lacks."""
    return -weight.shape[weight.axis] % weight.attributes["group_size"]


def _behind_transpose(editor: Editor, node: ir.Node) -> Weight | None:
    source = node.inputs[1].producer() if node.inputs[1] is not None else None
    weight = weight_of(source.inputs[0]) if is_op(source, "Transpose") else None
    if weight is not None and _short(weight):
        editor.declined(node, f"groups of `{label(weight.node)}` not padded: run fold_transposes first")
    return None


def _why_not(node: ir.Node, weight: Weight) -> str | None:
    if node.op_type == "Gemm":
        return "run split_gemm first"
    if sole_user(weight.node.outputs[0]) is not node:
        return "the weight is used elsewhere, too"
    if node.op_type == "Conv":
        if attribute(node, "group", 1) != 1:
            return f"its {attribute(node, 'group', 1)} convolution groups would each need padding of their own"
        k = 1
    else:
        k = len(weight.shape) - 2
    if weight.axis != k:
        return f"its groups run along axis {weight.axis} and not along K (axis {k})"
    if dims(node.inputs[0]) is None:
        return "the rank of its input is not known; run infer_shapes first"
    return weight.why_not_rewritten()


def _pad(editor: Editor, node: ir.Node, weight: Weight, padded: dict) -> str | None:
    missing, size = _short(weight), weight.attributes["group_size"]
    axis = 1 if node.op_type == "Conv" else len(node.inputs[0].shape) - 1
    key = (node.inputs[0], axis, missing, node.graph)
    if key not in padded:
        found = _padded_input(editor, node, axis, missing, size)
        if isinstance(found, str):
            return found
        padded[key] = found
    widths = [(0, missing if i == weight.axis else 0) for i in range(len(weight.shape))]
    made = replace_weight(editor, weight, np.pad(weight.values, widths), weight.parameters, suffix="padded")
    node.replace_input_with(1, made)
    old = node.inputs[0].producer()
    node.replace_input_with(0, padded[key])
    for dead in (weight.node, old):
        if dead is not None:
            editor.drop(dead)
    editor.changed(f"{missing} zeros fill the last group of `{label(weight.node)}` and of the input of `{label(node)}`")
    return None


def _padded_input(editor: Editor, node: ir.Node, axis: int, missing: int, size: int) -> ir.Value | str:
    """The first operand with zeros behind it: padded in front of its quantizer where it has one."""
    x = node.inputs[0]
    quantizer = x.producer()
    if not graph.is_ours(quantizer, graph.QUANTIZERS):
        return _pad_node(editor, x, axis, missing, node)
    a = graph.attributes(quantizer)
    if (a["axis"] % len(x.shape), a["group_size"]) != (axis, size):
        return f"its input `{label(quantizer)}` is grouped otherwise"
    reason = why_not_found_anew(quantizer, shared=True)
    if reason:
        return reason
    replaced = {None: None, quantizer.inputs[0]: _pad_node(editor, quantizer.inputs[0], axis, missing, node)}
    for value in quantizer.inputs[1:]:
        if value not in replaced:
            known = constant(value) is not None
            replaced[value] = value if known else again(editor, value.producer(), replaced, axis, node)
    return again(editor, quantizer, replaced, axis, node)


def _pad_node(editor: Editor, x: ir.Value, axis: int, missing: int, before: ir.Node) -> ir.Value:
    rank = len(x.shape)
    widths = np.zeros(2 * rank, np.int64)
    widths[rank + axis] = missing
    shape = [n + missing if i == axis and isinstance(n, int) else n for i, n in enumerate(x.shape)]
    pads = editor.constant(f"{x.name}_pads", widths)
    return editor.node("Pad", [x, pads], {"mode": "constant"}, name=f"{x.name}_pad", like=x, shape=shape, before=before)
