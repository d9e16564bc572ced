from __future__ import annotations

import onnx_ir as ir

from mxexport.ops import qonnx_general
from mxexport.passes import rewriting as rw
from mxexport.passes.outcome import Outcome


def unify_qonnx_domains(model: ir.Model) -> Outcome:
    """onnx.brevitas.Quant -> qonnx.custom_op.general.Quant  when a quantizer has a domain of former years (or none)."""
    outcome = Outcome()
    old = rw.QONNX_DOMAINS - {qonnx_general.DOMAIN}
    for _, node in rw.nodes(model):
        former = node.domain in old or (node.domain in rw.STANDARD_DOMAINS and node.op_type in rw.QONNX_ONLY)
        if not former or node.op_type not in rw.QONNX_QUANTIZERS:
            continue
        if node.op_identifier() in model.functions:
            outcome.declined.append((rw.label(node), "the file brings a body for it under its own domain"))
            continue
        outcome.changed.append(f"{rw.label(node)}: {node.domain or 'no domain'} -> {qonnx_general.DOMAIN}")
        node.domain = qonnx_general.DOMAIN
        model.opset_imports.setdefault(qonnx_general.DOMAIN, 1)
    return outcome
