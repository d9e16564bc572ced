"""Executes ONNX files in onnxruntime, qonnx and the onnx reference evaluator; all three give numpy arrays."""

from __future__ import annotations

import contextlib
import ctypes
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from mxexport.errors import OptionError, ShapeError, UnsupportedError, foreign_errors
from mxexport.model import bodies, graph
from mxexport.model.calls import as_path, output_names
from mxexport.model.checks import all_nodes
from mxexport.model.reader import read_proto
from mxexport.numbers.arrays import on_host
from mxexport.ops import DOMAIN, check_nodes
from mxexport.running import native_operators, sessions, weights
from mxexport.running.static_shapes import with_static_shapes

ModelLike = str | os.PathLike[str] | onnx.ModelProto | ir.Model

_LARGE = 1 << 20  # bytes from which an initializer is handed to onnxruntime as it lies in memory
_NOT_IN_NUMPY = {"tensor(bfloat16)": ir.DataType.BFLOAT16} | {
    f"tensor(float8{kind})": ir.DataType[f"FLOAT8{kind.upper()}"] for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz")
}


@dataclass(frozen=True)
class _Prepared:
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


def feeds(proto: onnx.ModelProto, inputs: Any) -> dict[str, np.ndarray]:
    """Inputs by name from a dict, a tuple in graph order or a single array, checked against the graph.

    Graph inputs that have an initializer may be left out of a dict.

    Raises:
        ShapeError: wrong number of inputs, unknown names, or a shape the graph does not take.
    """
    declared = {i.name: i for i in proto.graph.input}
    optional = {i.name for i in proto.graph.initializer}
    expected = [name for name in declared if name not in optional]
    if not isinstance(inputs, Mapping):
        inputs = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        if len(inputs) != len(expected):
            raise ShapeError(f"{len(inputs)} inputs given, the graph takes {len(expected)}: {', '.join(expected)}")
        inputs = dict(zip(expected, inputs, strict=True))
    if not set(expected) <= set(inputs) <= set(declared):
        given = ", ".join(map(repr, inputs)) or "no inputs"
        raise ShapeError(f"inputs: {given} given, the graph takes {', '.join(map(repr, sorted(expected))) or 'none'}")
    return {name: _feed(name, array, declared[name]) for name, array in inputs.items()}


