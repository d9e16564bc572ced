"""ONNX files tensor by tensor, so that a model needs little more memory than its largest tensor.

onnx holds a file twice while it reads or writes it: as bytes and as a proto. An ONNX file is one protobuf message,
fields of (number, wire type, value), and `ModelProto.graph` holds the initializers: reading leaves their bytes in the
file, mapped; writing computes all lengths first and then copies.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import InputFileError

WITHIN = ""
"""The location of tensors that lie in the model's own file; no file may say that of a tensor itself."""
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_ELSEWHERE = {13, 14}  # external_data, data_location
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
_STREAMED_ABOVE = 4096
"""Bytes; smaller tensors are part of the proto."""


def is_text(path: Path) -> bool:
    """Whether onnx writes and reads text (such as JSON) under this name."""
    return onnx.serialization.registry.get_format_from_file_extension(path.suffix) not in (None, "protobuf")


# --- reading --------------------------------------------------------------------------------------------------


def map_proto(path: Path) -> tuple[onnx.ModelProto, np.ndarray]:
    """The model at `path`, its large initializers external tensors with the location `WITHIN`; the bytes of the file.

    Raises:
        OSError, ValueError: no such file, no protobuf, text, or initializers in other files: onnx reads those.
    """
    if is_text(path) or not path.is_file():  # a pipe would wait for a writer
        raise ValueError("text, or no plain file")
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(_without_large_tensors(data))
    except Exception as error:  # protobuf's DecodeError, and IndexError at the end of a file that was cut off
        raise ValueError("no protobuf") from error
    return proto, np.frombuffer(data, np.uint8)


def _without_large_tensors(data: mmap.mmap) -> bytes:
    model = bytearray()
    for number, start, begin, end in _fields(data, 0, len(data)):
        if number != _GRAPH:
            model += data[start:end]
            continue
        inner = bytearray()
        for field, field_start, field_begin, field_end in _fields(data, begin, end):
            if field == _INITIALIZER:
                tensor = _reference(data, field_begin, field_end)
                inner += _head(_INITIALIZER, len(tensor)) + tensor
            else:
                inner += data[field_start:field_end]
        model += _head(_GRAPH, len(inner)) + inner
    return bytes(model)


def _reference(data: mmap.mmap, begin: int, end: int) -> bytes:
    """A tensor with where its raw data are in place of them; small ones as they are."""
    kept, raw = bytearray(), None
    for number, start, value, stop in _fields(data, begin, end):
        if number in _ELSEWHERE or (number == _RAW_DATA and raw is not None):
            raise ValueError("a tensor lies in a file of its own, or twice in this one")
        if number == _RAW_DATA:
            raw = (value, stop - value)
        else:
            kept += data[start:stop]
    if raw is None or raw[1] <= _STREAMED_ABOVE:
        return bytes(data[begin:end])
    reference = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", WITHIN), ("offset", raw[0]), ("length", raw[1])):
        reference.external_data.add(key=key, value=str(value))
    return bytes(kept) + reference.SerializeToString()


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
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


def _read_varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("no end of a number")


# --- writing --------------------------------------------------------------------------------------------------


def write_whole(model: ir.Model, path: Path) -> None:
    """Write `model` with all tensors of its initializers into one new file. Raises OSError."""
    with _large_tensors_out(model) as tensors:
        proto = ir.to_proto(model)
    parts = [_parts(initializer, tensors.get(initializer.name)) for initializer in proto.graph.initializer]
    proto.graph.ClearField("initializer")
    rest = proto.graph.SerializeToString()
    proto.ClearField("graph")
    length = len(rest) + sum(len(head) + size for head, size, _ in parts)
    with path.open("wb") as file:
        file.write(proto.SerializeToString() + _head(_GRAPH, length) + rest)
        for head, size, tensor in parts:
            file.write(head)
            if tensor is not None:
                file.write(_raw(tensor, size))


@contextlib.contextmanager
def _large_tensors_out(model: ir.Model) -> Iterator[dict[str, ir.TensorProtocol]]:
    """Large tensors of the model's initializers by name; inside, references stand in their place."""
    taken = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes > _STREAMED_ABOVE:
            taken[name] = tensor
    try:
        for name, tensor in taken.items():
            described = {"name": name, "doc_string": tensor.doc_string, "metadata_props": dict(tensor.metadata_props)}
            reference = ir.ExternalTensor(WITHIN, None, None, tensor.dtype, shape=ir.Shape(tensor.shape), **described)
            model.graph.initializers[name].const_value = reference
        yield taken
    finally:
        for name, tensor in taken.items():
            model.graph.initializers[name].const_value = tensor


def _parts(proto: onnx.TensorProto, tensor: ir.TensorProtocol | None) -> tuple[bytes, int, ir.TensorProtocol | None]:
    """Of a field of GraphProto: all that precedes the raw bytes, how many of those follow, and their tensor."""
    size, head = 0, b""
    if tensor is not None:
        proto.ClearField("external_data")
        proto.ClearField("data_location")
        size = int(tensor.nbytes)
        head = _head(_RAW_DATA, size)
    described = proto.SerializeToString() + head
    return _head(_INITIALIZER, len(described) + size) + described, size, tensor


def _raw(tensor: ir.TensorProtocol, size: int) -> bytes:
    raw = tensor.tobytes()
    if len(raw) != size:
        raise InputFileError(f"tensor {tensor.name!r} holds {len(raw)} bytes; its type and shape make {size}")
    return raw


def _head(number: int, length: int) -> bytes:
    """What precedes a value of `length` bytes."""
    out = bytearray([number << 3 | _LENGTH_DELIMITED])
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)
