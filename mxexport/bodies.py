"""Whose function bodies an executor runs: those of the operators, whatever a file brings under their names.

A body in a file is there for plain ONNX runtimes. What an operator means is fixed by its specification, and neither
qonnx nor hardware looks at the body: a file must not make one executor compute something else than the others.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from mxexport import graph
from mxexport.model_checks import all_nodes
from mxexport.ops import DOMAIN, functions_for, qonnx_general

_DOMAINS = (DOMAIN, qonnx_general.DOMAIN)


def are_ours(proto: onnx.ModelProto) -> bool:
    """Whether the model holds exactly the bodies that its nodes of ours and of QONNX need, as the operators give them.

    Raises:
        UnsupportedError: a node of our domain that is no operator of ours.
    """
    opset = next((i.version for i in proto.opset_import if not i.domain), None)
    if opset is None:
        return True  # there is no body for such a model; its executor refuses it
    nodes = [*all_nodes(proto.graph), *(n for f in proto.functions if f.domain not in _DOMAINS for n in all_nodes(f))]
    needed = [*functions_for(nodes, opset), *qonnx_general.functions_for(nodes, opset)]
    given = [f for f in proto.functions if f.domain in _DOMAINS]
    return sorted(map(_bytes, needed)) == sorted(map(_bytes, given))


def with_ours(model: ir.Model) -> ir.Model:
    """A copy with the bodies its nodes need; tensors are shared with `model`."""
    copy = model.clone()
    for key in [key for key in copy.functions if key[0] in _DOMAINS]:
        del copy.functions[key]
    graph.attach_functions(copy)
    graph.attach_standard_functions(copy)
    return copy


def _bytes(function: onnx.FunctionProto) -> bytes:
    return function.SerializeToString(deterministic=True)
