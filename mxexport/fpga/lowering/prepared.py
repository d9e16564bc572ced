"""A QONNX graph in the words that hardware has: the rewriting that comes before the lowering."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.lowering.borders import constant_nodes
from mxexport.fpga.lowering.settled import settle
from mxexport.fpga.lowering.static_scales import take_out_scales
from mxexport.fpga.unit import Refused
from mxexport.model.editing import Editor, sole_user
from mxexport.model.rewriting import attribute, is_op
from mxexport.numbers.spatial import output_size
from mxexport.passes.clean.fold_constants import fold_constants
from mxexport.passes.clean.infer_shapes import infer_shapes


def complete(model: ir.Model) -> None:
    """What lowering reads beside the nodes, in place: results of constants as constants, then shapes."""
    if constant_nodes(model.graph):
        fold_constants(model)
    infer_shapes(model)


def prepare(model: ir.Model) -> bool:
    """Rewrite `model` in place; says whether anything changed: by a rounding of float32 at most, or codes that turn."""
    changed = [rewrite(model) for rewrite in (settle, spell, count_padding, take_out_scales)]
    return any(changed)


def spell(model: ir.Model) -> bool:
    """Log(Sigmoid(x)) -> -Softplus(-x)  where nobody else reads the Sigmoid: a curve that is bounded beside a line."""
    editor, changed = Editor(model), False
    for node in list(model.graph):
        gate = node.inputs[0].producer() if is_op(node, "Log") else None
        if not is_op(gate, "Sigmoid") or sole_user(gate.outputs[0]) is not node:
            continue
        value, out = gate.inputs[0], node.outputs[0]
        for op, word in (("Neg", "mirrored"), ("Softplus", "softplus"), ("Neg", "logsigmoid")):
            value = editor.node(op, [value], name=f"{node.name}_{word}", like=out, before=node)
        editor.take_over(out, value)
        editor.drop(node)
        changed = True
    editor.finish()
    return changed


def count_padding(model: ir.Model) -> bool:
    """AveragePool(x) -> AveragePool(x, count_include_pad=1) * c  where not all of a window counts: padding, unless the
    node asks for it, and what `ceil_mode` lets windows reach beyond. c is one over the share that does, for each place.
    """
    editor, changed = Editor(model), False
    for node in list(model.graph):
        if not is_op(node, "AveragePool") or (found := _shares(node)) is None:
            continue
        shares, pads = found
        out, given = node.outputs[0], {name: a.value for name, a in node.attributes.items() if name != "ceil_mode"}
        given |= {"count_include_pad": 1, "pads": pads}
        pool = editor.node("AveragePool", list(node.inputs), given, name=f"{node.name}_padded", like=out, before=node)
        if (shares < 1).any():
            shares = shares if np.ptp(shares) else shares.reshape(-1)[:1].reshape([1] * shares.ndim)
            factors = editor.constant(f"{node.name}_counts", (1 / shares).astype(np.float32)[None, None])
            pool = editor.node("Mul", [pool, factors], name=f"{node.name}_counted", like=out, before=node)
        editor.take_over(out, pool)
        editor.drop(node)
        changed = True
    editor.finish()
    return changed


def _shares(node: ir.Node) -> tuple[np.ndarray, list[int]] | None:
    """What part of the window counts, for each place of the result, and the pads that such windows need; None where the
    node says that all of it does everywhere, or too little."""
    shape, kernel = node.inputs[0].shape, attribute(node, "kernel_shape", ())
    rank = len(kernel)
    if shape is None or len(shape) != rank + 2 or not all(isinstance(d, int) for d in shape[2:]):
        return None
    try:
        window = Window.of_node(node, tuple(kernel), None)
    except Refused:
        return None
    if set(window.dilations) != {1}:
        return None
    given = attribute(node, "pads", (0,) * 2 * rank) if attribute(node, "count_include_pad", 0) else (0,) * 2 * rank
    found, pads = np.ones(()), [*window.pads[:rank], *window.pads[2 : 2 + rank]]
    for i, (size, k, stride) in enumerate(zip(shape[2:], kernel, window.strides, strict=False)):
        starts = np.arange(output_size(size, k, stride, pads[i], pads[i + rank])) * stride - pads[i]
        counted = np.minimum(starts + k, size + given[i + rank]) - np.maximum(starts, -given[i])
        found = found[..., None] * (counted / k)
    said = not attribute(node, "ceil_mode", 0) and (found == 1).all()
    return (found, pads) if (found > 0).all() and not said else None
