"""What onnxruntime gets to open: a model in any form with the bodies of its operators, large initializers where they
lie, outputs as asked for, weights computed or not."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from mxexport.errors import OptionError
from mxexport.model import bodies, graph
from mxexport.model.calls import as_path
from mxexport.model.checks import all_nodes
from mxexport.model.reader import read_proto
from mxexport.ops import DOMAIN
from mxexport.running import native_operators, sessions, weights

ModelLike = str | os.PathLike[str] | onnx.ModelProto | ir.Model

_LARGE = 1 << 20  # bytes from which an initializer is handed to onnxruntime as it lies in memory
_NOT_IN_NUMPY = {"tensor(bfloat16)": ir.DataType.BFLOAT16} | {
    f"tensor(float8{kind})": ir.DataType[f"FLOAT8{kind.upper()}"] for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz")
}


@dataclass(frozen=True)
class Prepared:
    """What onnxruntime gets: a proto, or the file it stands for, and where large initializers lie: in the data files
    of a directory, or in memory."""

    proto: onnx.ModelProto
    arrays: dict[str, onnxruntime.OrtValue] = field(default_factory=dict)
    path: Path | None = None
    data_directory: Path | None = None


def load_proto(model: ModelLike) -> onnx.ModelProto:
    """A whole model proto from a path, a proto or an onnx-ir model. Raises InputFileError for a bad file."""
    if isinstance(model, onnx.ModelProto):
        return model
    if isinstance(model, ir.Model):
        return graph.to_proto(model)
    return graph.to_proto(graph.load(model))


def with_outputs(proto: onnx.ModelProto, names: list[str] | None) -> onnx.ModelProto:
    """A copy whose graph outputs are the tensors called `names` (None: as they are)."""
    if names is None:
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _set_outputs(copy, names)
    return copy


def _set_outputs(proto: onnx.ModelProto, names: list[str]) -> None:
    g = proto.graph
    check_names(g, names)
    known = {v.name: v for v in (*g.value_info, *g.output, *g.input)}
    made = [onnx.ValueInfoProto.FromString(known[n].SerializeToString()) if n in known else None for n in names]
    del g.output[:]
    g.output.extend(m or onnx.ValueInfoProto(name=n) for m, n in zip(made, names, strict=True))
    weights.prune(g)


def check_names(g: onnx.GraphProto, names: list[str]) -> None:
    there = {o for n in g.node for o in n.output} | {v.name for v in (*g.input, *g.initializer, *g.output)}
    unknown = [name for name in names if name not in there]
    if unknown:
        raise OptionError(f"outputs: the graph has no tensor {', '.join(map(repr, unknown))}")


def prepare(model: ModelLike, outputs: list[str] | None, with_data: bool) -> Prepared:
    """`with_data`: the proto holds its initializers, or says where they lie, though onnxruntime could open the path."""
    if isinstance(model, ir.Model):
        return _prepare_ir(model, outputs)
    path = None if isinstance(model, onnx.ModelProto) else as_path(model)
    proto = read_proto(path) if path else model
    ours = bodies.are_ours(proto)
    if ours and path and outputs is None and not with_data:
        return Prepared(_without_data(proto), path=path)
    if not ours or proto.ByteSize() >= 1 << 30:  # too large to be copied or handed over as one message
        del proto
        return _prepare_ir(graph.load(path) if path else ir.from_proto(model), outputs)
    if path:
        if outputs is not None:
            _set_outputs(proto, outputs)
        return Prepared(proto, data_directory=path.absolute().parent)
    return Prepared(with_outputs(proto, outputs))


def _prepare_ir(model: ir.Model, outputs: list[str] | None) -> Prepared:
    proto, arrays = _skeleton(model)
    if not bodies.are_ours(proto):
        proto, arrays = _skeleton(bodies.with_ours(model))
    if outputs is not None:
        _set_outputs(proto, outputs)
    kept = {t.name for t in proto.graph.initializer}
    return Prepared(proto, {name: _ort_value(t.numpy(), t.dtype) for name, t in arrays.items() if name in kept})


def _without_data(proto: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in proto.graph.initializer:
        if tensor.HasField("raw_data"):
            tensor.ClearField("raw_data")
    return proto


def _skeleton(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The proto with references in place of large initializers, and these. Nothing large is copied."""
    large = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes >= _LARGE and _shareable(value.const_value.dtype)
    }
    try:
        for name, tensor in large.items():
            model.graph.initializers[name].const_value = ir.ExternalTensor(
                "given", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name
            )
        return ir.to_proto(model), large
    finally:
        for name, tensor in large.items():
            model.graph.initializers[name].const_value = tensor


