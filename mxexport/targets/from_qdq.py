"""Standard ONNX -> our operators: the way back from `qdq`, and a way in for files of other tools.

    DequantizeLinear(constant codes)                          -> quantizer on float32 weights (QONNX style)
    QuantizeLinear -> [Clip] -> DequantizeLinear [-> Where]   -> GroupwiseQuant or MXFloatQuant; QONNX's Quant where one
                                                                 scale serves a tensor whose size is open
    the standard nodes of our function bodies                 -> the operator

Values keep their bits. One thing the standard leaves open: an integer QuantizeLinear of NaN; ours keeps NaN.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from mxexport.errors import FormatError, ShapeError
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.editing import add_initializer
from mxexport.model.opsets import raise_opset
from mxexport.numbers import groups
from mxexport.numbers.bits import equal_bits
from mxexport.numbers.formats import Element, FloatElement, IntElement, get_format
from mxexport.numbers.numerics import int_range
from mxexport.ops import DOMAIN, OPERATORS, VERSION, GroupwiseQuant, MXFloatQuant, qonnx_general
from mxexport.ops._body import LOWEST_OPSET
from mxexport.passes.clean.infer_shapes import infer_shapes
from mxexport.targets import carriers
from mxexport.targets.conversion import Converted
from mxexport.targets.recover import recover_operators

_T = ir.DataType
LEFT = "left as it is: "
"""How the note of a DequantizeLinear begins that stays."""


class _Declined(Exception):
    """Why a DequantizeLinear stays as it is."""


@dataclass(frozen=True)
class _Grouping:
    """Contracted float32 scale (a graph value where it is computed), zero point, and how they lie on the tensor."""

    axis: int
    group_size: int
    scale: ir.Value | np.ndarray
    zero_point: np.ndarray | None


def convert(model: ir.Model) -> Converted:
    """`model` with every quantizer it holds as an operator of ours, at opset 18 or later; the model given is left as it
    was.

    Notes name what each DequantizeLinear became, or why it stays ("left as it is: ...").
    """
    result = model.clone()
    raise_opset(result, LOWEST_OPSET)
    notes = read_quantizers(result)
    graph.attach_functions(result)
    graph.attach_standard_functions(result)
    return Converted(result, notes)


def read_quantizers(model: ir.Model) -> list[tuple[str, str]]:
    """The same in place, at the opset that the model has, and without the bodies a file needs; the notes."""
    infer_shapes(model)  # files of other tools say little of what is inside
    notes = [(name, f"recovered as {op}") for name, op in recover_operators(model)]
    common.RemoveUnusedNodesPass()(model)
    for node in list(model.graph.all_nodes()):
        if node.domain == "" and node.op_type == "DequantizeLinear":
            try:
                notes.append((node.name or node.outputs[0].name, _convert_dequantizer(node, model)))
            except (_Declined, ShapeError) as reason:
                notes.append((node.name or node.outputs[0].name, f"{LEFT}{reason}"))
        if node.domain == "" and node.op_type == "Mul" and (note := _convert_table(node, model)):
            notes.append((node.name, note))
    common.RemoveUnusedNodesPass()(model)
    return notes


def _convert_dequantizer(node: ir.Node, model: ir.Model) -> str:
    codes = constant_array(node.inputs[0])
    op_type, inputs, attributes = (_activation if codes is None else _weight)(node, codes, model.graph)
    return _put(node, _nan_guard(node, inputs[0]) or node, op_type, inputs, attributes, model)


def _put(node: ir.Node, last: ir.Node, op_type: str, inputs: list, attributes: dict, model: ir.Model) -> str:
    """Put a node of ours or QONNX's in place of `last` under the name of `node`; what it is, for the notes."""
    domain, version = (DOMAIN, VERSION) if op_type in OPERATORS else (qonnx_general.DOMAIN, qonnx_general.VERSION)
    made = ir.node(op_type, inputs, attributes, domain=domain, name=node.name or node.outputs[0].name)
    ir.convenience.replace_nodes_and_values(node.graph, last, [last], [made], last.outputs, made.outputs)
    model.opset_imports[domain] = version
    if domain != DOMAIN:
        return f"{op_type} of QONNX, one scale for the tensor"
    with contextlib.suppress(FormatError):
        made.metadata_props[graph.FORMAT_KEY] = graph.quantizer_format(made).name
    return f"{op_type}, {made.metadata_props.get(graph.FORMAT_KEY, 'a format without a name')}"


