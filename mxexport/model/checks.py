"""What is checked of an ONNX file before anything computes with it, apart from the data of its tensors: that names lead
somewhere, that tensors written out as numbers are complete, and that our operators are called as they are declared."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, defs

from mxexport.errors import FormatError, InputFileError, ShapeError, UnsupportedError
from mxexport.ops import DOMAIN, OPERATORS, VERSION, qonnx_general

_T = TensorProto
_FIELDS = (
    ("float_data", {_T.FLOAT: 1, _T.COMPLEX64: 2}),
    ("double_data", {_T.DOUBLE: 1, _T.COMPLEX128: 2}),
    ("int64_data", {_T.INT64: 1}),
    ("uint64_data", {_T.UINT32: 1, _T.UINT64: 1}),
    ("string_data", {_T.STRING: 1}),
)
_FIELD_OF = {dtype: (field, per) for field, types in _FIELDS for dtype, per in types.items()}
_MAKING = {"", "ai.onnx", DOMAIN, qonnx_general.DOMAIN}
"""Domains whose operators have outputs, all of them."""


def check_proto(proto: onnx.ModelProto, where: str) -> None:
    """Raise InputFileError, opening with `where` (the path), for the first thing that is wrong."""
    try:
        _check_age(proto)
        check_versions({i.domain: i.version for i in proto.opset_import})
    except UnsupportedError as error:
        raise UnsupportedError(f"{where}: {error}") from None
    try:
        _check_text(proto, where)
        _check_graph(proto.graph, set(), where)
        for function in proto.functions:
            _check_nodes(function.node, set(function.input), f"{where}: function {function.name!r}")
        _check_calls(proto.graph, proto, where)
        for function in proto.functions:
            if function.domain not in _WITH_OUR_BODIES:
                _check_calls(function, function, f"{where}: function {function.name!r}")
    except RecursionError as error:
        raise InputFileError(f"{where}: graphs inside graphs inside graphs, too many to follow") from error


def _check_age(proto: onnx.ModelProto) -> None:
    """Raise UnsupportedError for what a later ONNX wrote, or none: what it means is not known here."""
    highest = onnx.defs.onnx_opset_version()
    found = [("IR version", proto.ir_version, 1, onnx.IR_VERSION)]
    found += [("opset", i.version, 7, highest) for i in proto.opset_import if i.domain in ("", "ai.onnx")]
    for what, version, least, most in found:  # older opsets are left to those who know them
        if not 1 <= version <= most:
            raise UnsupportedError(f"{what} {version}: expected {least} to {most}, which onnx {onnx.__version__} knows")


def check_versions(opset_imports: Mapping[str, int]) -> None:
    """Raise UnsupportedError for operators of ours in a version that is not this one: they may mean something else."""
    version = opset_imports.get(DOMAIN, VERSION)
    if version != VERSION:
        raise UnsupportedError(
            f"its operators are those of {DOMAIN} version {version}, expected version {VERSION}; use the release of "
            "mxexport that wrote the file, or export it again"
        )


def check_names(proto: onnx.ModelProto, where: str) -> None:
    """Raise InputFileError, opening with `where`, where a node or an output of the graph reads what nothing makes."""
    _check_graph(proto.graph, set(), where)


def check_numbers(tensor: onnx.TensorProto, where: str) -> None:
    """Raise InputFileError unless a tensor without raw data holds as many numbers as its shape says."""
    if any(d < 0 for d in tensor.dims):
        raise InputFileError(f"{where} has a negative dimension: {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    field, per = _FIELD_OF.get(tensor.data_type, ("int32_data", 1))
    found = len(getattr(tensor, field))
    packed = field == "int32_data" and found != count and -(-count // 4) <= found <= -(-count // 2)  # 2 or 4 bits
    if found != count * per and not packed:
        raise InputFileError(f"{where} holds {found} numbers, its shape {list(tensor.dims)} needs {count * per}")


def all_nodes(g: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph or function, and of the graphs inside them."""
    for node in g.node:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that If, Loop and Scan hold."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


# --- text -----------------------------------------------------------------------------------------------------


def _check_text(message: Message, where: str) -> None:
    """Protobuf hands out bytes for text that is not UTF-8; what is below fails on it sooner or later."""
    for field, value in message.ListFields():
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE):
            continue
        for item in [value] if isinstance(value, (str, bytes, Message)) else value:
            if isinstance(item, bytes):
                raise InputFileError(f"{where} is not a readable ONNX model: {field.name} {item!r} is not UTF-8")
            if isinstance(item, Message):
                _check_text(item, where)


# --- names ----------------------------------------------------------------------------------------------------