def outline(model: ir.Model) -> onnx.ModelProto:
    """The proto of a model with references in place of its large initializers: names, shapes and types."""
    return _skeleton(model)[0]


def _shareable(dtype: ir.DataType) -> bool:
    return dtype in _NOT_IN_NUMPY.values() or (dtype != ir.DataType.STRING and dtype.numpy().kind in "fiub")


def open_session(prepared: Prepared, flush_denormals: bool, threads: int | None = None) -> onnxruntime.InferenceSession:
    return sessions.open_fast(
        str(prepared.path) if prepared.path else prepared.proto.SerializeToString(),
        has_bodies=any(not _has_kernel(f) for f in prepared.proto.functions),
        library=native_operators.status().library if any(map(_has_kernel, prepared.proto.functions)) else None,
        given=prepared.arrays,
        data_directory=prepared.data_directory,
        flush_denormals=flush_denormals,
        threads=threads,
    )


def _has_kernel(function: onnx.FunctionProto) -> bool:
    return function.domain == DOMAIN and function.name in native_operators.operators()


def kernels_of(proto: onnx.ModelProto) -> str:
    """What computes our operators of a model in onnxruntime, in words; the model has the bodies that its nodes need."""
    ours = sorted({f.name for f in proto.functions if f.domain in graph.BODY_DOMAINS})
    bodies_of = sorted({f.name for f in proto.functions if f.domain in graph.BODY_DOMAINS and not _has_kernel(f)})
    if not ours:
        return "onnxruntime's own"
    status = native_operators.status()
    if not status.active:
        return f"function bodies ({status.reason})"
    return f"compiled kernels{'; function bodies of ' + ', '.join(bodies_of) if bodies_of else ''}"


def with_weights(prepared: Prepared, flush_denormals: bool, threads: int | None) -> Prepared:
    """The model with its quantized weights as initializers, computed by a session of their own."""
    names = weights.constant_results(prepared.proto.graph)
    if not names:
        return prepared
    alone = with_outputs(prepared.proto, names)
    del alone.graph.input[:]
    arrays = {t.name: prepared.arrays[t.name] for t in alone.graph.initializer if t.name in prepared.arrays}
    session = open_session(replace(prepared, proto=alone, arrays=arrays), flush_denormals, threads)
    types = {o.name: _NOT_IN_NUMPY.get(o.type, ir.DataType.UNDEFINED) for o in session.get_outputs()}
    made = {name: _ort_value(array, types[name]) for name, array in execute(session, {}).items()}
    rest = onnx.ModelProto()
    rest.CopyFrom(prepared.proto)
    weights.prune(rest.graph, made)
    rest.graph.initializer.extend(_referring(name, value) for name, value in made.items())
    used = {(n.domain, n.op_type) for n in all_nodes(rest.graph)}
    kept = [f for f in rest.functions if (f.domain, f.name) in used or f.domain not in graph.BODY_DOMAINS]
    del rest.functions[:]
    rest.functions.extend(kept)
    there = {t.name for t in rest.graph.initializer}
    arrays = {name: value for name, value in (prepared.arrays | made).items() if name in there}
    return replace(prepared, proto=rest, arrays=arrays)


def _referring(name: str, value: onnxruntime.OrtValue) -> onnx.TensorProto:
    """An initializer whose data is handed over beside the model."""
    tensor = onnx.TensorProto(name=name, dims=value.shape(), data_type=value.element_type())
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="given")
    return tensor


def _ort_value(array: np.ndarray, dtype: ir.DataType) -> onnxruntime.OrtValue:
    array = np.require(array, requirements=["C", "ALIGNED"])
    if dtype in _NOT_IN_NUMPY.values():
        plain = array.view(np.uint16 if array.itemsize == 2 else np.uint8)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(plain, int(dtype))
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def execute(session: onnxruntime.InferenceSession, fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    types = {i.name: i.type for i in session.get_inputs()}
    if not _NOT_IN_NUMPY.keys() & {*types.values(), *(o.type for o in session.get_outputs())}:
        return dict(zip(names, session.run(names, fed), strict=True))
    values = {name: _ort_value(a, _NOT_IN_NUMPY.get(types[name], ir.DataType.UNDEFINED)) for name, a in fed.items()}
    return dict(zip(names, map(_to_numpy, session.run_with_ort_values(names, values)), strict=True))


def _to_numpy(value: onnxruntime.OrtValue) -> np.ndarray:
    dtype = _NOT_IN_NUMPY.get(value.data_type())
    if dtype is None:
        return value.numpy()
    array = np.empty(value.shape(), dtype.numpy())
    ctypes.memmove(array.ctypes.data, value.data_ptr(), array.nbytes)
    return array
