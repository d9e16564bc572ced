"""Reads and writes ONNX files tensor by tensor, so that a model needs little more memory than its largest tensor.

An ONNX file is one protobuf message: fields of (number, wire type, value), `ModelProto.graph` holding the initializers.
Reading leaves their bytes in the file, mapped on demand; writing computes all lengths first and then copies.
"""

from __future__ import annotations

import functools
import math
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from mxexport import graph, model_file, model_reader
from mxexport.errors import InputFileError

_HERE = "<this file>"
_PLAIN = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT8, ir.DataType.INT64, ir.DataType.UINT8}
_GRAPH, _INITIALIZER, _RAW_DATA, _LOCATION = 7, 5, 9, 14
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
_LEFT_IN_FILE = 4096
"""Bytes; smaller tensors are read at once."""


# --- reading --------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike) -> ir.Model:
    """As `graph.load`, with tensors over 4 KiB mapped from the file. Raises InputFileError."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        proto = _skeleton(data)
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model_reader.inner_tensors(proto)):
            raise ValueError("a tensor inside a node lies in a file of its own")
    except (OSError, ValueError, IndexError):
        return graph.load(path)  # with data beside it, not there, or no protobuf: it says so
    model_reader.check(proto, path, mapped=True)
    try:
        model = ir.from_proto(proto)
        _map_tensors(model, data)
    except InputFileError as error:
        raise InputFileError(f"{path}: {error}") from error
    except Exception as error:  # the parsers below raise their own types
        raise InputFileError(f"{path} is not a readable ONNX model: {str(error).splitlines()[0]}") from error
    return model


def _map_tensors(model: ir.Model, data: mmap.mmap) -> None:
    """One mapping serves all tensors: each with its own would count the pages around it again."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.location == _HERE:
            if tensor.length != tensor.nbytes:
                raise InputFileError(
                    f"tensor {tensor.name!r} holds {tensor.length} bytes; {tensor.dtype}{list(tensor.shape)} makes "
                    f"{tensor.nbytes}"
                )
            read = functools.partial(_read, data, tensor.dtype, tuple(tensor.shape), tensor.offset, tensor.length)
            value.const_value = ir.LazyTensor(read, dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def _read(data: mmap.mmap, dtype: ir.DataType, shape: tuple[int, ...], offset: int, length: int) -> ir.TensorProtocol:
    if dtype in _PLAIN:
        count = math.prod(shape)
        return ir.tensor(np.frombuffer(data, dtype.numpy(), count, offset).reshape(shape))
    return ir.from_proto(onnx.TensorProto(dims=shape, data_type=int(dtype), raw_data=data[offset : offset + length]))


def _skeleton(data: mmap.mmap) -> onnx.ModelProto:
    """The model with the raw data of large initializers referred to as external data in the very file."""
    model = bytearray()
    for number, start, begin, end in _fields(data, 0, len(data)):
        if number != _GRAPH:
            model += data[start:end]
            continue
        inner = bytearray()
        for field, field_start, field_begin, field_end in _fields(data, begin, end):
            if field == _INITIALIZER:
                tensor = _tensor_skeleton(data, field_begin, field_end)
                inner += _tag(_INITIALIZER) + _varint(len(tensor)) + tensor
            else:
                inner += data[field_start:field_end]
        model += _tag(_GRAPH) + _varint(len(inner)) + inner
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(bytes(model))
    except Exception as error:  # protobuf's DecodeError
        raise ValueError("no protobuf") from error
    return proto


def _tensor_skeleton(data, begin: int, end: int) -> bytes:
    kept, raw, elsewhere = bytearray(), None, False
    for number, start, value, stop in _fields(data, begin, end):
        if number == _RAW_DATA and stop - value > _LEFT_IN_FILE:
            raw = (value, stop - value)
        else:
            kept += data[start:stop]
            elsewhere |= number == _LOCATION
    if elsewhere:
        raise ValueError("a tensor lies in a file of its own")
    if raw is None:
        return bytes(data[begin:end])
    reference = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", _HERE), ("offset", raw[0]), ("length", raw[1])):
        reference.external_data.add(key=key, value=str(value))
    return bytes(kept) + reference.SerializeToString()


def _fields(data, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, start of the field, start of its value, end). Raises ValueError where there is no field."""
    while position < end:
        start = position
        key, position = _read_varint(data, position)
        wire_type = key & 7
        if wire_type == _LENGTH_DELIMITED:
            length, position = _read_varint(data, position)
        elif wire_type in _FIXED:
            length = _FIXED[wire_type]
        elif wire_type == 0:
            length = _read_varint(data, position)[1] - position
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + length > end or key >> 3 == 0:
            raise ValueError("a field ends outside its message")
        yield key >> 3, start, position, position + length
        position += length


def _read_varint(data, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("no end of a number")


# --- writing --------------------------------------------------------------------------------------------------


def save(model: ir.Model, path: str | os.PathLike) -> Path:
    """As `graph.save`: function bodies attached, whole or absent. `model` stays as it is.

    Tensors of more than `EXTERNAL_ABOVE` bytes in all lie in `<name>.data` beside the file.
    """
    path, copy = model_file.writable(path), model.clone()
    size = sum(v.const_value.nbytes for v in copy.graph.initializers.values() if v.const_value is not None)
    if size > model_file.EXTERNAL_ABOVE or model_file.data_path(path).exists():
        return graph.save(copy, path)
    graph.attach_functions(copy)
    tensors = {name: v.const_value for name, v in copy.graph.initializers.items() if v.const_value is not None}
    for name in tensors:
        del copy.graph.initializers[name]
    _read_inner_tensors(copy)
    proto = graph.to_proto(copy)
    inner = proto.graph.SerializeToString()
    proto.ClearField("graph")
    parts = [_tensor_parts(name, tensor) for name, tensor in tensors.items()]
    length = len(inner) + sum(len(head) + body for head, body, _ in parts)
    try:
        _write(path, proto.SerializeToString() + _tag(_GRAPH) + _varint(length) + inner, parts)
    except OSError as error:
        raise InputFileError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _write(path: Path, start: bytes, parts: list[tuple[bytes, int, ir.TensorProtocol]]) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(start)
            for head, body, tensor in parts:
                file.write(head)
                if body:
                    _write_raw(file, tensor, body)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read_inner_tensors(model: ir.Model) -> None:
    """Tensors of graphs inside nodes go into the file, too, wherever they were."""
    for inner in model.graph.subgraphs():
        for value in inner.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype)


def _tensor_parts(name: str, tensor: ir.TensorProtocol) -> tuple[bytes, int, ir.TensorProtocol]:
    """Everything before the raw bytes, and how many of those follow."""
    if tensor.dtype == ir.DataType.STRING:
        whole = ir.serde.serialize_tensor(tensor)
        whole.name = name
        encoded = whole.SerializeToString()
        return _tag(_INITIALIZER) + _varint(len(encoded)) + encoded, 0, tensor
    size = int(tensor.nbytes)
    proto = onnx.TensorProto(name=name, dims=list(tensor.shape), data_type=int(tensor.dtype))
    proto.doc_string = tensor.doc_string or ""
    described = proto.SerializeToString() + _tag(_RAW_DATA) + _varint(size)
    return _tag(_INITIALIZER) + _varint(len(described) + size) + described, size, tensor


def _write_raw(file, tensor: ir.TensorProtocol, size: int) -> None:
    raw = tensor.tobytes()
    if len(raw) != size:
        raise InputFileError(f"tensor {tensor.name!r} holds {len(raw)} bytes; its type and shape make {size}")
    file.write(raw)


def _tag(number: int) -> bytes:
    return bytes([number << 3 | _LENGTH_DELIMITED])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
