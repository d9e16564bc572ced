"""What stands between a file from a stranger and qonnx: a file must not choose what Python runs.

qonnx imports an operator's domain as a Python module, opens the file that a `GenericPartition` names, evaluates layout
and sparsity annotations as Python text, and takes orders from the metadata `exec_mode`.
"""

from __future__ import annotations

import ast
import re

import onnx

from mxexport.errors import UnsupportedError
from mxexport.model import qonnx_domains
from mxexport.model.checks import all_nodes
from mxexport.model.rewriting import is_qonnx_quantizer
from mxexport.ops import DOMAIN

_STANDARD = r"|ai\.onnx(\.ml)?"
_QONNX = r"onnx\.brevitas|qonnx\.custom_op\.\w+"
_KNOWN_DOMAINS = re.compile(f"({_STANDARD}|{_QONNX}|{re.escape(DOMAIN)})")
_EVALUATED = {"tensor_layout", "tensor_sparsity"}
_ORDERS = {"exec_mode", "backend"}  # metadata and attributes by which FINN's family picks another executor


def guarded_copy(proto: onnx.ModelProto, *, keep_bodies: bool = False) -> onnx.ModelProto:
    """A copy that qonnx may have: checked, and without anything that makes it do more than run the graph.

    Function bodies are left out unless `keep_bodies`: qonnx executes operators by their domain.

    Raises:
        UnsupportedError: see `check_domains`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    qonnx_domains.unify_proto(copy)
    check_domains(copy)
    if not keep_bodies:
        del copy.functions[:]
    _keep(copy.metadata_props, lambda entry: entry.key not in _ORDERS)
    for node in all_nodes(copy.graph):
        if node.domain not in ("", "ai.onnx"):
            _keep(node.attribute, lambda a: a.name not in _ORDERS)
    for annotation in copy.graph.quantization_annotation:
        _keep(annotation.quant_parameter_tensor_names, lambda e: e.key not in _EVALUATED or _is_literal(e.value))
    return copy


def check_domains(proto: onnx.ModelProto) -> None:
    """Raise UnsupportedError for nodes with which qonnx would leave the file: a domain that it would have to import,
    another file to open, or a body in the file where qonnx has an operator of its own."""
    bodies = {(f.domain, f.name) for f in proto.functions}
    found = ((node.name or node.op_type, _objection(node, bodies)) for node in all_nodes(proto.graph))
    problems = [(f"node {name!r}", why) for name, why in found if why]
    if problems:
        raise UnsupportedError("qonnx must not execute this file", problems)


def _objection(node: onnx.NodeProto, bodies: set[tuple[str, str]]) -> str | None:
    if not _KNOWN_DOMAINS.fullmatch(node.domain):
        return f"domain {node.domain!r} is neither ONNX's, QONNX's nor ours; qonnx would import it as a Python module"
    if not re.fullmatch(_QONNX, node.domain):
        return None
    if node.op_type == "GenericPartition":
        return "a GenericPartition names another file, which qonnx would execute; merge it into this one"
    if (node.domain, node.op_type) in bodies and not is_qonnx_quantizer(node):
        return f"the file brings its own body for {node.domain}.{node.op_type}, and qonnx would run another; inline it"
    return None


def _keep(entries, wanted) -> None:
    for i in reversed(range(len(entries))):
        if not wanted(entries[i]):
            del entries[i]


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True