# --- weights --------------------------------------------------------------------------------------------------


def _weight(node: ir.Node, codes: np.ndarray, g: ir.Graph):
    """Float32 weights and the quantizer that gives back exactly what DequantizeLinear gives."""
    dtype = _carrier(node.inputs[0])
    grouping = _grouping(node, codes.shape)
    if not isinstance(grouping.scale, np.ndarray):
        raise _Declined("its codes are constant and its scale is not")
    elements = codes.astype(np.float32)
    axis, length = grouping.axis, codes.shape[grouping.axis]
    s = groups.expand(grouping.scale, axis, grouping.group_size, length)
    zero = grouping.zero_point
    z = np.float32(0) if zero is None else groups.expand(zero, axis, grouping.group_size, length)
    with np.errstate(all="ignore"):
        weight = np.float32(elements - z) * s
    where = {"axis": axis, "group_size": grouping.group_size}
    arrays = [weight, grouping.scale] + ([] if zero is None else [zero])
    stem = (node.inputs[0].name or node.name or "weight").removesuffix("_codes")
    names = (stem, f"{stem}_scale", f"{stem}_zero_point")
    where = {"axis": axis, "group_size": grouping.group_size}
    for op_type, of_element in _of_element(node, _named_element(node), dtype, elements):
        if _gives_itself(op_type, arrays, where | of_element):
            inputs = [add_initializer(g, n, a) for n, a in zip(names, arrays, strict=False)]
            return op_type, inputs, where | of_element
    raise _Declined("quantizing its values anew gives other bits")


def _gives_itself(op_type: str, arrays: list[np.ndarray], attributes: dict) -> bool:
    (again,) = OPERATORS[op_type].reference(*arrays, **attributes)
    return bool(equal_bits(again, arrays[0]).all())


def _named_element(node: ir.Node) -> Element | None:
    with contextlib.suppress(FormatError):
        return get_format(node.metadata_props.get(graph.FORMAT_KEY, "")).element
    return None


def _of_element(node: ir.Node, named: Element | None, dtype: ir.DataType, elements: np.ndarray):
    """(operator, element attributes) to try: the format that metadata names first, then the stored type's own."""
    if dtype in carriers.FLOAT_ELEMENTS:
        own = carriers.FLOAT_ELEMENTS[dtype]
        tried = [named, own] if isinstance(named, FloatElement) else [own]
        return [("MXFloatQuant", MXFloatQuant.attributes_of(element)) for element in tried]
    bits, signed = carriers.INT_TYPES[dtype]
    tried = [named] if isinstance(named, IntElement) and named.signed == signed else []
    choices = [GroupwiseQuant.attributes_of(element) for element in [*tried, IntElement(bits, signed)]]
    return [("GroupwiseQuant", a) for a in (*choices, choices[-1] | {"narrow": 0})]


