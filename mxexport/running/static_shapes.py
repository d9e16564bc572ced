"""Every tensor of a model at one size, as executors want it that walk from node to node."""

from __future__ import annotations

import onnx

from mxexport.errors import InputFileError
from mxexport.running.guards import guarded_copy


def with_static_shapes(proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A copy with the graph inputs at the given shapes and every tensor's shape inferred anew.

    Function bodies are left out: shapes then come from our operators' own inference, for every output. Where nothing
    infers a shape (qonnx's operators for channels last) the file's own word is taken.

    Raises:
        InputFileError: the model is too large for ONNX's shape inference (2 GiB).
        UnsupportedError: a file that qonnx must not have, see `qonnx_guard`.
    """
    if proto.ByteSize() >= 2**31 - 1:
        raise InputFileError("qonnx needs ONNX's shape inference, which takes models below 2 GiB; use onnxruntime")
    copy = guarded_copy(proto)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        if value.name not in shapes:
            continue
        del value.type.tensor_type.shape.dim[:]
        for size in shapes[value.name]:
            value.type.tensor_type.shape.dim.add(dim_value=size)
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = _inferred(copy)
    return _inferred(inferred) if _fill(inferred.graph, proto.graph, _sizes(proto.graph, shapes)) else inferred


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)


def _sizes(g: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes that open lengths of inputs have, by name."""
    named = (
        (length.dim_param, size)
        for value in g.input
        for length, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False)
    )
    return {name: size for name, size in named if name}


def _fill(g: onnx.GraphProto, stated: onnx.GraphProto, sizes: dict[str, int]) -> bool:
    """Take what the file states for tensors of which nothing is known; whether there was anything to take."""
    entries = {v.name: v for v in (*g.value_info, *g.output)}
    known = {name for name, v in entries.items() if v.type.tensor_type.HasField("shape")}
    missing = {name for node in g.node for name in node.output if name} - known
    found = False
    for value in (*stated.value_info, *stated.output):
        lengths = [sizes.get(d.dim_param, d.dim_value) for d in value.type.tensor_type.shape.dim]
        if value.name not in missing or not value.type.tensor_type.HasField("shape") or 0 in lengths:
            continue
        entry = entries[value.name] if value.name in entries else g.value_info.add()
        entry.CopyFrom(onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, lengths))
        found = True
    return found
