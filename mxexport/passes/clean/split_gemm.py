from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model import rewriting as rw
from mxexport.model.editing import make_node, new_initializer, replace_output
from mxexport.model.names import Names
from mxexport.model.outcome import Outcome
from mxexport.passes.exactness import approximate


@approximate(ulp=64, reason="Gemm and MatMul add up float32 products in orders of their own")
def split_gemm(model: ir.Model) -> Outcome:
    """Gemm(A, B, C) -> Add(MatMul(A', B'), C)  when the type allows alpha and beta as factors.

    transA and transB become Transpose nodes, alpha and beta Mul nodes; fold_constants and fold_weight_transposes take
    them into constants.
    """
    outcome, names = Outcome(), None
    for _, node in rw.nodes(model):
        if not rw.is_op(node, "Gemm"):
            continue
        reason = _why_not(node)
        if reason:
            outcome.declined.append((rw.label(node), reason))
            continue
        names = names or Names(rw.value_names(model))
        split(node, names)
        outcome.changed.append(f"{rw.label(node)}: Gemm split into MatMul and Add")
    return outcome


def _factors(node: ir.Node) -> tuple[float, float]:
    return rw.attribute(node, "alpha", 1.0), rw.attribute(node, "beta", 1.0)


def _why_not(node: ir.Node) -> str | None:
    if _factors(node) == (1.0, 1.0):
        return None
    dtype = node.inputs[0].dtype or node.inputs[1].dtype or node.outputs[0].dtype
    if dtype is None:
        return f"alpha and beta are {_factors(node)} and the type of its inputs is not known; infer shapes first"
    if not dtype.is_floating_point():
        return f"alpha and beta are {_factors(node)} and its inputs are {dtype}; expected a float type"
    return None


def split(node: ir.Node, names: Names) -> ir.Node:
    """One Gemm; gives the MatMul."""
    graph, base, y = node.graph, node.name or node.outputs[0].name, node.outputs[0]
    alpha, beta = _factors(node)
    new: list[ir.Node] = []

    def add(op_type: str, inputs: list, suffix: str, like: ir.Value | None = None, **attributes) -> ir.Value:
        name = names.unique(f"{base}.{suffix}")
        made = make_node(op_type, inputs, base if suffix == "product" else name, name, like, **attributes)
        new.append(made)
        return made.outputs[0]

    def scaled(value: ir.Value, factor: float, suffix: str) -> ir.Value:
        if factor == 1.0:
            return value
        kind = (value.dtype or y.dtype or node.inputs[0].dtype).numpy()
        constant = new_initializer(graph, names.unique(f"{base}.{suffix}_factor"), np.array(factor, kind))
        return add("Mul", [value, constant], suffix, value)

    a, b = node.inputs[0], node.inputs[1]
    a = add("Transpose", [a], "transposed_input", perm=[1, 0]) if rw.attribute(node, "transA", 0) else a
    b = add("Transpose", [b], "transposed_weight", perm=[1, 0]) if rw.attribute(node, "transB", 0) else b
    product = add("MatMul", [a, b], "product", y)
    result = scaled(product, alpha, "alpha")
    c = node.inputs[2] if len(node.inputs) > 2 else None
    if c is not None and beta != 0.0:
        result = add("Add", [result, scaled(c, beta, "beta")], "bias_add", y)
    for made in new:
        if made.op_type == "Transpose" and made.inputs[0].shape is not None:
            made.outputs[0].shape = ir.Shape(list(made.inputs[0].shape)[::-1])
            made.outputs[0].type = made.inputs[0].type
    graph.insert_before(node, new)
    replace_output(y, result)
    graph.remove(node, safe=True)
    return product.producer()