def _check_graph(g: onnx.GraphProto, outside: set[str], where: str) -> None:
    if any(not t.name for t in g.initializer):
        raise InputFileError(f"{where}: a tensor among the initializers has no name")
    known = outside | {v.name for v in g.input} | {t.name for t in g.initializer}
    known |= {t.values.name for t in g.sparse_initializer}
    known = _check_nodes(g.node, known, where)
    for value in g.output:
        if value.name not in known:
            raise InputFileError(f"{where}: no node makes the output {value.name!r}")


def _check_nodes(nodes, known: set[str], where: str) -> set[str]:
    """`known` and the names nodes make. Their order is left to whoever runs them."""
    known = known | {name for node in nodes for name in node.output if name}
    for node in nodes:
        if not node.output and node.domain in _MAKING:
            raise InputFileError(f"{where}: node {node.name or node.op_type!r} ({node.op_type}) has no output")
        missing = [name for name in node.input if name and name not in known]
        if missing:
            raise InputFileError(
                f"{where}: node {node.name or node.op_type!r} reads {missing[0]!r}, which nothing makes"
            )
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
                raise InputFileError(
                    f"{where}: node {node.name or node.op_type!r}: attribute {attribute.name!r} has no type"
                )
        for inner in subgraphs(node):
            _check_graph(inner, known, where)
    return known


# --- calls of operators ---------------------------------------------------------------------------------------

_WITH_OUR_BODIES = (DOMAIN, qonnx_general.DOMAIN)
"""Functions of these domains are made anew before anything runs."""
_Kind = onnx.AttributeProto.AttributeType


def _check_calls(body: onnx.GraphProto | onnx.FunctionProto, owner: onnx.ModelProto | onnx.FunctionProto, where: str):
    """Nodes of `body` against what their operators declare; `owner` says which versions of them it uses."""
    versions = {_plain(i.domain): i.version for i in owner.opset_import}
    for node in all_nodes(body):
        named = f"{where}: node {node.name or node.output[:1]!r} ({node.op_type})"
        if node.domain == DOMAIN and node.op_type in OPERATORS:
            _check_operator(node, named)
        elif (schema := _schema(node.op_type, versions.get(_plain(node.domain)), _plain(node.domain))) is not None:
            _check_call(node, schema, named)
    if "" not in versions and any(_plain(node.domain) in ("", DOMAIN) for node in body.node):
        raise InputFileError(f"{where} does not say which opset its operators are of; expected an opset import of ''")


def _plain(domain: str) -> str:
    return {"ai.onnx": ""}.get(domain, qonnx_general.DOMAIN if domain in qonnx_general.FORMER_DOMAINS else domain)


@functools.lru_cache(maxsize=4096)
def _schema(op_type: str, version: int | None, domain: str) -> defs.OpSchema | None:
    """What an operator declares; None where that is not known here."""
    version = qonnx_general.VERSION if domain == qonnx_general.DOMAIN else version
    known = version is not None and version > 0 and defs.has(op_type, version, domain)
    return defs.get_schema(op_type, version, domain) if known else None


def _check_call(node: onnx.NodeProto, schema: defs.OpSchema, where: str) -> None:
    for what, given, least, most in (
        ("inputs", node.input, schema.min_input, schema.max_input),
        ("outputs", node.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(given) <= most:
            expected = (
                str(least) if least == most else f"{least} to {most}" if most < 2**31 - 1 else f"at least {least}"
            )
            raise InputFileError(f"{where} has {len(given)} {what}, expected {expected}")
    for name, port in zip(node.input, schema.inputs, strict=False):
        if not name and port.option == defs.OpSchema.FormalParameterOption.Single:
            raise InputFileError(f"{where} lacks its input {port.name}")
    held = {attribute.name: attribute for attribute in node.attribute}
    for name, declared in schema.attributes.items():
        if name not in held:
            if declared.required:
                raise InputFileError(f"{where} lacks its attribute {name}")
        elif not held[name].ref_attr_name and held[name].type != declared.type.value:
            found, wanted = _Kind.Name(held[name].type), declared.type.name
            raise InputFileError(f"{where}: attribute {name} is of type {found}, expected {wanted}")


def _check_operator(node: onnx.NodeProto, where: str) -> None:
    operator = OPERATORS[node.op_type]
    ports = list(operator.inputs.items())
    given = [i < len(node.input) and bool(node.input[i]) for i in range(len(ports))]
    absent = [name for (name, port), there in zip(ports, given, strict=True) if not (there or port.optional)]
    if absent or len(node.input) > len(ports):
        raise InputFileError(f"{where} has {len(node.input)} inputs, expected {', '.join(operator.inputs)}")
    try:
        operator.check([], {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute})
    except (FormatError, ShapeError, ValueError) as error:  # ValueError: an attribute of no type
        raise InputFileError(f"{where}: {error}") from error
