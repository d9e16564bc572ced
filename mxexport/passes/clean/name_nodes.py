from __future__ import annotations

import re

import onnx_ir as ir

from mxexport.model import rewriting
from mxexport.model.names import Names
from mxexport.model.outcome import Outcome


def name_nodes(model: ir.Model) -> Outcome:
    """unnamed or doubly named node, unnamed tensor -> one with a name of its own  when it has none.

    A node takes the name of the module its weight belongs to (`fc1.weight` -> `fc1`), else its operator's.
    """
    outcome = Outcome()
    node_names = Names(node.name for node in model.graph.all_nodes() if node.name)
    names, seen = None, set()
    for _, node in rewriting.nodes(model):
        if not node.name or node.name in seen:
            old = node.name or "unnamed"
            node.name = node_names.unique(_wanted(node))
            outcome.changed.append(f"{old} {node.op_type}: {node.name}")
        seen.add(node.name)
        for i, value in enumerate(node.outputs):
            if value.name is None:
                names = names or Names(rewriting.value_names(model))
                value.name = names.unique(node.name if i == 0 else f"{node.name}.{i}")
                outcome.changed.append(f"{node.name} output {i}: {value.name}")
    return outcome


def _wanted(node: ir.Node) -> str:
    for value in node.inputs:
        if value is not None and value.is_initializer() and "." in (value.name or ""):
            suffix = "_quant" if rewriting.is_quantizer(node) else ""
            return value.name + suffix if suffix else value.name.rpartition(".")[0]
    if node.name:  # a second node of the same name
        return node.name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.op_type).lower()