def _feed(name: str, array, declared: onnx.ValueInfoProto) -> np.ndarray:
    tensor = declared.type.tensor_type
    if not tensor.elem_type:
        raise ShapeError(f"input {name!r} is no tensor: the graph declares it as {_kind(declared)}")
    fed = _converted(name, array, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    fits = len(dims) == fed.ndim and all(d is None or d == n for d, n in zip(dims, fed.shape, strict=True))
    if not fits and tensor.HasField("shape"):
        shown = tuple("?" if d is None else d for d in dims)
        raise ShapeError(f"input {name!r} has shape {fed.shape}, the graph takes {shown}")
    return fed


def _converted(name: str, given, dtype: np.dtype) -> np.ndarray:
    """What is given as an array of `dtype`; floats round, integers must be what they are. Raises ShapeError."""
    found = type(given).__name__
    try:
        array = np.asarray(on_host(given))
        found = array.dtype
        if found == dtype:
            return np.asarray(array, order="C")
        if found.kind == "c" or (found.kind in "OSU") != (dtype.kind in "OSU"):
            raise ValueError
        with np.errstate(invalid="ignore", over="ignore"):
            fed = array.astype(dtype, order="C")
        if dtype.kind in "iub" and not np.array_equal(fed, array):
            raise ValueError
    except (TypeError, ValueError, RuntimeError):  # the last: tensors of torch that numpy cannot hold
        raise ShapeError(f"input {name!r}: {found} that is not all {dtype}, which the graph takes") from None
    return fed


def _kind(declared: onnx.ValueInfoProto) -> str:
    return (declared.type.WhichOneof("value") or "nothing").removesuffix("_type")


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
    _check_names(g, names)
    known = {v.name: v for v in (*g.value_info, *g.output, *g.input)}
    made = [onnx.ValueInfoProto.FromString(known[n].SerializeToString()) if n in known else None for n in names]
    del g.output[:]
    g.output.extend(m or onnx.ValueInfoProto(name=n) for m, n in zip(made, names, strict=True))
    weights.prune(g)


def _check_names(g: onnx.GraphProto, names: list[str]) -> None:
    there = {o for n in g.node for o in n.output} | {v.name for v in (*g.input, *g.initializer, *g.output)}
    unknown = [name for name in names if name not in there]
    if unknown:
        raise OptionError(f"outputs: the graph has no tensor {', '.join(map(repr, unknown))}")


# --- onnxruntime ----------------------------------------------------------------------------------------------


def run(
    model: ModelLike,
    inputs: Any,
    outputs: list[str] | None = None,
    *,
    executor: str = "onnxruntime",
    flush_denormals: bool = False,
) -> dict[str, np.ndarray]:
    """Execute in onnxruntime on the CPU, our operators by their own function bodies; output name -> array.

    `outputs` asks for tensors by name, intermediate ones included. `executor` names another: qonnx or reference.
    `flush_denormals` sets flush-to-zero, which onnxruntime then keeps for the whole process. A path is opened by
    onnxruntime itself, so files of any size do.

    Raises:
        InputFileError, ShapeError, OptionError: bad file, inputs or names of outputs.
        UnsupportedError, ShapeError: an operator of ours with attributes or scales that make no sense.
        UnsupportedError: onnxruntime refuses the model or fails.
    """
    if (execute := find_executor(executor)) is not run:
        if flush_denormals:
            raise OptionError(f"flush_denormals is for onnxruntime; executor {executor!r} has no such setting")
        return execute(model, inputs, outputs)
    return Session(model, outputs, flush_denormals=flush_denormals, weights="each").run(inputs)


class Session:
    """A model opened in onnxruntime once, for many calls.

    Our operators run as compiled kernels where there is a C compiler (`kernels` says so), else by their function
    bodies; the bits are the same.

    Args:
        model: a path, a proto or an onnx-ir model.
        outputs: names of the tensors to compute, intermediate ones included; None: the model's own.
        threads: of one node's computation; None: as many as onnxruntime takes (one a core).
        weights: "once": quantized weights are computed when the model is opened and kept, float32, which takes the
            memory of the float model and makes every call faster; "each": anew in every call, as `run` does. Quantizers
            give the same bits; onnxruntime may sum products with constant weights in another order.

    Raises:
        InputFileError, OptionError: a bad file, names of outputs, number of threads, or weights.
        UnsupportedError: an operator with attributes that make no sense, or onnxruntime refuses the model.
    """

    def __init__(
        self,
        model: ModelLike,
        outputs: list[str] | None = None,
        *,
        threads: int | None = None,
        flush_denormals: bool = False,
        weights: str = "once",
    ):
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise OptionError(f"threads is {threads!r}; expected a whole number from 1 on")
        if weights not in ("once", "each"):
            raise OptionError(f"weights is {weights!r}; expected once or each")
        prepared = _prepare(model, output_names(outputs), with_data=weights == "once")
        check_nodes(prepared.proto)
        self.kernels: str = _kernels(prepared.proto)
        with _onnxruntimes_errors():
            if weights == "once":
                prepared = _with_weights(prepared, flush_denormals, threads)
            self._proto = prepared.proto
            self._session = _open(prepared, flush_denormals, threads)

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        """Output name -> array. Raises ShapeError for inputs that do not fit, UnsupportedError where it fails."""
        fed = feeds(self._proto, inputs)
        with _onnxruntimes_errors():
            return _execute(self._session, fed)


@contextlib.contextmanager
def _onnxruntimes_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime has an exception type for each of its status codes
        own = type(error).__module__.startswith("onnxruntime")
        if not own and not isinstance(error, (RuntimeError, UnicodeDecodeError)):
            raise
        raise UnsupportedError(f"onnxruntime: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def _prepare(model: ModelLike, outputs: list[str] | None, with_data: bool) -> _Prepared:
    """`with_data`: the proto holds its initializers, or says where they lie, though onnxruntime could open the path."""
    if isinstance(model, ir.Model):
        return _prepare_ir(model, outputs)
    path = None if isinstance(model, onnx.ModelProto) else as_path(model)
    proto = read_proto(path) if path else model
    ours = bodies.are_ours(proto)
    if ours and path and outputs is None and not with_data:
        return _Prepared(_without_data(proto), path=path)
    if not ours or proto.ByteSize() >= 1 << 30:  # too large to be copied or handed over as one message
        del proto
        return _prepare_ir(graph.load(path) if path else ir.from_proto(model), outputs)
    if path:
        if outputs is not None:
            _set_outputs(proto, outputs)
        return _Prepared(proto, data_directory=path.absolute().parent)
    return _Prepared(with_outputs(proto, outputs))


def _prepare_ir(model: ir.Model, outputs: list[str] | None) -> _Prepared:
    proto, arrays = _skeleton(model)
    if not bodies.are_ours(proto):
        proto, arrays = _skeleton(bodies.with_ours(model))
    if outputs is not None:
        _set_outputs(proto, outputs)
    kept = {t.name for t in proto.graph.initializer}
    return _Prepared(proto, {name: _ort_value(t.numpy(), t.dtype) for name, t in arrays.items() if name in kept})


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


def _open(prepared: _Prepared, flush_denormals: bool, threads: int | None = None) -> onnxruntime.InferenceSession:
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


def kernels(model: ModelLike) -> str:
    """What computes our operators of a model in onnxruntime, in words. Raises what `run` raises for a bad file."""
    return _kernels(_prepare(model, None, with_data=False).proto)


def _kernels(proto: onnx.ModelProto) -> str:
    """The same of a model with the bodies that its nodes need."""
    ours = sorted({f.name for f in proto.functions if f.domain in graph.BODY_DOMAINS})
    bodies_of = sorted({f.name for f in proto.functions if f.domain in graph.BODY_DOMAINS and not _has_kernel(f)})
    if not ours:
        return "onnxruntime's own"
    status = native_operators.status()
    if not status.active:
        return f"function bodies ({status.reason})"
    return f"compiled kernels{'; function bodies of ' + ', '.join(bodies_of) if bodies_of else ''}"


def _with_weights(prepared: _Prepared, flush_denormals: bool, threads: int | None) -> _Prepared:
    """The model with its quantized weights as initializers, computed by a session of their own."""
    names = weights.constant_results(prepared.proto.graph)
    if not names:
        return prepared
    alone = with_outputs(prepared.proto, names)
    del alone.graph.input[:]
    arrays = {t.name: prepared.arrays[t.name] for t in alone.graph.initializer if t.name in prepared.arrays}
    session = _open(replace(prepared, proto=alone, arrays=arrays), flush_denormals, threads)
    types = {o.name: _NOT_IN_NUMPY.get(o.type, ir.DataType.UNDEFINED) for o in session.get_outputs()}
    made = {name: _ort_value(array, types[name]) for name, array in _execute(session, {}).items()}
    rest = onnx.ModelProto()
    rest.CopyFrom(prepared.proto)
    weights.prune(rest.graph, made)
    rest.graph.initializer.extend(_referring(name, value) for name, value in made.items())
    used = {f"{n.domain}:{n.op_type}" for n in all_nodes(rest.graph)}
    kept = [f for f in rest.functions if f"{f.domain}:{f.name}" in used or f.domain not in graph.BODY_DOMAINS]
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


def _execute(session: onnxruntime.InferenceSession, fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
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


# --- the other executors --------------------------------------------------------------------------------------


def run_reference(model: ModelLike, inputs: Any, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
    """Execute in onnx's ReferenceEvaluator, our operators by their own function bodies.

    Raises:
        InputFileError, ShapeError, OptionError: bad file, inputs or names of outputs.
        UnsupportedError, ShapeError: an operator of ours with attributes or scales that make no sense.
        UnsupportedError: the evaluator refuses the model or fails.
    """
    from onnx.reference import ReferenceEvaluator

    proto, outputs = load_proto(model), output_names(outputs)
    if not bodies.are_ours(proto):
        proto = graph.to_proto(bodies.with_ours(ir.from_proto(proto)))
    proto = with_outputs(proto, outputs)
    check_nodes(proto)
    fed, names = feeds(proto, inputs), [output.name for output in proto.graph.output]
    with our_errors("onnx's reference evaluator"):
        return dict(zip(names, ReferenceEvaluator(proto).run(names, fed), strict=True))


def run_qonnx(model: ModelLike, inputs: Any, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
    """Execute node by node in qonnx, our operators through their CustomOp classes. Open dimensions are fixed first.

    Raises:
        InputFileError, ShapeError, OptionError: bad file, inputs or names of outputs.
        UnsupportedError, ShapeError: an operator of ours with attributes or scales that make no sense.
        UnsupportedError: the file would make qonnx run more than its graph (see `qonnx_guard`), or qonnx fails.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    proto, outputs = load_proto(model), output_names(outputs)
    check_nodes(proto)
    fed = feeds(proto, inputs)
    if outputs is not None:
        _check_names(proto.graph, outputs)
    with our_errors("qonnx"):
        wrapper = ModelWrapper(with_static_shapes(proto, {name: array.shape for name, array in fed.items()}))
        with warnings.catch_warnings():  # qonnx takes sizes that no inference knows for 0 and wonders at what it finds
            warnings.filterwarnings("ignore", r"(?s)Output shapes disagree .* vs expected \([^)]*\b0\b")
            context = execute_onnx(wrapper, fed, return_full_exec_context=outputs is not None)
    return {name: context[name] for name in outputs or [o.name for o in proto.graph.output]}


@contextlib.contextmanager
def our_errors(executor: str) -> Iterator[None]:
    """Executors written in Python raise whatever numpy and their own code do; ours name what went wrong."""

    def ours(error: Exception) -> UnsupportedError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return UnsupportedError(f"{executor} cannot execute the model: {reason}")

    with foreign_errors(ours):
        yield


EXECUTORS = {"onnxruntime": run, "qonnx": run_qonnx, "reference": run_reference}


def find_executor(name: str):
    """The function of an executor. Raises OptionError for an unknown name."""
    if not isinstance(name, str) or name not in EXECUTORS:
        raise OptionError(f"executor {name!r}: expected one of {', '.join(EXECUTORS)}")
    return EXECUTORS[name]
