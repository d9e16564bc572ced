"""Activation functions that files spell out in several nodes: x * Sigmoid(k * x), Mish, softplus with its threshold,
and GELU by Erf or Tanh, as exporters write them below opset 20 and as cleaning leaves them, in any order of factors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.polynomial import polynomial

from mxexport.fpga.datapaths.curves import TANH_ARGUMENT, silu, softplus
from mxexport.model.editing import sole_user
from mxexport.model.rewriting import constant, is_op

_K, _A = TANH_ARGUMENT
_ARGUMENTS = {"Erf": ("gelu", [0, math.sqrt(0.5)]), "Tanh": ("gelu_tanh", [0, _K, 0, _K * _A])}
"""Function inside of a GELU -> which GELU it is, and the polynomial of x that it is given."""
_ALIKE = 1e-5
"""Constants of files are float32, of some rounded once more."""
_HIGHEST = 3
_MOST = 8
"""Nodes of a tree of products, and levels of a polynomial: none of what exporters write has more."""


@dataclass(frozen=True)
class Composed:
    """`function` (see `curves.function_of`) of the tensor `source`, times 2**power; `inner`: all nodes but the last."""

    function: str
    source: ir.Value
    power: int
    inner: frozenset[ir.Node]


def composed(g: ir.Graph) -> dict[ir.Node, Composed]:
    """The last node of each -> what it computes. No value between its nodes is read elsewhere."""
    found: dict[ir.Node, Composed] = {}
    for node in g:
        known = _at(node)
        if known is not None:
            found = {last: other for last, other in found.items() if last not in known.inner} | {node: known}
    return found


def _at(node: ir.Node) -> Composed | None:
    """What a product or a choice computes, where it is one of them."""
    if is_op(node, "Where"):
        return _softplus(node)
    if not is_op(node, "Mul"):
        return None
    inner, factors = set(), []
    scale = _factors(node, factors, inner)
    inner.discard(node)
    if scale is None or len(factors) != 2:
        return None
    for x, gate in (factors, factors[::-1]):
        function = _gate(x, gate, inner)
        if function is not None:
            mantissa, exponent = math.frexp(scale * (2 if function.startswith("gelu") else 1))  # a factor of 1/2
            if mantissa == 0.5 and _closed(node, inner):
                return Composed(function, x, exponent - 1, frozenset(inner))
    return None


def _closed(last: ir.Node, inner: set[ir.Node]) -> bool:
    """Whether nobody else reads what stands inside."""
    read = all(user in inner or user is last for n in inner for user in n.outputs[0].consumers())
    return read and not any(n.outputs[0].is_graph_output() for n in inner)


_LINEAR = 12
"""Softplus of more than that is its argument, within 2**-17."""


def _softplus(node: ir.Node) -> Composed | None:
    """Where(k * x > threshold, x, Softplus(k * x) / k), as torch writes it."""
    over, x, near = (None if v is None else v.producer() if i != 1 else v for i, v in enumerate(node.inputs))
    if not is_op(over, "Greater") or (limit := _number(over.inputs[1])) is None or limit < _LINEAR:
        return None
    inner, scale = {over}, 1.0
    while is_op(near, "Mul", "Div") and (number := _number(near.inputs[1])):
        scale *= number if near.op_type == "Mul" else 1 / number
        inner.add(near)
        near = near.inputs[0].producer()
    if not is_op(near, "Softplus"):
        return None
    inner.add(near)
    arguments = [_polynomial(v, x, inner) for v in (near.inputs[0], over.inputs[0])]
    if any(a is None or len(a) != 2 or a[0] for a in arguments) or arguments[0][1] != arguments[1][1]:
        return None
    factor = float(arguments[0][1])
    if not (factor > 0 and math.isclose(factor * scale, 1, rel_tol=_ALIKE) and _closed(node, inner)):
        return None
    return Composed(softplus(factor), x, 0, frozenset(inner))


def _number(value: ir.Value | None) -> float | None:
    """A constant of one entry; None of others."""
    known = constant(value)
    return float(known.reshape(-1)[0]) if known is not None and known.size == 1 else None


def _factors(node: ir.Node, factors: list[ir.Value], inner: set[ir.Node]) -> float | None:
    """What a tree of products multiplies: tensors into `factors`, its nodes into `inner`; gives the product of its
    constants, None where one is no scalar."""
    inner.add(node)
    scale = 1.0
    for value in node.inputs:
        known, maker = constant(value), value.producer()
        if known is not None:
            if known.size != 1:
                return None
            scale *= float(known.reshape(-1)[0])
        elif is_op(maker, "Mul") and sole_user(value) is node and len(inner) < _MOST:
            more = _factors(maker, factors, inner)
            if more is None:
                return None
            scale *= more
        else:
            factors.append(value)
    return scale


def _gate(x: ir.Value, gate: ir.Value, inner: set[ir.Node]) -> str | None:
    """The function x * gate, where it is one; the nodes of the gate go into `inner`."""
    node = gate.producer()
    if is_op(node, "Sigmoid"):
        nodes: set[ir.Node] = {node}
        found = _polynomial(node.inputs[0], x, nodes)
        if found is None or len(found) != 2 or found[0] or found[1] <= 0:
            return None
        inner |= nodes
        return silu(float(found[1]))
    if is_op(node, "Tanh"):
        return _mish(x, node, inner)
    if not is_op(node, "Add"):
        return None
    for one, value in (node.inputs, node.inputs[::-1]):
        known, curve = constant(one), value.producer()
        if known is None or known.size != 1 or float(known.reshape(-1)[0]) != 1 or not is_op(curve, *_ARGUMENTS):
            continue
        function, wanted = _ARGUMENTS[curve.op_type]
        nodes: set[ir.Node] = {node, curve}
        found = _polynomial(curve.inputs[0], x, nodes)
        if found is not None and len(found) == len(wanted) and np.allclose(found, wanted, rtol=_ALIKE, atol=0):
            inner |= nodes
            return function
    return None


def _mish(x: ir.Value, tanh: ir.Node, inner: set[ir.Node]) -> str | None:
    """x * Tanh(Softplus(x))."""
    soft = tanh.inputs[0].producer()
    known = _softplus(soft) if is_op(soft, "Where") else None
    if known is not None and known.function == "softplus" and known.source is x:
        inner |= known.inner | {soft, tanh}
        return "mish"
    if is_op(soft, "Softplus") and soft.inputs[0] is x:
        inner |= {soft, tanh}
        return "mish"
    return None


def _polynomial(value: ir.Value, x: ir.Value, nodes: set[ir.Node], levels: int = _MOST) -> np.ndarray | None:
    """Coefficients of `value` as a polynomial of `x`, lowest first; its nodes go into `nodes`."""
    if value is x:
        return np.array([0.0, 1.0])
    known, node = constant(value), value.producer()
    if known is not None:
        return known.reshape(-1).astype(np.float64) if known.size == 1 else None
    if not is_op(node, "Mul", "Div", "Add", "Pow") or not levels:
        return None
    nodes.add(node)
    a, b = (_polynomial(operand, x, nodes, levels - 1) for operand in node.inputs)
    if a is None or b is None:
        return None
    return next(_combined(node.op_type, a, b), None)


def _combined(op_type: str, a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """One polynomial of two; none where it has a higher degree than any we look for."""
    if op_type == "Add":
        yield polynomial.polyadd(a, b)
    elif op_type == "Mul" and len(a) + len(b) <= _HIGHEST + 2:
        yield polynomial.polymul(a, b)
    elif op_type == "Div" and len(b) == 1 and b[0]:
        yield a / b[0]
    elif op_type == "Pow" and len(b) == 1 and b[0] in range(1, _HIGHEST + 1) and len(a) == 2:
        yield polynomial.polypow(a, int(b[0]))
