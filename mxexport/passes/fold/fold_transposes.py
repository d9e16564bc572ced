from __future__ import annotations

import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.editing import Editor
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import attribute, is_op, label
from mxexport.passes.fold._layouts import move_quantizer_behind
from mxexport.passes.fold._weights import MAKERS


def fold_transposes(model: ir.Model) -> Outcome:
    """Transpose(Q(w, s)) -> Q(w', s')  on weights;  Transpose(Q(x)) -> Q(Transpose(x))  on activations. Exact.

    The axis follows. Transpose(Transpose(x)) becomes one, or none; equal Transposes of one tensor become one.
    """
    editor = Editor(model)
    _merge_equal(editor)
    for node in list(editor.nodes()):
        if not is_op(node, "Transpose") or node.graph is None or node.inputs[0] is None:
            continue
        source = node.inputs[0].producer()
        if is_op(source, "Transpose") and source.graph is node.graph:
            node = _compose(editor, source, node)
            source = None if node is None else node.inputs[0].producer()
        if graph.is_ours(source, MAKERS):
            _fold(editor, source, node)
    return editor.finish()


def _merge_equal(editor: Editor) -> None:
    """Typical: two Gemms on one tied weight, each with a Transpose of its own that keeps the other from folding."""
    first: dict[tuple, ir.Node] = {}
    for node in list(editor.nodes()):
        if not is_op(node, "Transpose") or node.inputs[0] is None or (perm := _perm(node)) is None:
            continue
        kept = first.setdefault((node.graph, node.inputs[0], *perm), node)
        if kept is not node and not node.outputs[0].is_graph_output():
            editor.merge(node.outputs[0], kept.outputs[0])
            editor.changed(f"Transpose `{label(node)}` equals `{label(kept)}`")
            editor.drop(node)


def _perm(node: ir.Node) -> list[int] | None:
    given = attribute(node, "perm")
    if given is not None:
        return list(given)
    return None if node.inputs[0].shape is None else list(reversed(range(len(node.inputs[0].shape))))


def _fold(editor: Editor, quantizer: ir.Node, node: ir.Node) -> None:
    perm = _perm(node)
    if perm is None:
        editor.declined(node, "its permutation is not known; run infer_shapes first")
        return
    axis = perm.index(graph.attributes(quantizer)["axis"] % len(perm))
    names = label(node), label(quantizer)
    reason = move_quantizer_behind(editor, node, axis, lambda a: a.transpose(perm), lambda a: a.transpose(perm))
    if reason:
        editor.declined(node, f"not folded into `{names[1]}`: {reason}")
    else:
        editor.changed(f"Transpose `{names[0]}` folded into `{names[1]}`: groups run along axis {axis}")


def _compose(editor: Editor, first: ir.Node, second: ir.Node) -> ir.Node | None:
    """One Transpose for two, the one left; None where none is left. Unchanged where a permutation is unknown."""
    inner, outer = _perm(first), _perm(second)
    if inner is None or outer is None:
        return second
    perm, x = [inner[i] for i in outer], first.inputs[0]
    output = second.outputs[0]
    if perm == sorted(perm) and not output.is_graph_output():
        editor.merge(output, x)
        editor.changed(f"Transpose `{label(first)}` and `{label(second)}` cancel")
        editor.drop(second)
        return None
    second.replace_input_with(0, x)
    second.attributes["perm"] = ir.AttrInt64s("perm", perm)
    editor.changed(f"Transpose `{label(first)}` composed with `{label(second)}`")
    editor.drop(first)
    return second
