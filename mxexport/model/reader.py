"""Reads ONNX files that nobody vouches for: every tensor is checked, large ones are mapped, not copied."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import InputFileError
from mxexport.model import protobuf
from mxexport.model.calls import as_path
from mxexport.model.checks import check_numbers, check_proto, subgraphs
from mxexport.model.rewriting import name_standard_opset

_PACKED_BITS = (2, 4, 6)


def read_proto(path: str | os.PathLike) -> onnx.ModelProto:
    """The model at `path`, checked; tensors in data files stay references.

    Raises:
        InputFileError: missing, not an ONNX model, or a tensor whose data are not where and what the file says; data
            files must lie in the directory of the model, symbolic links followed.
    """
    path = as_path(path)
    if not path.is_file():
        there = path.exists()
        raise InputFileError(f"{path} is no file, but a directory or device" if there else f"no such file: {path}")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # the parsers below raise their own types
        raise InputFileError(f"{path} is not a readable ONNX model: {_first_line(error)}") from error
    _check_model(proto, path)
    return proto


def _check_model(proto: onnx.ModelProto, path: Path, *, within: bool = False) -> None:
    """Raise InputFileError for the first thing wrong with the model read from `path`. `within`: external initializers
    of the graph lie in the model's own file."""
    if not proto.ir_version or not proto.HasField("graph"):
        raise InputFileError(f"{path} is not a readable ONNX model: it holds no graph")
    known = set(onnx.TensorProto.DataType.values())
    for value in (*proto.graph.input, *proto.graph.output):
        if (found := value.type.tensor_type.elem_type) not in known:
            raise InputFileError(f"{path}: {value.name!r} has the element type {found}, which ONNX does not know")
    check_proto(proto, str(path))
    for tensor in proto.graph.initializer:
        _check(tensor, path, within)
    for tensor in _inner_tensors(proto):
        _check(tensor, path)


def read_model(path: str | os.PathLike) -> ir.Model:
    """The same as an onnx-ir model. Large tensors are read-only views of the mapped files: what is never looked at is
    never read, and a file that is later replaced by another of its name stays the one that was read."""
    path = as_path(path)
    proto, files = _read_mapped(path)
    try:
        model = ir.serde.deserialize_model(proto)
    except Exception as error:
        raise InputFileError(f"{path} is not a readable ONNX model: {_first_line(error)}") from error
    _sort(model, path)
    name_standard_opset(model)
    for g in model.graphs():
        ir.external_data.set_base_dir(g, path.parent.absolute())
        for value in g.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _mapped(value.const_value, files)
    return model


def _sort(model: ir.Model, path: Path) -> None:
    """Nodes behind what they read, as ONNX wants them; files of other tools do not always keep to it.

    Raises:
        InputFileError: a cycle.
    """
    made: set[ir.Value] = set()
    for node in model.graph:
        makers = ((v, v.producer()) for v in _read_by(node))
        if any(p is not None and p.graph is model.graph and v not in made for v, p in makers):
            break
        made |= set(node.outputs)
    else:
        return
    try:
        model.graph.sort()
    except ValueError:
        raise InputFileError(f"{path}: its graph has a cycle; expected nodes that follow from its inputs") from None


def _read_by(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, and what the graphs inside it read."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        inner = attribute.value if attribute.type == ir.AttributeType.GRAPHS else [attribute.value]
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            for each in inner:
                for inside in each:
                    yield from _read_by(inside)
                yield from (value for value in each.outputs if value is not None)


def _read_mapped(path: Path) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The checked model, large initializers as references, and the bytes of mapped files by location."""
    try:
        proto, data = protobuf.map_proto(path)
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in _inner_tensors(proto)):
            raise ValueError("a tensor inside a node lies in a file of its own")
    except (OSError, ValueError):
        return read_proto(path), {}  # with data beside it, not there, or no ONNX model: it says so
    _check_model(proto, path, within=True)
    return proto, {protobuf.WITHIN: data}


def _mapped(tensor: ir.ExternalTensor, files: dict[str, np.ndarray]) -> ir.TensorProtocol:
    """One map per file: a map per tensor would need a file descriptor each, and count the pages around it again."""
    shape, size = tensor.shape.numpy(), tensor.nbytes
    if tensor.location not in files and size:
        files[tensor.location] = np.memmap(tensor.path, np.uint8, "r").view(np.ndarray)
    start = tensor.offset or 0
    data = files[tensor.location][start : start + size] if size else np.empty(0, np.uint8)
    common = {"name": tensor.name, "doc_string": tensor.doc_string, "metadata_props": dict(tensor.metadata_props)}
    if tensor.dtype.bitwidth in _PACKED_BITS:
        return ir.PackedTensor(data, tensor.dtype, shape=shape, **common)
    array = data.view(np.dtype(tensor.dtype.numpy()).newbyteorder("<")).reshape(shape)
    return ir.Tensor(array, tensor.dtype, **common)


# --- checks ---------------------------------------------------------------------------------------------------


def _inner_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors but the initializers of the graph: those of its nodes, of graphs inside them and of functions."""
    for sparse in proto.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(proto.graph.node)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(g: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from g.initializer
    for sparse in g.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(g.node)


def _node_tensors(nodes) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            own = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in (*own, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
        for g in subgraphs(node):
            yield from _graph_tensors(g)


def _check(tensor: onnx.TensorProto, path: Path, within: bool = False) -> None:
    where = f"{path}: tensor {tensor.name!r}"
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if not external and not tensor.HasField("raw_data"):
        check_numbers(tensor, where)
        return
    if any(d < 0 for d in tensor.dims):
        raise InputFileError(f"{where} has a negative dimension: {list(tensor.dims)}")
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError):
        raise InputFileError(f"{where} has an element type that cannot be stored so: {tensor.data_type}") from None
    size = -(-math.prod(tensor.dims) * bits // 8)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if external and not within:
        _check_external(entries, size, path, where)
        return
    found = int(entries["length"]) if external else len(tensor.raw_data)
    if found != size:
        raise InputFileError(f"{where} holds {found} bytes, its shape and type need {size}")


def _check_external(entries: dict[str, str], size: int, path: Path, where: str) -> None:
    data = _inside(entries.get("location", ""), path.parent, where)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        raise InputFileError(f"{where}: offset or length is not a number: {entries}") from None
    if length != size:
        raise InputFileError(f"{where}: {length} bytes in {data}, its shape and type need {size}")
    available = data.stat().st_size
    if offset < 0 or offset + size > available:
        raise InputFileError(f"{where}: bytes {offset} to {offset + size} of {data}, which has {available}")


def _inside(location: str, directory: Path, where: str) -> Path:
    parts = PureWindowsPath(location)  # understands both kinds of separators
    if not location or "\0" in location or parts.is_absolute() or parts.drive or parts.root or ".." in parts.parts:
        raise InputFileError(f"{where}: data file {location!r}; expected a path inside the directory of the model")
    data, base = (directory / location).resolve(), directory.resolve()
    if not data.is_relative_to(base):
        raise InputFileError(f"{where}: data file {location!r} is a link out of {base}; copy the file there")
    if not data.is_file():
        raise InputFileError(f"{where}: no such data file: {data}")
    return data


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
