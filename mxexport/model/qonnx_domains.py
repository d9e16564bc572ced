"""QONNX's operators under the names their domain had in former years."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from mxexport.model.checks import all_nodes
from mxexport.ops import qonnx_general

QONNX_ONLY = ("Quant", "BipolarQuant", "Trunc")
"""No standard operator goes by these names, so one without a domain is QONNX's."""


def is_former(domain: str, op_type: str) -> bool:
    """Whether a node so named is QONNX's under a former domain, or under none."""
    return domain in qonnx_general.FORMER_DOMAINS or (domain in ("", "ai.onnx") and op_type in QONNX_ONLY)


def unify(model: ir.Model) -> tuple[list[ir.Node], list[ir.Node]]:
    """Give such nodes QONNX's domain, in place; those that now have it, and those for which the file brings a body of
    its own under their domain, which stay."""
    former = [node for node in model.graph.all_nodes() if is_former(node.domain, node.op_type)]
    kept = [node for node in former if node.op_identifier() in model.functions]
    changed = [node for node in former if node.op_identifier() not in model.functions]
    for node in changed:
        node.domain = qonnx_general.DOMAIN
    if changed:
        model.opset_imports.setdefault(qonnx_general.DOMAIN, 1)
    return changed, kept


def unify_proto(proto: onnx.ModelProto) -> None:
    """The same for a proto."""
    bodies = {(f.domain, f.name) for f in proto.functions}
    for node in all_nodes(proto.graph):
        if is_former(node.domain, node.op_type) and (node.domain, node.op_type) not in bodies:
            node.domain = qonnx_general.DOMAIN
            if all(known.domain != node.domain for known in proto.opset_import):
                proto.opset_import.add(domain=node.domain, version=1)
