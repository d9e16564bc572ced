"""Small helpers on onnx-ir models that export, passes and targets share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import InputFileError, UnsupportedError
from mxexport.formats import GroupFormat, find_format
from mxexport.model_reader import read_model
from mxexport.ops import DOMAIN, OPERATORS, VERSION, GroupwiseQuant, MXFloatQuant, functions_for, qonnx_general

QUANTIZERS = {"MXFloatQuant", "GroupwiseQuant"}
SCALES = {"MXScale", "GroupwiseScale"}
FORMAT_KEY = "mx_format"
_PROTO_LIMIT = 1_800_000_000  # protobuf refuses 2 GiB; leave room for everything but tensors


def load(path: str | os.PathLike) -> ir.Model:
    """Read an ONNX file; tensors in data files are mapped, not copied.

    Raises:
        InputFileError: missing, not an ONNX model, or tensors whose data are not where and what the file says.
    """
    return read_model(path)


def save(model: ir.Model, path: str | os.PathLike) -> Path:
    """Write `model` under a temporary name, then rename: the file is whole or absent.

    Function bodies of our operators are (re)made for the model's opset; "" comes first among the opset imports
    (qonnx reads the first). Models over the protobuf limit keep their tensors in `<name>.data` beside the file.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputFileError(f"cannot write {path}: no such directory: {path.parent}")
    attach_functions(model)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size < _PROTO_LIMIT:
        write_atomically(path, to_proto(model).SerializeToString())
    else:
        ir.save(model, path, external_data=f"{path.name}.data")
    return path


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto with "" first among the opset imports."""
    proto = ir.to_proto(model)
    imports = sorted(proto.opset_import, key=lambda item: item.domain)
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    return proto


def write_atomically(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def attach_functions(model: ir.Model) -> None:
    """Put exactly the function bodies that the graph needs into the model, for the model's own opset."""
    opset = model.opset_imports[""]
    _unify_zero_points(model)
    protos = [ir.serde.serialize_node(node) for node in model.graph.all_nodes() if node.domain == DOMAIN]
    for key in [key for key in model.functions if key[0] == DOMAIN]:
        del model.functions[key]
    for function in functions_for(protos, opset):
        loaded = ir.serde.deserialize_function(function)
        model.functions[loaded.identifier()] = loaded
    if protos:
        model.opset_imports[DOMAIN] = VERSION


def attach_standard_functions(model: ir.Model) -> None:
    """Give QONNX's own quantizers function bodies, so that plain ONNX runtimes execute them, too."""
    nodes = [node for node in model.graph.all_nodes() if node.domain == qonnx_general.DOMAIN]
    if not nodes:
        return
    for function in qonnx_general.functions_for(map(ir.serde.serialize_node, nodes), model.opset_imports[""]):
        loaded = ir.serde.deserialize_function(function)
        model.functions[loaded.identifier()] = loaded
    model.opset_imports[qonnx_general.DOMAIN] = qonnx_general.VERSION


def _unify_zero_points(model: ir.Model) -> None:
    """An ONNX function has one signature: beside asymmetric quantizers, symmetric ones get an explicit zero."""
    quantizers = [n for n in model.graph.all_nodes() if is_ours(n, {"GroupwiseQuant"})]
    symmetric = [n for n in quantizers if len(n.inputs) < 3 or n.inputs[2] is None]
    if len(symmetric) == len(quantizers):
        return
    for node in symmetric:
        scale = node.inputs[1]
        known = constant(scale)
        if known is not None:
            zero = ir.Value(
                name=f"{scale.name}_zero_point",
                shape=ir.Shape(known.shape),
                type=ir.TensorType(ir.DataType.FLOAT),
                const_value=ir.tensor(np.zeros_like(known)),
            )
            zero = model.graph.initializers.get(zero.name) or zero
            model.graph.register_initializer(zero)
        else:
            nothing = ir.node("Constant", [], {"value": ir.tensor(np.float32(0))}, name=f"{node.name}_zero")
            product = ir.node("Mul", [scale, nothing.outputs[0]], name=f"{node.name}_zero_point")
            for made in (nothing, product):
                made.outputs[0].name = made.name
                node.graph.insert_before(node, made)
            product.outputs[0].shape, product.outputs[0].type = scale.shape, scale.type
            zero = product.outputs[0]
        node.resize_inputs(3)
        node.replace_input_with(2, zero)


def attributes(node: ir.Node) -> dict:
    """Attribute values of a node of our domain; raises UnsupportedError when one is missing."""
    declared = OPERATORS[node.op_type].attributes
    missing = sorted(set(declared) - set(node.attributes))
    if missing:
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}) lacks the attribute {', '.join(missing)}")
    return {name: node.attributes[name].value for name in declared}


def is_ours(node: ir.Node | None, op_types: set[str]) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type in op_types


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numpy array behind an initializer; None for anything computed at run time."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def is_power_of_two(scale: np.ndarray) -> bool:
    """True when every scale is NaN or a power of two."""
    mantissa, _ = np.frexp(scale)
    return bool(((mantissa == 0.5) | np.isnan(scale)).all())


def quantizer_format(node: ir.Node) -> GroupFormat:
    """The group format a quantizer node applies, from its attributes and the kind of its scale."""
    a = attributes(node)
    scale = node.inputs[1]
    known = constant(scale)
    if known is not None:
        pow2 = is_power_of_two(known)
    else:
        pow2 = is_ours(scale.producer(), {"MXScale"})
    if node.op_type == "GroupwiseQuant" and not a["signed"]:
        pow2 = False  # no MX format has unsigned elements, whatever the scale
    if node.op_type == "MXFloatQuant":
        element = MXFloatQuant.element_of(a)
    else:
        element = GroupwiseQuant.element_of(a, pow2)
    return find_format(element, a["group_size"], "e8m0" if pow2 else "float32")
