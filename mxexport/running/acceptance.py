"""What a model must be before work on it starts, and what a file of ours must be before it is written."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx import defs

from mxexport.errors import UnsupportedError
from mxexport.model import bodies, graph
from mxexport.model.checks import check_versions
from mxexport.model.opsets import check_opset
from mxexport.model.qonnx_domains import is_former
from mxexport.ops import DOMAIN, OPERATORS, qonnx_general
from mxexport.running import preparing, sessions

STANDARD = ("", "ai.onnx", "ai.onnx.ml")
QONNX = (qonnx_general.DOMAIN, "qonnx.custom_op.channels_last")
EVERY = (*STANDARD, *QONNX, DOMAIN)
"""The domains of operators that a model may use: ONNX's, QONNX's, ours. Functions of its own may have any."""


def check_source(model: ir.Model, what: str) -> None:
    """Raise unless every operator of `model` is one of ONNX, QONNX or ours, at an opset that is there.

    Args:
        what: how the message opens: what was asked for, and the file.

    Raises:
        UnsupportedError: an opset, operators or domains nobody knows (all nodes listed), or no output.
    """
    try:
        check_versions(model.opset_imports)
        check_opset(model)
    except UnsupportedError as error:
        raise UnsupportedError(f"{what}: {error}") from None
    if not model.graph.outputs:
        raise UnsupportedError(f"{what}: the graph has no outputs, so it computes nothing; declare what it should give")
    if problems := list(_unknown_operators(model, EVERY)):
        raise UnsupportedError(f"{what}: operators that are neither ONNX's, QONNX's nor mxexport's", problems)


def check_result(model: ir.Model, what: str, domains: tuple[str, ...] = EVERY, *, loads: bool = True) -> None:
    """Raise unless `model`, as it will be written, holds operators of `domains` only, passes ONNX's checker and, with
    `loads`, is loaded by onnxruntime. Tensors of 1 MB and more are not looked at: they count as inputs.

    QONNX's operators come without bodies in many files; they get ours here, as in `mxexport.run`. A file with one that
    has none (Trunc, MultiThreshold, ...) is for qonnx and not tried in onnxruntime.

    Raises:
        UnsupportedError: all nodes of other domains, or what the checker or onnxruntime says.
    """
    graph.attach_functions(model)
    if problems := list(_unknown_operators(model, domains)):
        raise UnsupportedError(f"{what}: the file would hold operators it must not have", problems)
    proto = _without_weights(preparing.outline(model))
    try:
        onnx.checker.check_model(proto)
    except Exception as error:  # the checker's own type, and protobuf's
        raise UnsupportedError(f"{what}: the file would not pass ONNX's checker: {_first_line(error)}") from error
    if loads and all(_has_kernel(node) for node in model.graph.all_nodes()):
        _load(proto if bodies.are_ours(proto) else _without_weights(preparing.outline(bodies.with_ours(model))), what)


def _load(proto: onnx.ModelProto, what: str) -> None:
    try:
        sessions.open_plain(proto.SerializeToString())
    except Exception as error:  # onnxruntime has an exception type for each of its status codes
        raise UnsupportedError(f"{what}: onnxruntime would not load the file: {_first_line(error)}") from error


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Initializers that are only referred to become inputs, in place."""
    g, declared = proto.graph, {value.name for value in proto.graph.input}
    for i in reversed(range(len(g.initializer))):
        tensor = g.initializer[i]
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if tensor.name not in declared:
            g.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        del g.initializer[i]
    return proto


def _has_kernel(node: ir.Node) -> bool:
    qonnx = node.domain in QONNX or is_former(node.domain, node.op_type)
    return not qonnx or node.op_type in qonnx_general.OPERATORS


# --- operators ------------------------------------------------------------------------------------------------


def _unknown_operators(model: ir.Model, domains: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for node in graph.all_nodes(model):
        if node.op_identifier() not in model.functions and (why := _objection(node, model, domains)):
            yield node.name or f"{node.op_type} -> {node.outputs[0].name if node.outputs else '?'}", why


def _objection(node: ir.Node, model: ir.Model, domains: tuple[str, ...]) -> str | None:
    domain, op_type = node.domain, node.op_type
    former = is_former(domain, op_type)
    if (qonnx_general.DOMAIN if former else domain) not in domains:
        expected = ", ".join(repr(d) for d in domains if d != "ai.onnx")
        return f"{op_type} of domain {domain!r}; expected one of {expected}; {_remedy(domain)}"
    if former or domain in QONNX:
        known = _is_qonnx(qonnx_general.DOMAIN if former else domain, op_type)
        return None if known else f"QONNX has no operator {op_type}; write it in operators that it has"
    if domain == DOMAIN:
        return None if op_type in OPERATORS else f"{DOMAIN} has no operator {op_type}; expected {', '.join(OPERATORS)}"
    schema_domain = "" if domain == "ai.onnx" else domain
    opset = model.opset_imports.get(schema_domain)
    if opset is None:
        return f"the file does not say which version of {domain} it uses; add an opset import"
    if defs.has(op_type, opset, schema_domain):
        return None
    return f"ONNX has no operator {op_type} at opset {opset}" + (f" of {domain}" if schema_domain else "")


def _remedy(domain: str) -> str:
    if domain == "com.microsoft":
        return "save the model before onnxruntime's optimizer fuses operators (it may run on what is written here)"
    return "give the file a function body for it, or replace it by operators that are there"


def _is_qonnx(domain: str, op_type: str) -> bool:
    from qonnx.custom_op.registry import is_custom_op

    return is_custom_op(domain, op_type)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
