from __future__ import annotations

import onnx_ir as ir

from mxexport.model import qonnx_domains, rewriting as rw
from mxexport.model.outcome import Outcome
from mxexport.ops import qonnx_general


def unify_qonnx_domains(model: ir.Model) -> Outcome:
    """onnx.brevitas.Quant -> qonnx.custom_op.general.Quant  when a node has a domain of former years (or none)."""
    before = {node: node.domain for node in model.graph.all_nodes()}
    changed, kept = qonnx_domains.unify(model)
    return Outcome(
        [f"{rw.label(node)}: {before[node] or 'no domain'} -> {qonnx_general.DOMAIN}" for node in changed],
        [(rw.label(node), "the file brings a body for it under its own domain") for node in kept],
    )
