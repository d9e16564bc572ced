"""Small helpers on onnx-ir models that export, passes and targets share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import FormatError
from mxexport.model.editing import add_initializer
from mxexport.model.reader import read_model
from mxexport.model.rewriting import constant, is_qonnx_quantizer
from mxexport.model.writer import read_tensors, writable, write_model
from mxexport.numbers.formats import GroupFormat, find_format, get_format
from mxexport.numbers.numerics import power_of_two_exponents
from mxexport.ops import DOMAIN, OPERATORS, VERSION, functions_for, of_role, qonnx_general
from mxexport.ops._checking import naming

QUANTIZERS = of_role("quantizer")
DEQUANTIZERS = of_role("dequantizer")  # packed weights
SCALES = of_role("scale")
ZERO_POINTS = of_role("zero_point")
STORED_SCALES = of_role("stored_scale")  # scales of packed weights, one byte per group
FORMAT_KEY = "mx_format"
BODY_DOMAINS = (DOMAIN, qonnx_general.DOMAIN)
"""The domains whose function bodies are ours to give."""


def load(path: str | os.PathLike) -> ir.Model:
    """Read an ONNX file; large tensors are mapped, not copied.

    Raises:
        InputFileError: missing, not an ONNX model, or tensors whose data are not where and what the file says.
    """
    return read_model(path)


def save(model: ir.Model, path: str | os.PathLike, *, external_data: bool | None = None) -> Path:
    """Write `model` under a temporary name, then rename: the file is whole or absent.

    Function bodies of our operators are (re)made for the model's opset; "" comes first among the opset imports
    (qonnx reads the first). `external_data` keeps tensors in `<name>.data` beside the file; None does so above 100 MB.

    Raises:
        InputFileError: `path` cannot be written.
    """
    path = writable(path)
    attach_functions(model)
    write_model(model, path, external_data)
    return path


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto with "" first among the opset imports; tensors of a data file are read into it."""
    read_tensors(model)
    proto = ir.to_proto(model)
    imports = sorted(proto.opset_import, key=lambda item: item.domain)
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    return proto


def attach_functions(model: ir.Model) -> None:
    """Put exactly the function bodies that the graph needs into the model, for the model's own opset.

    Nodes that compute from constants alone move to the front, see `_constants_first`.
    """
    opset = model.opset_imports[""]
    _unify_zero_points(model)
    protos = [ir.serde.serialize_node(node) for node in all_nodes(model) if node.domain == DOMAIN]
    for key in [key for key in model.functions if key[0] == DOMAIN]:
        del model.functions[key]
    for function in functions_for(protos, opset):
        loaded = ir.serde.deserialize_function(function)
        model.functions[loaded.identifier()] = loaded
    if protos:
        model.opset_imports[DOMAIN] = VERSION
        _constants_first(model.graph)


def copied_without_bodies(model: ir.Model) -> ir.Model:
    """A copy without the bodies that `drop_functions` takes out, which are most of a small model's nodes; tensors are
    shared with `model`."""
    kept = dict(model.functions)
    try:
        drop_functions(model)
        return model.clone()
    finally:
        model.functions.clear()
        model.functions.update(kept)


