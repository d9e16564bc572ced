"""Inputs of a graph by name, each as the graph declares it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from mxexport.errors import ShapeError
from mxexport.numbers.arrays import on_host


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
