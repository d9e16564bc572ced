"""Whose function bodies an executor runs: those of the operators, whatever a file brings under their names.

A body in a file is there for plain ONNX runtimes. What an operator means is fixed by its specification, and neither
qonnx nor hardware looks at the body: a file must not make one executor compute something else than the others.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from mxexport.model import graph, qonnx_domains
from mxexport.model.checks import all_nodes
from mxexport.model.opsets import opset_for_bodies, raise_opset
from mxexport.ops import functions_for, qonnx_general


def are_ours(proto: onnx.ModelProto) -> bool:
    """Whether the model holds exactly the bodies that its nodes of ours and of QONNX need, as the operators give them.

    Raises:
        UnsupportedError: a node of our domain that is no operator of ours.
    """
    opset = next((i.version for i in proto.opset_import if not i.domain), None)
    if opset is None:
        return True  # there is no body for such a model; its executor refuses it
    given = [f for f in proto.functions if f.domain in graph.BODY_DOMAINS]
    others = [f for f in proto.functions if f.domain not in graph.BODY_DOMAINS]
    nodes = [node for holder in (proto.graph, *others) for node in all_nodes(holder)]
    if any(qonnx_domains.is_former(node.domain, node.op_type) for node in nodes) or opset < opset_for_bodies(nodes):
        return False
    needed = [*functions_for(nodes, opset), *qonnx_general.functions_for(nodes, opset)]
    return sorted(map(_bytes, needed)) == sorted(map(_bytes, given))


def with_ours(model: ir.Model) -> ir.Model:
    """A copy with the bodies its nodes need, at an opset that has what they are made of; tensors are shared with
    `model`.

    Raises:
        UnsupportedError: a node of our domain that is no operator of ours, or an opset that cannot be raised.
    """
    copy = graph.copied_without_bodies(model)
    qonnx_domains.unify(copy)
    if "" in copy.opset_imports:
        raise_opset(copy, opset_for_bodies(copy.graph.all_nodes()))
    graph.attach_functions(copy)
    graph.attach_standard_functions(copy)
    return copy


def _bytes(function: onnx.FunctionProto) -> bytes:
    return function.SerializeToString(deterministic=True)
