"""A QONNX graph in the words that hardware has: the rewriting that comes before the lowering."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.fpga.borders import constant_nodes
from mxexport.fpga.settled import settle
from mxexport.fpga.static_scales import take_out_scales
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
    """AveragePool(x) -> AveragePool(x, count_include_pad=1) * c  where padding does not count: c is the share of a
    window, for each of its places, that lies on the image."""
    editor, changed = Editor(model), False
    for node in list(model.graph):
        if not is_op(node, "AveragePool") or (shares := _shares(node)) is None:
            continue
        out, given = node.outputs[0], {name: a.value for name, a in node.attributes.items()}
        given["count_include_pad"] = 1
        pool = editor.node("AveragePool", list(node.inputs), given, name=f"{node.name}_padded", like=out, before=node)
        shares = shares if np.ptp(shares) else shares.reshape(-1)[:1].reshape([1] * shares.ndim)
        factors = editor.constant(f"{node.name}_counts", (1 / shares).astype(np.float32)[None, None])
        editor.take_over(out, editor.node("Mul", [pool, factors], name=f"{node.name}_counted", like=out, before=node))
        editor.drop(node)
        changed = True
    editor.finish()
    return changed


def _shares(node: ir.Node) -> np.ndarray | None:
    """What part of the window lies on the image, for each place of the result; None where all of it does everywhere,
    or where padding counts, or where the node says too little."""
    shape, kernel = node.inputs[0].shape, attribute(node, "kernel_shape", ())
    rank = len(kernel)
    if shape is None or len(shape) != rank + 2 or not all(isinstance(d, int) for d in shape[2:]):
        return None
    counts = attribute(node, "count_include_pad", 0) or attribute(node, "ceil_mode", 0)
    if counts or attribute(node, "auto_pad", "NOTSET") != "NOTSET" or set(attribute(node, "dilations", (1,))) != {1}:
        return None
    pads, strides = attribute(node, "pads", (0,) * 2 * rank), attribute(node, "strides", (1,) * rank)
    found = np.ones(())
    for i, (size, k, stride) in enumerate(zip(shape[2:], kernel, strides, strict=True)):
        starts = np.arange(output_size(size, k, stride, pads[i], pads[i + rank], 1)) * stride - pads[i]
        inside = np.minimum(starts + k, size) - np.maximum(starts, 0)
        found = found[..., None] * (inside / k)
    return found if (found < 1).any() and (found > 0).all() else None