def _convert_table(node: ir.Node, model: ir.Model) -> str | None:
    """Mul(Gather(table, codes), Gather(scale, groups)) of `qdq`, for elements that no ONNX type holds.

    None where the node is something else, or its values are not those of the format that its metadata names.
    """
    element = _named_element(node)
    makers = [value.producer() for value in node.inputs]
    if not isinstance(element, FloatElement) or any(m is None or m.op_type != "Gather" for m in makers):
        return None
    look_up, expand = makers
    axis = expand.attributes.get_int("axis", 0)
    table, index, scale, positions = (constant_array(v) for v in (*look_up.inputs, *expand.inputs))
    if any(a is None for a in (table, index, scale, positions)) or look_up.attributes.get_int("axis", 0) != 0:
        return None
    size = get_format(node.metadata_props[graph.FORMAT_KEY]).group_size or positions.size
    attributes = {"axis": axis, "group_size": size} | MXFloatQuant.attributes_of(element)
    shape = groups.contracted_shape(index.shape, axis, size)
    if scale.shape != shape or (positions != np.arange(index.shape[axis]) // size).any():
        return None
    with np.errstate(all="ignore"):
        weight = table[index] * np.take(scale, positions, axis=axis)
    if not _gives_itself("MXFloatQuant", [weight, scale], attributes):
        return None
    stem = node.name.removesuffix("_quant")
    inputs = [add_initializer(model.graph, n, a) for n, a in ((stem, weight), (f"{stem}_scale", scale))]
    return _put(node, node, "MXFloatQuant", inputs, attributes, model)


# --- activations ----------------------------------------------------------------------------------------------


def _activation(node: ir.Node, codes: None, g: ir.Graph):
    source, clip = node.inputs[0].producer(), None
    if source is not None and source.op_type == "Clip" and source.domain == "":
        clip, source = source, source.inputs[0].producer()
    if source is None or (source.domain, source.op_type) != ("", "QuantizeLinear"):
        raise _Declined("its codes are neither constant nor from QuantizeLinear")
    x = source.inputs[0]
    if x.shape is None:
        raise _Declined("the shape of its input is unknown; run shape inference first")
    shape = tuple(d if isinstance(d, int) else None for d in x.shape)
    if None in shape and (whole := _whole_tensor(node, source, clip, g)) is not None:
        return whole
    here, there = _grouping(node, shape), _grouping(source, shape)
    if node.inputs[1] is not source.inputs[1] or (here.axis, here.group_size) != (there.axis, there.group_size):
        raise _Declined("QuantizeLinear and DequantizeLinear scale differently")
    if any(group.zero_point is not None and group.zero_point.any() for group in (here, there)):
        raise _Declined("QuantizeLinear adds its zero point after rounding, our operators before")
    dtype = _quantized_type(source)
    where = {"axis": here.axis, "group_size": here.group_size}
    scale = here.scale
    if isinstance(scale, np.ndarray):
        scale = add_initializer(g, f"{node.name or node.outputs[0].name}_scale", scale)
    if dtype in carriers.FLOAT_ELEMENTS:
        if source.attributes.get_int("saturate", 1) != 1 or clip is not None:
            raise _Declined("it does not saturate (saturate=0), or a Clip stands before it")
        return "MXFloatQuant", [x, scale], where | MXFloatQuant.attributes_of(carriers.FLOAT_ELEMENTS[dtype])
    return "GroupwiseQuant", [x, scale], where | _int_attributes(dtype, clip)


def _whole_tensor(node: ir.Node, source: ir.Node, clip: ir.Node | None, g: ir.Graph):
    """QONNX's Quant for integers under one constant scale, whatever the size of the tensor; None where there is more
    than that."""
    scale, *zeros = (
        constant_array(v) for v in (node.inputs[1], *node.inputs[2:3], *source.inputs[2:3]) if v is not None
    )
    if scale is None or scale.size != 1 or node.inputs[1] is not source.inputs[1]:
        return None
    if any(zero is None or zero.any() for zero in zeros) or _quantized_type(source) not in carriers.INT_TYPES:
        return None
    described = _int_attributes(_quantized_type(source), clip)
    stem, bits = node.name or node.outputs[0].name, np.float32(described.pop("bit_width"))
    arrays = {"scale": scale.astype(np.float32).reshape(()), "zero_point": np.float32(0), "bit_width": bits}
    inputs = [add_initializer(g, f"{stem}_{name}", np.asarray(array)) for name, array in arrays.items()]
    return "Quant", [source.inputs[0], *inputs], described | {"rounding_mode": "ROUND"}


def _int_attributes(dtype: ir.DataType, clip: ir.Node | None) -> dict:
    limits = carriers.type_range(dtype)
    if clip is not None:
        ends = [constant_array(v) for v in (*clip.inputs[1:], None, None)[:2]]
        low, high = limits
        limits = (
            low if ends[0] is None else max(low, int(ends[0])),
            high if ends[1] is None else min(high, int(ends[1])),
        )
    _, signed = carriers.INT_TYPES[dtype]
    for bits in range(2, 9):
        for narrow in (1, 0) if signed else (0,):
            if int_range(bits, signed, bool(narrow)) == limits:
                return {"bit_width": bits, "signed": int(signed), "narrow": narrow}
    raise _Declined(f"its codes lie in {limits[0]} .. {limits[1]}, which is no range of 2 to 8 bits")


def _nan_guard(node: ir.Node, x: ir.Value) -> ir.Node | None:
    """The only reader Where(IsNaN(x), x, y) of a DequantizeLinear y: ours keeps NaN by itself."""
    readers = [reader for reader, _ in node.outputs[0].uses()]
    if len(readers) != 1 or readers[0].op_type != "Where" or node.outputs[0].is_graph_output():
        return None
    test, kept, y = readers[0].inputs
    asked = test.producer()
    fits = y is node.outputs[0] and kept is x and asked is not None and asked.op_type == "IsNaN"
    return readers[0] if fits and asked.inputs[0] is x else None


# --- both -----------------------------------------------------------------------------------------------------


def _carrier(value: ir.Value) -> ir.DataType:
    dtype = value.dtype
    if dtype not in carriers.FLOAT_ELEMENTS and dtype not in carriers.INT_TYPES:
        known = [t.name for t in (*carriers.INT_TYPES, *carriers.FLOAT_ELEMENTS)]
        raise _Declined(
            f"its codes are {dtype.name if dtype else 'of unknown type'}; expected one of {', '.join(known)}"
        )
    return dtype


def _quantized_type(node: ir.Node) -> ir.DataType:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return _carrier(node.inputs[2])
    stated = ir.DataType(node.attributes.get_int("output_dtype", 0) or _T.UINT8)
    return _carrier(ir.Value(type=ir.TensorType(stated)))


def _grouping(node: ir.Node, shape: tuple[int | None, ...]) -> _Grouping:
    """How `node` scales a tensor of `shape` (None: open). Raises _Declined for what our operators cannot say."""
    scale, zero = (constant_array(v) for v in (*node.inputs[1:], None)[:2])
    if len(node.inputs) > 2 and node.inputs[2] is not None and zero is None:
        raise _Declined("its zero point is computed at run time")
    if node.attributes.get_int("output_dtype", _T.FLOAT) != _T.FLOAT and node.op_type == "DequantizeLinear":
        raise _Declined("its output is not float32")
    scale = None if scale is None else scale.astype(np.float32)
    zero = None if zero is None else zero.astype(np.float32)
    if node.inputs[1].dtype not in (_T.FLOAT, _T.FLOAT8E8M0):
        raise _Declined("its scale is not float32")
    axis, size = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    if size > 0:
        axis = groups.normalize_axis(axis, len(shape), "DequantizeLinear")
        if scale is not None and None not in shape:
            groups.check_scale_shape(node.op_type, scale.shape, shape, axis, size)
        return _Grouping(axis, size, node.inputs[1] if scale is None else scale, zero)
    if scale is None:
        raise _Declined("one scale for each channel or for the tensor is supported as a constant only")
    return _whole_axes(scale, zero, axis, shape)


def _whole_axes(scale: np.ndarray, zero, axis: int, shape: tuple[int | None, ...]) -> _Grouping:
    """One scale per channel or per tensor as groups as long as an axis; scales repeat along the other axes."""
    if None in shape or not shape or 0 in shape:
        raise _Declined("one scale for each channel or for the tensor needs a tensor of known shape")
    per_channel = scale.ndim == 1 and scale.size > 1
    axis = groups.normalize_axis(axis, len(shape), "DequantizeLinear") if per_channel else None
    others = [i for i in range(len(shape)) if i != axis]
    if not others:  # one scale per element of a vector
        return _Grouping(0, 1, scale, zero)
    along = max(others, key=lambda i: shape[i])
    contracted = groups.contracted_shape(shape, along, shape[along])

    def spread(array):
        aligned = array.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return np.ascontiguousarray(np.broadcast_to(aligned, contracted))

    return _Grouping(along, shape[along], spread(scale), None if zero is None else spread(zero))
