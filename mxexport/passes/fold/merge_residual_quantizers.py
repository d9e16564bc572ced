from __future__ import annotations

import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.editing import Editor
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import attribute, dims, is_op, label
from mxexport.passes.fold._layouts import again
from mxexport.passes.fold.fold_reshapes import RESHAPES, axis_of_whole_groups


def merge_residual_quantizers(model: ir.Model) -> Outcome:
    """Q(x) and Q(layout(x)) on two branches of x -> Q(x) and layout(Q(x))  when formats and groups agree. Exact.

    `layout` is Transpose, Reshape, Flatten, Squeeze or Unsqueeze. The one quantizer left stands before the fork. The
    sum of two quantized branches is not quantized data of their format, so Add never merges quantizers.
    """
    editor = Editor(model)
    place = {node: i for i, node in enumerate(editor.nodes())}
    for node in list(place):
        if node.graph is None or not graph.is_ours(node, graph.QUANTIZERS):
            continue
        layout = node.inputs[0].producer()
        if not is_op(layout, "Transpose", *RESHAPES) or layout.inputs[0] is None:
            continue
        branches = [q for q in layout.inputs[0].consumers() if graph.is_ours(q, graph.QUANTIZERS)]
        branches = [q for q in branches if q.inputs[0] is layout.inputs[0]]
        reasons = []
        for other in branches:
            name, reason = label(node), _why_not(other, layout, node)
            if reason is None:
                _merge(editor, other, layout, node, place)
                editor.changed(f"`{name}` behind {layout.op_type} merged with `{label(other)}` before the fork")
                break
            reasons.append(f"not merged with `{label(other)}` on the other branch: {reason}")
        else:
            if reasons:
                editor.declined(node, reasons[0])
    return editor.finish()


def _why_not(other: ir.Node, layout: ir.Node, node: ir.Node) -> str | None:
    if len({other.graph, layout.graph, node.graph}) > 1:
        return "it stands in another graph"
    if other.op_type != node.op_type:
        return f"formats differ ({graph.quantizer_format(other).name} and {graph.quantizer_format(node).name})"
    a, b = graph.attributes(other), graph.attributes(node)
    different = [f"{name} is {a[name]} there and {b[name]} here" for name in a if name != "axis" and a[name] != b[name]]
    if different:
        return "formats differ: " + "; ".join(different)
    if any(v.is_graph_output() for q in (other, node) for v in q.outputs):
        return "one of them makes an output of the graph"
    scales = [q.inputs[1].producer() for q in (other, node)]
    if any(not graph.is_ours(s, {"MXScale"}) for s in scales) or [s.inputs[0] for s in scales] != [
        other.inputs[0],
        node.inputs[0],
    ]:
        return "scales are not found by MXScale from the values themselves"
    rules = [graph.attributes(s) for s in scales]
    if any(rules[0][name] != rules[1][name] for name in rules[0] if name != "axis"):
        return "their scales follow different rules"
    if any(r["axis"] != x["axis"] for r, x in zip(rules, (a, b), strict=True)) or len(node.inputs) > 2:
        return "they have zero points, or scales along another axis"
    axis = _axis_behind(layout, a["axis"], a["group_size"])
    if axis != b["axis"] % len(layout.outputs[0].shape or [None]):
        return f"groups run along another axis: {axis}"
    return None


def _axis_behind(layout: ir.Node, axis: int, group_size: int) -> int | str:
    old, new = dims(layout.inputs[0]), dims(layout.outputs[0])
    if old is None or new is None:
        return "shapes are not known"
    axis %= len(old)
    if layout.op_type != "Transpose":
        return axis_of_whole_groups(old, new, axis, group_size)
    perm = attribute(layout, "perm") or list(reversed(range(len(old))))
    return list(perm).index(axis)


def _merge(editor: Editor, other: ir.Node, layout: ir.Node, node: ir.Node, place: dict[ir.Node, float]) -> None:
    if place[other] > place[layout]:
        other = _move_before(editor, other, layout)
        place[other] = place[layout] - 0.5
    moved = editor.node(
        layout.op_type, [other.outputs[0], *layout.inputs[1:]], dict(layout.attributes), name=label(layout),
        like=layout.outputs[0], before=layout,
    )  # fmt: skip
    editor.take_over(node.outputs[0], moved)
    editor.drop(node)


def _move_before(editor: Editor, quantizer: ir.Node, place: ir.Node) -> ir.Node:
    """The quantizer made once more, with its scale, in front of `place`."""
    x, scale = quantizer.inputs[0], quantizer.inputs[1].producer()
    axis = graph.attributes(quantizer)["axis"]
    replaced = {x: x}
    replaced[quantizer.inputs[1]] = again(editor, scale, replaced, axis, place)
    made = again(editor, quantizer, replaced, axis, place)
    editor.take_over(quantizer.outputs[0], made)
    editor.drop(quantizer)
    return made.producer()
