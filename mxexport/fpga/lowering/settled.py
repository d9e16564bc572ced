"""What is the same for every frame, whatever it holds, as constants: positions and masks that a model makes for the
size of its batch, and all that it computes from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from mxexport.errors import MXExportError
from mxexport.fpga.lowering.borders import is_side
from mxexport.model import graph
from mxexport.model.editing import Editor, bypass, why_not_bypass
from mxexport.model.rewriting import constant, is_op, is_random
from mxexport.running import executors
from mxexport.running.drawing import can_be_made

_BROADCAST = {"Add", "Sub", "Mul", "Div", "Pow", "Where", "And", "Or", "Xor", "Min", "Max", "Mod"}
_BROADCAST |= {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
"""Operators to which a tensor [1, ...] is as good as one that repeats it for every frame."""
_BATCHES = (1, 2)


def settle(model: ir.Model) -> bool:
    """x + f(Shape(x)) -> x + c  when f gives each frame the same c, whatever the size of the batch; and other
    operators that broadcast. Says whether it changed anything; what it makes holds one frame, [1, ...]."""
    g = model.graph
    meetings = list(_meetings(g))
    feeds = [_feeds(g, batch) for batch in _BATCHES]
    if not meetings or None in feeds:
        return False
    names = list(dict.fromkeys(node.inputs[at].name for node, at in meetings))
    try:
        one, two = (executors.run(model, given, names) for given in feeds)
    except MXExportError:  # a model that other sizes of a batch, or zeros, break: it stays as it is
        return False
    editor, made = Editor(model), {}
    for node, at in meetings:
        value = node.inputs[at]
        if value not in made and (frame := _frame(one[value.name], two[value.name])) is not None:
            made[value] = editor.constant(f"{value.name}_frame", frame)
        if value in made:
            node.replace_input_with(at, made[value])
            _one_frame(node)
    for value in made:
        editor.drop(value.producer())
    for node in list(g):
        if is_op(node, "Where"):
            _choose(editor, node)
    editor.finish()
    return bool(made)


def _one_frame(node: ir.Node) -> None:
    """A quantizer of one frame gives one, and so do those that only change axes behind it."""
    if not (graph.is_ours(node, graph.QUANTIZERS | graph.SCALES) or is_op(node, "Transpose")):
        return
    (out,) = node.outputs
    if out.shape is not None and not isinstance(out.shape[0], int):
        out.shape = ir.Shape([1, *out.shape[1:]])
    for user in out.consumers():
        if is_op(user, "Transpose"):
            _one_frame(user)


def _choose(editor: Editor, node: ir.Node) -> None:
    """Where(c, a, b) -> a  when c holds everywhere, b where it holds nowhere: masks that hide nothing."""
    condition, shape = constant(node.inputs[0]), node.outputs[0].shape
    if condition is None or shape is None or not (condition.all() or not condition.any()):
        return
    chosen = node.inputs[1 if condition.all() else 2]
    if chosen.shape == shape and why_not_bypass(node.outputs[0], chosen) is None:
        bypass(node.outputs[0], chosen)
        editor.drop(node)


def _meetings(g: ir.Graph) -> Iterator[tuple[ir.Node, int]]:
    """Where a tensor that only shapes of inputs determine, or nothing at all, meets one that depends on what they
    hold."""
    varying, shaped = set(g.inputs), set()
    for node in g:
        inputs = [v for v in node.inputs if v is not None]
        inner = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        if is_op(node, "Shape", "Size") and inputs[0] not in shaped:
            shaped.update(node.outputs if inputs[0] in varying else ())
        elif is_op(node, "GatherElements") and _alike(inputs[0]):
            shaped.update(node.outputs)
        elif inner or is_random(node) or not varying.isdisjoint(inputs):
            varying.update(node.outputs)
            if node.domain == "" and node.op_type in _BROADCAST:
                yield from ((node, i) for i, v in enumerate(node.inputs) if v in shaped and constant(v) is None)
        elif not shaped.isdisjoint(inputs) or not is_side(node):
            shaped.update(node.outputs)
            if graph.is_ours(node, graph.QUANTIZERS | graph.SCALES):
                yield from ((node, i) for i, v in enumerate(node.inputs[:1]) if v in shaped)


def _alike(value: ir.Value) -> bool:
    """Whether all entries of a constant, repeated or not, are one number: then it does not matter which is taken."""
    node = value.producer()
    known = constant(node.inputs[0] if is_op(node, "Expand") else value)
    return known is not None and known.size > 0 and bool((known == known.reshape(-1)[0]).all())


def _feeds(g: ir.Graph, batch: int) -> Mapping[str, np.ndarray] | None:
    """So many frames of zeros; None where the graph is for other sizes of a batch, or says too little."""
    feeds = {}
    for value in g.inputs:
        shape = value.shape
        if shape is None or value.dtype is None or not len(shape) or isinstance(shape[0], int):
            return None
        frames = (batch, *shape[1:])
        if not all(isinstance(d, int) for d in frames) or not can_be_made(frames):
            return None
        feeds[value.name] = np.zeros(frames, value.dtype.numpy())
    return feeds


def _frame(one: np.ndarray, two: np.ndarray) -> np.ndarray | None:
    """What every frame gets of a tensor, computed for one and for two of them; None where they differ."""
    if one.shape == two.shape:
        return one if np.array_equal(one, two) else None
    if one.ndim == 0 or one.shape[0] != 1 or two.shape != (2, *one.shape[1:]):
        return None
    return one if all(np.array_equal(frame, one[0]) for frame in two) else None
