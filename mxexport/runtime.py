"""Executes ONNX files in onnxruntime, qonnx and the onnx reference evaluator; all three give numpy arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from mxexport import graph
from mxexport.errors import InputFileError, ShapeError

ModelLike = str | os.PathLike | onnx.ModelProto | ir.Model


def load_proto(model: ModelLike) -> onnx.ModelProto:
    """A model proto from a path, a proto or an onnx-ir model. Raises InputFileError for a bad file."""
    if isinstance(model, onnx.ModelProto):
        return model
    if isinstance(model, ir.Model):
        return graph.to_proto(model)
    if not Path(model).is_file():
        raise InputFileError(f"no such file: {model}")
    return graph.to_proto(graph.load(model))


def feeds(proto: onnx.ModelProto, inputs) -> dict[str, np.ndarray]:
    """Inputs by name from a dict, a tuple in graph order or a single array, checked against the graph.

    Raises:
        ShapeError: wrong number of inputs, unknown names, or a shape the graph does not take.
    """
    expected = {i.name: i for i in proto.graph.input}
    if not isinstance(inputs, dict):
        inputs = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        if len(inputs) != len(expected):
            raise ShapeError(f"{len(inputs)} inputs given, the graph takes {len(expected)}: {', '.join(expected)}")
        inputs = dict(zip(expected, inputs, strict=True))
    if set(inputs) != set(expected):
        raise ShapeError(f"inputs {sorted(inputs)} given, the graph takes {sorted(expected)}")
    fed = {}
    for name, array in inputs.items():
        tensor = expected[name].type.tensor_type
        fed[name] = np.asarray(array, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), order="C")
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        fits = len(dims) == fed[name].ndim and all(
            d is None or d == n for d, n in zip(dims, fed[name].shape, strict=True)
        )
        if not fits:
            shown = tuple("?" if d is None else d for d in dims)
            raise ShapeError(f"input {name!r} has shape {fed[name].shape}, the graph takes {shown}")
    return fed


def with_outputs(proto: onnx.ModelProto, names: list[str] | None) -> onnx.ModelProto:
    """A copy whose graph outputs are the tensors called `names` (None: as they are)."""
    if names is None:
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {v.name: v for v in (*proto.graph.value_info, *proto.graph.output, *proto.graph.input)}
    del copy.graph.output[:]
    for name in names:
        copy.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
    return copy


def run(
    model: ModelLike, inputs, outputs: list[str] | None = None, *, flush_denormals: bool = False
) -> dict[str, np.ndarray]:
    """Execute in onnxruntime on the CPU; output name -> array.

    `outputs` asks for tensors by name, intermediate ones included. `flush_denormals` sets flush-to-zero, which
    onnxruntime then keeps for the whole process.
    """
    proto = with_outputs(load_proto(model), outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in proto.graph.output]
    return dict(zip(names, session.run(names, feeds(proto, inputs)), strict=True))


def run_reference(model: ModelLike, inputs, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
    """Execute in onnx's ReferenceEvaluator, function bodies included."""
    from onnx.reference import ReferenceEvaluator

    proto = with_outputs(load_proto(model), outputs)
    names = [output.name for output in proto.graph.output]
    return dict(zip(names, ReferenceEvaluator(proto).run(names, feeds(proto, inputs)), strict=True))


def run_qonnx(model: ModelLike, inputs, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
    """Execute node by node in qonnx, our operators through their CustomOp classes. Open dimensions are fixed first."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    proto = load_proto(model)
    fed = feeds(proto, inputs)
    wrapper = ModelWrapper(with_static_shapes(proto, {name: array.shape for name, array in fed.items()}))
    context = execute_onnx(wrapper, fed, return_full_exec_context=outputs is not None)
    return {name: context[name] for name in outputs or [o.name for o in proto.graph.output]}


def with_static_shapes(proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A copy with the graph inputs at the given shapes and every tensor's shape inferred anew.

    Function bodies are left out: shapes then come from our operators' own inference, for every output.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.value_info[:]
    del copy.functions[:]
    for value in copy.graph.input:
        del value.type.tensor_type.shape.dim[:]
        for size in shapes[value.name]:
            value.type.tensor_type.shape.dim.add(dim_value=size)
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True)
