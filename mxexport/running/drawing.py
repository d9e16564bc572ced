"""Inputs made up for a model, for comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from mxexport.errors import ShapeError
from mxexport.model import graph

_OPEN_DIMENSION = 2
_MOST_VALUES = 1 << 30


def random_inputs(proto: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded inputs of the declared shapes, every open dimension 2.

    Raises:
        ShapeError: an input without a shape, too large, or of a type that is no number.
    """
    rng, constants = np.random.default_rng(seed), {i.name for i in proto.graph.initializer}
    made = {}
    for value in proto.graph.input:
        if value.name in constants:
            continue
        t = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(t.elem_type) if t.elem_type else np.dtype(object)
        if not t.HasField("shape") or dtype.kind in "OSUM":
            raise ShapeError(f"input {value.name!r} has no shape or is no number: give inputs yourself")
        shape = [d.dim_value if d.HasField("dim_value") else _OPEN_DIMENSION for d in t.shape.dim]
        if not can_be_made(shape):
            raise ShapeError(f"input {value.name!r} of shape {shape} cannot be made up: give inputs yourself")
        if dtype.kind in "iub":
            made[value.name] = rng.integers(0, _highest(proto, value.name, dtype, len(shape)), shape).astype(dtype)
        else:
            made[value.name] = rng.standard_normal(shape).astype(np.float32).astype(dtype)
    return made


def can_be_made(shape: Sequence[int]) -> bool:
    """Whether an array of that shape is one, and small enough to be made up."""
    return min(shape, default=0) >= 0 and math.prod(shape) <= _MOST_VALUES


def _highest(proto: onnx.ModelProto, name: str, dtype: np.dtype, rank: int) -> int:
    """Above the integers to draw: rows of a table where there is one, switches and sizes stay 0 or 1."""
    tables = _table_rows(proto, name)
    if dtype.kind == "b" or (rank < 2 and not tables):
        return 2
    return max(min([*tables, 100]), 1)


_KEEP_VALUES = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
_KEEP_SHAPE = {"Cast", "DequantizeLinear", "Identity", *graph.QUANTIZERS}


def _table_rows(proto: onnx.ModelProto, indices: str) -> list[int]:
    """Sizes of all axes that the input `indices` indexes, directly or reshaped: of tables that are constants, quantized
    or packed ones included."""
    names, rows = {indices}, []
    makers = {name: node for node in proto.graph.node for name in node.output}
    shapes = {i.name: list(i.dims) for i in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in _KEEP_VALUES and node.input[0] in names:
            names.update(node.output)
        if node.op_type != "Gather" or node.input[1] not in names:
            continue
        table, axis = node.input[0], next((a.i for a in node.attribute if a.name == "axis"), 0)
        while table not in shapes and table in makers and makers[table].op_type in _KEEP_SHAPE:
            table = makers[table].input[0]
        shape = shapes.get(table) or _packed_shape(makers.get(table)) or _declared_shape(proto, table)
        rows += [shape[axis]] if shape and -len(shape) <= axis < len(shape) else []
    return rows


def _declared_shape(proto: onnx.ModelProto, name: str) -> list[int]:
    """Of a tensor made on the way, such as a product of codes and scales; empty where it is not known."""
    for value in proto.graph.value_info:
        if value.name == name and all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim):
            return [d.dim_value for d in value.type.tensor_type.shape.dim]
    return []


def _packed_shape(node: onnx.NodeProto | None) -> list[int]:
    found = [a.ints for a in node.attribute if a.name == "shape"] if node and node.op_type in graph.DEQUANTIZERS else []
    return list(found[0]) if found else []