def drop_functions(model: ir.Model) -> None:
    """Take out the bodies of our operators and of QONNX's; they are made anew where they are needed."""
    for key in [key for key in model.functions if key[0] in BODY_DOMAINS]:
        del model.functions[key]


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Those of the graph, and those in the functions that are not ours."""
    yield from model.graph.all_nodes()
    for (domain, *_), function in model.functions.items():
        if domain not in BODY_DOMAINS:
            yield from function.all_nodes()


def _constants_first(g: ir.Graph) -> None:
    """Move nodes that read nothing but initializers, or each other, to the front; order is otherwise kept.

    onnxruntime walks back from the outputs and runs a node's later inputs first: a weight's quantizer in front of the
    activations runs just before its use, one behind them before the whole network, and all weights are live at once.
    """
    nodes, known, early = list(g), {id(value) for value in g.initializers.values()}, []
    for node in nodes:
        holds_graph = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        if not holds_graph and all(value is None or id(value) in known for value in node.inputs):
            early.append(node)
            known.update(map(id, node.outputs))
    if early and early != nodes[: len(early)]:
        g.remove(early)
        g.insert_before(next(iter(g)), early)


def attach_standard_functions(model: ir.Model) -> None:
    """Give QONNX's own quantizers function bodies, so that plain ONNX runtimes execute them, too."""
    nodes = [node for node in all_nodes(model) if is_qonnx_quantizer(node)]
    if not nodes:
        return
    for node in nodes:  # a body that rounds as its node says reads the attribute
        if "rounding_mode" in qonnx_general.ATTRIBUTES[node.op_type] and "rounding_mode" not in node.attributes:
            node.attributes["rounding_mode"] = ir.AttrString("rounding_mode", "ROUND")
    for function in qonnx_general.functions_for(map(ir.serde.serialize_node, nodes), model.opset_imports[""]):
        loaded = ir.serde.deserialize_function(function)
        model.functions[loaded.identifier()] = loaded
    model.opset_imports[qonnx_general.DOMAIN] = qonnx_general.VERSION


def _unify_zero_points(model: ir.Model) -> None:
    """An ONNX function has one signature: beside asymmetric quantizers, symmetric ones get an explicit zero."""
    for op_type in sorted(_ASYMMETRIC):
        quantizers = [n for n in model.graph.all_nodes() if is_ours(n, {op_type})]
        zeros = [n.inputs[2] if len(n.inputs) > 2 else None for n in quantizers]
        if all(z is None or _is_made_zero(z, n.inputs[1]) for n, z in zip(quantizers, zeros, strict=True)):
            _drop_zero_points_of(quantizers)
            continue
        for node, zero in zip(quantizers, zeros, strict=True):
            if zero is None:
                zero = _zero_point(model, node)
                node.resize_inputs(3)
                node.replace_input_with(2, zero)


def drop_zero_points(model: ir.Model) -> None:
    """Take the zeros out that `attach_functions` put in for the signature; passes look at quantizers without them."""
    _drop_zero_points_of([node for node in model.graph.all_nodes() if is_ours(node, _ASYMMETRIC)])


def _drop_zero_points_of(quantizers: list[ir.Node]) -> None:
    for node in quantizers:
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        if zero is None or not _is_made_zero(zero, node.inputs[1]):
            continue
        node.replace_input_with(2, None)
        node.resize_inputs(2)
        if not zero.uses() and not zero.is_graph_output():
            _drop(zero)


_ASYMMETRIC = {name for name in QUANTIZERS | DEQUANTIZERS if "zero_point" in OPERATORS[name].inputs}


def _is_made_zero(zero: ir.Value, scale: ir.Value) -> bool:
    """Zeros under the name `_zero_point` gives them, or scale * 0."""
    known, product = constant(zero), zero.producer()
    if known is not None:
        made = str(zero.name).startswith(f"{scale.name}_zero_point")
        return made and not zero.is_graph_input() and not known.any()
    if product is None or (product.domain, product.op_type) != ("", "Mul") or product.inputs[0] is not scale:
        return False
    factor = ir.convenience.get_const_tensor(product.inputs[1]) if product.inputs[1] is not None else None
    return factor is not None and factor.size == 1 and not factor.numpy().any()


def _drop(value: ir.Value) -> None:
    """Remove a value nobody uses, and what made it."""
    maker = value.producer()
    if maker is None:
        if value.graph is not None and not value.is_graph_input():
            value.graph.initializers.pop(value.name, None)
        return
    inputs = [v for v in maker.inputs if v is not None]
    maker.graph.remove(maker, safe=True)
    for source in inputs:
        if not source.uses() and ir.convenience.get_const_tensor(source) is not None:
            _drop(source)


