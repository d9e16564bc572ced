from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model import rewriting as rw
from mxexport.model.editing import make_node, new_initializer, replace_output
from mxexport.model.names import Names
from mxexport.model.outcome import Outcome
from mxexport.passes.exactness import approximate

_PARAMETERS = ("scale", "bias", "mean", "variance")


@approximate(ulp=256, reason="the channel constants and their product with x are rounded; some kernels round otherwise")
def lower_batch_norm(model: ir.Model) -> Outcome:
    """BatchNormalization(x) -> Add(Mul(x, a), b)  when scale, bias, mean and variance are constants.

    a = 1 / sqrt(variance + epsilon) * scale, b = bias - mean * a, every step rounded to float32 (float64 where x is):
    so does onnxruntime's kernel where the processor fuses no multiply-add, and there every bit stays. Better rounded
    constants would move sums across rounding points of the quantizers behind them. The bound holds while means stay
    within some ten standard deviations: a sum loses the bits its terms cancel.
    """
    outcome, names = Outcome(), None
    for graph, node in rw.nodes(model):
        if not rw.is_op(node, "BatchNormalization"):
            continue
        reason = _why_not(node)
        if reason:
            outcome.declined.append((rw.label(node), reason))
            continue
        names = names or Names(rw.value_names(model))
        _lower(graph, node, names)
        outcome.changed.append(f"{rw.label(node)}: BatchNormalization as Mul and Add")
    return outcome


def _why_not(node: ir.Node) -> str | None:
    if rw.attribute(node, "training_mode", 0):
        return "it is in training mode: its mean and variance come from the batch; export the model in eval mode"
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return "its running statistics are used; export the model in eval mode"
    for name, value in zip(_PARAMETERS, node.inputs[1:], strict=True):
        if rw.constant(value) is None:
            return f"its {name} {value.name!r} is not a constant"
    if rw.rank(node.inputs[0]) is None:
        return "the rank of its input is not known; infer shapes first"
    scale, _, _, variance = (rw.constant(v) for v in node.inputs[1:5])
    if not np.all(variance.astype(np.float64) + rw.attribute(node, "epsilon", 1e-5) > 0):
        return "a variance plus epsilon is not positive"
    return None


def _lower(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    x, y, base = node.inputs[0], node.outputs[0], node.name or node.outputs[0].name
    dtype = (x.dtype or node.inputs[1].dtype).numpy()
    kind = np.promote_types(dtype, np.float32).type
    scale, bias, mean, variance = (rw.constant(v).astype(kind) for v in node.inputs[1:5])
    factor = kind(1) / np.sqrt(variance + kind(rw.attribute(node, "epsilon", 1e-5))) * scale
    offset = bias - mean * factor
    shape = (-1, *(1,) * (rw.rank(x) - 2))
    constants = [
        new_initializer(
            graph, names.unique(f"{base}.{name}"), array.astype(dtype).reshape(shape if rw.rank(x) > 1 else -1)
        )
        for name, array in (("factor", factor), ("offset", offset))
    ]
    scaled = names.unique(f"{base}.scaled")
    mul = make_node("Mul", [x, constants[0]], base, scaled, y)
    shifted = names.unique(f"{base}.shifted")
    add = make_node("Add", [mul.outputs[0], constants[1]], shifted, shifted, y)
    graph.insert_before(node, [mul, add])
    replace_output(y, add.outputs[0])
    graph.remove(node, safe=True)
