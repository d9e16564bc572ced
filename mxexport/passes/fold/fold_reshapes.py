from __future__ import annotations

from math import prod

import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.editing import Editor
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import dims, is_op, label, static_shape
from mxexport.numbers import groups
from mxexport.passes.fold._layouts import move_quantizer_behind
from mxexport.passes.fold._weights import MAKERS, weight_of

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def fold_reshapes(model: ir.Model) -> Outcome:
    """Reshape(Q(w, s)) -> Q(w', s')  on weights;  Reshape(Q(x)) -> Q(Reshape(x))  on activations. Exact.

    Also Flatten, Squeeze, Unsqueeze; only when every group stays whole. The axis follows.
    """
    editor = Editor(model)
    for node in list(editor.nodes()):
        if not is_op(node, *RESHAPES) or node.inputs[0] is None:
            continue
        quantizer = node.inputs[0].producer()
        if not graph.is_ours(quantizer, MAKERS):
            continue
        name, target = label(node), label(quantizer)
        found = _fold(editor, quantizer, node)
        if isinstance(found, str):
            editor.declined(node, f"not folded into `{target}`: {found}")
        else:
            editor.changed(f"{node.op_type} `{name}` folded into `{target}`: groups run along axis {found}")
    return editor.finish()


def _fold(editor: Editor, quantizer: ir.Node, node: ir.Node) -> int | str:
    old, new = dims(node.inputs[0]), dims(node.outputs[0])
    if old is None or new is None:
        return "its shape is not known; run infer_shapes first"
    a = graph.attributes(quantizer)
    axis = axis_of_whole_groups(old, new, a["axis"] % len(old), a["group_size"])
    if isinstance(axis, str):
        return axis
    shape = static_shape(node.outputs[0])
    if shape is None and (weight_of(node.inputs[0]) or _has_constant_scale(quantizer)):
        return "the shape it makes is not static, and the scale is constant"
    contracted = None if shape is None else groups.contracted_shape(shape, axis, a["group_size"])
    reason = move_quantizer_behind(editor, node, axis, lambda x: x.reshape(shape), lambda s: s.reshape(contracted))
    return reason or axis


def _has_constant_scale(quantizer: ir.Node) -> bool:
    return any(v is not None and v.const_value is not None for v in quantizer.inputs[1:])


def axis_of_whole_groups(old: list[int | None], new: list[int | None], axis: int, group_size: int) -> int | str:
    """The axis of shape `new` the groups along `axis` of shape `old` run along, or why there is none.

    Elements of a group lie `stride` apart in memory, stride = product of the lengths behind the axis; the new axis
    must have the same stride, and the same length or (both) a whole number of groups.
    """
    if None in old[axis:]:
        return "the length of the group axis, or of one behind it, is not known"
    length, stride = old[axis], prod(old[axis + 1 :])
    behind, candidates = 1, []
    for i in reversed(range(len(new))):
        if behind == stride:
            candidates.append(i)
        if new[i] is None or behind > stride:
            break
        behind *= new[i]
    candidates = [i for i in candidates if new[i] is not None]
    if not candidates:
        return f"it mixes axis {axis}, along which groups run, with axes behind it"
    found = next(
        (i for i in candidates if new[i] == length), next((i for i in candidates if new[i] > 1), candidates[0])
    )
    if new[found] != length and (length % group_size or new[found] % group_size):
        return f"groups of {group_size} do not stay whole: the {length} elements of axis {axis} become {new[found]}"
    return found
