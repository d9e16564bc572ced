"""Runs models of any size for verification: plain kernels, no fusion, one thread, so that equal graphs give equal bits.

onnxruntime's own optimizer would fuse what stands side by side (MatMul and Add, Conv and BatchNormalization) and so
make an exact pass look inexact; weights packed ahead of time are summed in another order than others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from mxexport.errors import OptionError, ShapeError, UnsupportedError
from mxexport.model import bodies, graph
from mxexport.model.rewriting import is_qonnx
from mxexport.model.writer import tensor_bytes
from mxexport.ops import qonnx_general
from mxexport.running import executors, native_operators, preparing, sessions
from mxexport.running.drawing import random_inputs

Verify = None | bool | Mapping[str, np.ndarray] | tuple | np.ndarray
"""None or False: not at all; True: on inputs drawn with a seed; else inputs by name, in order, or one array."""
_IN_MEMORY = 256_000_000
NUMPY_TYPES = {
    ir.DataType[name]
    for name in [
        "FLOAT",
        "DOUBLE",
        "FLOAT16",
        "BOOL",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
    ]
}
"""Element types that numpy has, too: inputs and folded constants are of these."""


def drawn_inputs(model: ir.Model) -> dict[str, np.ndarray]:
    """Seeded inputs for a model (`drawing.random_inputs`).

    Raises:
        OptionError: an input whose shape or type is not known, or is no plain number.
    """
    try:
        return random_inputs(preparing.outline(model))
    except ShapeError as error:
        raise OptionError(f"verify: {error}; or name them: verify={{name: array}}") from None


def graph_inputs(model: ir.Model) -> list[ir.Value]:
    """The inputs a caller must give: those that are not initializers."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def named_inputs(model: ir.Model, inputs) -> dict[str, np.ndarray]:
    """Inputs by name from a mapping, a tuple in graph order or one array; types as the graph says."""
    wanted = {value.name: value for value in graph_inputs(model)}
    if not isinstance(inputs, Mapping):
        inputs = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        if len(inputs) != len(wanted):
            raise ShapeError(f"verify: {len(inputs)} inputs given, the graph takes {len(wanted)}: {', '.join(wanted)}")
        inputs = dict(zip(wanted, inputs, strict=True))
    if set(inputs) != set(wanted):
        raise ShapeError(f"verify: inputs {sorted(inputs)} given, the graph takes {sorted(wanted)}")
    return {
        name: np.asarray(array, wanted[name].dtype.numpy() if wanted[name].dtype else None)
        for name, array in inputs.items()
    }


def execute(
    model: ir.Model, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Tensor name -> array in onnxruntime, for the graph outputs or the tensors asked for. The model stays as it is.

    Raises:
        UnsupportedError: the runtime refuses the model or the inputs.
    """
    runnable = _with_bodies(model)
    if any(is_qonnx(node) and node.op_identifier() not in runnable.functions for node in runnable.graph):
        return _in_qonnx(runnable, inputs, outputs)
    if outputs is not None:
        values = {v.name: v for v in (*runnable.graph.inputs, *runnable.graph.initializers.values())}
        values |= {v.name: v for node in runnable.graph for v in node.outputs}
        runnable.graph.outputs[:] = [values[name] for name in outputs]
    try:
        session = _session(runnable)
        names = [value.name for value in runnable.graph.outputs]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # onnxruntime's own exceptions have no common base
        reason = str(error).splitlines()[0]
        raise UnsupportedError(f"verify: onnxruntime cannot execute the model: {reason}") from error


def _with_bodies(model: ir.Model) -> ir.Model:
    copy, seen = bodies.with_ours(model), set()
    for node in copy.graph.all_nodes():  # onnxruntime refuses a name twice, onnx does not
        node.name = "" if node.name in seen else node.name
        seen.add(node.name)
    return copy


def _session(model: ir.Model) -> onnxruntime.InferenceSession:
    size, library = tensor_bytes(model), native_operators.status().library
    outside = any(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values())
    if size < _IN_MEMORY and not outside:
        return sessions.open_plain(graph.to_proto(model).SerializeToString(), library)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.data")
        return sessions.open_plain(path, library)


def _in_qonnx(model: ir.Model, inputs, outputs) -> dict[str, np.ndarray]:
    """QONNX operators without a body of ours (Trunc) are known to qonnx only."""
    model.graph.inputs[:] = graph_inputs(model)
    for node in model.graph:
        if is_qonnx(node) and node.op_identifier() not in model.functions:
            node.domain = qonnx_general.DOMAIN
    proto: onnx.ModelProto = graph.to_proto(model)
    return executors.run_qonnx(proto, dict(inputs), list(outputs) if outputs is not None else None)
