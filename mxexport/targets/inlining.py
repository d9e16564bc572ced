"""Our operators as standard nodes: function bodies are put in place of the calls."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from mxexport.errors import UnsupportedError
from mxexport.model import graph
from mxexport.ops import DOMAIN, OPERATORS, qonnx_general


def inline_functions(model: ir.Model) -> None:
    """Functions of the file itself, whatever domain: inlined. Ours must have been dropped."""
    if model.functions:
        common.InlinePass()(model)


def calls(model: ir.Model) -> list[tuple[str, str]]:
    """(node name, op type) of every node of ours and of QONNX."""
    return [(node.name or "?", node.op_type) for node in _calls(model)]


def _calls(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph.all_nodes() if node.domain.startswith("qonnx.") or node.domain == DOMAIN]


def refuse_unknown(model: ir.Model) -> None:
    """Raise UnsupportedError for operators without a body, every node listed."""
    unknown = [
        (node.name or "?", f"operator {node.op_type} of domain {node.domain} has no form in standard ONNX")
        for node in _calls(model)
        if node.op_type not in (OPERATORS if node.domain == DOMAIN else qonnx_general.OPERATORS)
    ]
    if unknown:
        raise UnsupportedError("convert: operators that cannot become standard ONNX", unknown)


def inline_operators(model: ir.Model) -> list[tuple[str, str]]:
    """Every node of ours and of QONNX becomes standard nodes named `<node>/<op>`; (node name, op type) of each."""
    opset, nodes = model.opset_imports[""], _calls(model)
    done = []
    for i, node in enumerate(nodes):
        function = _body_of(node, opset)
        last = function.outputs[0].producer()
        for inner in function.all_nodes():
            inner.name = f"{node.name}/{inner.op_type}"
            for j, value in enumerate(inner.outputs):
                value.name = f"{inner.name}.{j}" if j else inner.name
        if graph.FORMAT_KEY in node.metadata_props:
            last.metadata_props[graph.FORMAT_KEY] = node.metadata_props[graph.FORMAT_KEY]
        node.metadata_props.clear()
        done.append((node.name, node.op_type))
        node.overload = f"call{i}"  # one body per call: names, and inputs that only some calls give
        model.functions[node.op_identifier()] = ir.Function(
            node.domain,
            node.op_type,
            node.overload,
            graph=function.graph,
            attributes=list(function.attributes.values()),
        )
    inline_functions(model)
    for domain in {node.domain for node in nodes} | set(graph.BODY_DOMAINS):
        model.opset_imports.pop(domain, None)
    return done


def _body_of(node: ir.Node, opset: int) -> ir.Function:
    if node.domain == DOMAIN:
        names = [name for name, given in zip(OPERATORS[node.op_type].inputs, node.inputs, strict=False) if given]
        proto = OPERATORS[node.op_type].function(opset, set(names))
        while node.inputs and node.inputs[-1] is None:
            node.resize_inputs(len(node.inputs) - 1)
    else:
        (proto,) = qonnx_general.functions_for([ir.serde.serialize_node(node)], opset)
    return ir.serde.deserialize_function(proto)
