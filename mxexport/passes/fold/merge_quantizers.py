from __future__ import annotations

import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.editing import Editor
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import constant, is_qonnx_quantizer, label

_OURS = graph.QUANTIZERS | graph.SCALES | graph.DEQUANTIZERS | graph.STORED_SCALES | graph.ZERO_POINTS
_SMALL = 64


def merge_quantizers(model: ir.Model) -> Outcome:
    """Q(x), Q(x) -> one Q(x)  when both have the same inputs and attributes; scale operators and packed weights
    alike. Exact.

    Typical: the projections q, k and v of attention, each with a quantizer of its own on the same input.
    """
    editor = Editor(model)
    first: dict[tuple, ir.Node] = {}
    for node in editor.nodes():
        if not graph.is_ours(node, _OURS) and not is_qonnx_quantizer(node):
            continue
        kept = first.setdefault(_key(node), node)
        if kept is node:
            continue
        if any(v.is_graph_output() for v in node.outputs):
            editor.declined(node, f"it equals `{label(kept)}`, but makes an output of the graph")
            continue
        for old, new in zip(node.outputs, kept.outputs, strict=True):
            editor.merge(old, new)
        editor.changed(f"{node.op_type} `{label(node)}` equals `{label(kept)}`")
        editor.drop(node)
    return editor.finish()


def _key(node: ir.Node) -> tuple:
    """What decides the outputs, and the graph the node stands in. Small constants count by their values."""
    attributes = tuple(sorted((name, str(a.value)) for name, a in node.attributes.items()))
    return (node.graph, node.domain, node.op_type, attributes, tuple(_identity(v) for v in node.inputs))


def _identity(value: ir.Value | None):
    known = None
    if value is not None and value.shape is not None and value.shape.is_static() and _size(value) <= _SMALL:
        known = constant(value)
    return value if known is None else (known.dtype.str, known.shape, known.tobytes())


def _size(value: ir.Value) -> int:
    size = 1
    for n in value.shape.numpy():
        size *= n
    return size