def _zero_point(model: ir.Model, node: ir.Node) -> ir.Value:
    """Zeros in the shape of the scale: an initializer where the shape is known, else scale * 0."""
    scale = node.inputs[1]
    known = constant(scale)
    shape = scale.shape if known is None else known.shape
    if shape is not None and all(isinstance(n, int) for n in shape):
        zeros = np.zeros([int(n) for n in shape], np.float32)
        return add_initializer(model.graph, f"{scale.name}_zero_point", zeros)
    nothing = ir.node("Constant", [], {"value": ir.tensor(np.float32(0))}, name=f"{node.name}_zero")
    product = ir.node("Mul", [scale, nothing.outputs[0]], name=f"{node.name}_zero_point")
    for made in (nothing, product):
        made.outputs[0].name = made.name
        node.graph.insert_before(node, made)
        made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    nothing.outputs[0].shape, product.outputs[0].shape = ir.Shape([]), scale.shape
    return product.outputs[0]


def attributes(node: ir.Node) -> dict:
    """Attribute values of a node of our domain; raises UnsupportedError when one is missing or outside its range."""
    operator = OPERATORS[node.op_type]
    found = {name: node.attributes[name].value for name in operator.attributes if name in node.attributes}
    with naming(node.name):
        operator.check([], found)
    return found


def is_ours(node: ir.Node | None, op_types: set[str]) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type in op_types


def is_power_of_two(scale: np.ndarray) -> bool:
    """True when every scale is NaN or a power of two."""
    return bool((power_of_two_exponents(scale)[1] | np.isnan(scale)).all())


def is_quantized_constant(node: ir.Node | None) -> bool:
    """True for the node that makes a quantized weight: a quantizer of an initializer, or packed codes."""
    return is_ours(node, QUANTIZERS | DEQUANTIZERS) and constant(node.inputs[0]) is not None


def quantized_shape(node: ir.Node) -> ir.Shape | None:
    """Shape of what a quantizer or dequantizer node puts out (None: not known)."""
    return ir.Shape(attributes(node)["shape"]) if node.op_type in DEQUANTIZERS else node.inputs[0].shape


def quantizer_format(node: ir.Node) -> GroupFormat:
    """The group format of a quantizer or dequantizer node, from its attributes and the kind of its scale."""
    a, kind = attributes(node), _scale_kind(node)
    return find_format(OPERATORS[node.op_type].element_of(a, kind == "e8m0"), group_size(node), kind)


def group_size(node: ir.Node) -> int:
    """Elements per group of the format. Packed codes of one short group are stored as a group of its own length, and
    the format's larger size stands in the name alone: it changes no value, only how the weight is grouped when padded.
    """
    a = attributes(node)
    size, axis, shape = a["group_size"], a["axis"], a.get("shape", ())
    if not -len(shape) <= axis < len(shape) or shape[axis] != size:
        return size
    try:
        return max(size, get_format(node.metadata_props.get(FORMAT_KEY, "")).group_size or 0)
    except FormatError:  # a name nobody knows
        return size


def _scale_kind(node: ir.Node) -> str:
    known, producer = constant(node.inputs[1]), node.inputs[1].producer()
    # Once folded, a scale in two levels looks like any float scale; and so it does in groups that nvfp4 does not have.
    named = "nvfp4" in (node.meta.get(FORMAT_KEY), node.metadata_props.get(FORMAT_KEY))
    if named or is_ours(producer, {"NVFP4Scale", "NVFP4ScaleDequant"}):
        return "nvfp4" if group_size(node) == get_format("nvfp4").group_size else "float32"
    pow2 = is_power_of_two(known) if known is not None else is_ours(producer, {"MXScale", "MXScaleDequant"})
    if node.op_type.startswith("Groupwise") and not attributes(node)["signed"]:
        pow2 = False  # no MX format has unsigned elements, whatever the scale
    return "e8m0" if pow2 else "float32"
