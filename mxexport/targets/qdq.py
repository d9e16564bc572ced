"""QONNX -> standard ONNX: QuantizeLinear, DequantizeLinear and functions of standard operators, the same bits.

    weights      codes -> DequantizeLinear(codes, scale[, zero_point]); four-bit minifloats, which no type that
                 onnxruntime runs holds, are two codes a byte behind the function MXFloatDequant
    activations  QuantizeLinear -> [Clip] -> DequantizeLinear where that gives the same bits, else our operators with
                 their function bodies; scales found at run time always are the latter

The functions are local to the file, as ONNX has them since IR version 8: a runtime needs nothing of ours. For tools
that cannot take functions (`functions=False`) their standard operators stand in the graph, and four-bit minifloats take
a byte.

Blocked DequantizeLinear came with opset 21, FLOAT4E2M1 with 23, FLOAT8E8M0 with 24, INT2 with 25 (onnx operators,
DequantizeLinear). Two details decide what QuantizeLinear may carry: it adds the zero point after rounding, we before,
so asymmetric activations stay standard operators; and an integer has no NaN, so NaN is put back where the scale does
not hold it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from mxexport.errors import OptionError
from mxexport.model import graph
from mxexport.model.constants import evaluate_node
from mxexport.model.editing import add_initializer
from mxexport.model.opsets import raise_opset
from mxexport.model.rewriting import constant
from mxexport.numbers.formats import FloatElement
from mxexport.numbers.numerics import int_range
from mxexport.ops import DOMAIN, OPERATORS
from mxexport.passes.fold import fold_weights
from mxexport.targets import carriers, inlining, values
from mxexport.targets.conversion import Converted

LOWEST_OPSET, HIGHEST_OPSET = 21, 25
_T = ir.DataType


def convert(model: ir.Model, opset: int | None = None, functions: bool = True) -> Converted:
    """`model` in standard ONNX at `opset` (default: the model's own, at least 21).

    `functions`: quantizers that no standard operator is are functions of the file, one node each; without them, many
    nodes each, and no operator or function of ours.

    The default runs in onnxruntime. An explicit opset of 24 or more stores FLOAT4E2M1 and FLOAT8E8M0 (25: INT2), which
    onnxruntime 1.32 does not run on the CPU. Notes say for every quantizer how it is carried.

    Raises:
        OptionError: an opset that is not an integer, below the model's own, or outside 21 .. 25.
        UnsupportedError: operators of ours or of QONNX that have no form in standard ONNX.
    """
    target = _check_opset(model, opset)
    result = model.clone()
    graph.drop_functions(result)
    inlining.inline_functions(result)
    raise_opset(result, target)
    native = target if opset is not None and target >= carriers.NATIVE_OPSET else None
    packed = _pack_halves(result) if functions and native is None else {}
    notes = [
        (packed.get(node.outputs[0].name, node.name), _convert_quantizer(node, result, native, packed))
        for node in list(result.graph.all_nodes())
        if node.domain == DOMAIN and node.op_type in OPERATORS and "scale" in OPERATORS[node.op_type].inputs
        if "Y" in OPERATORS[node.op_type].outputs
    ]
    _fold_constants(result)
    inlining.refuse_unknown(result)
    if functions:
        how, standard = "as a function of standard operators", dict(inlining.calls(result))
        graph.attach_functions(result)
        graph.attach_standard_functions(result)
    else:
        how, standard = "as standard operators", dict(inlining.inline_operators(result))
    notes = [(name, note) for name, note in notes if note]
    notes += [(name, f"{op} {how}") for name, op in standard.items() if name not in dict(notes)]
    _clean(result)
    return Converted(result, notes, runs=native is None, functions=functions)


def _check_opset(model: ir.Model, opset: int | None) -> int:
    own = model.opset_imports.get("", 0)
    if opset is None:
        return max(own, LOWEST_OPSET)
    if not isinstance(opset, int) or isinstance(opset, bool):
        raise OptionError(f"convert --to qdq: opset is {opset!r}, expected an integer")
    lowest = max(own, LOWEST_OPSET)
    if opset != own and not lowest <= opset <= HIGHEST_OPSET or opset < lowest:
        why = f"the model has opset {own}" if own > LOWEST_OPSET else "blocked DequantizeLinear came with 21"
        raise OptionError(f"convert --to qdq: opset {opset}: expected {lowest} to {max(own, HIGHEST_OPSET)} ({why})")
    return opset


# --- one quantizer --------------------------------------------------------------------------------------------


def _convert_quantizer(node: ir.Node, model: ir.Model, native: int | None, packed: dict[str, str]) -> str | None:
    """Replace one node; what to say about it, or None where it stays for its body. `packed`: of `_pack_halves`."""
    name = values.format_name(node) or node.op_type
    if graph.FORMAT_KEY not in node.metadata_props and name != node.op_type:
        node.metadata_props[graph.FORMAT_KEY] = name
    codes = values.constant_codes(node)
    if codes is None:
        return _convert_activation(node, model, native, name)
    if node.outputs[0].name in packed:
        return f"{name}: two codes a byte, MXFloatDequant as a function of standard operators"
    return _convert_weight(node, codes, model, native, name)


def _halves(node: ir.Node) -> bool:
    """Whether packed codes take half of the bytes that the smallest type onnxruntime runs does."""
    element = values.element_of(node)
    return isinstance(element, FloatElement) and element.bits <= 4


def _pack_halves(model: ir.Model) -> dict[str, str]:
    """Weights of `_halves` become packed codes, all at once, where they fold so; tensor -> what made it before."""
    halves = {n.outputs[0].name: n for n in model.graph.all_nodes() if graph.is_quantized_constant(n) and _halves(n)}
    names = {tensor: node.name for tensor, node in halves.items()}
    fold_weights.pack(model, [(n, None) for n in halves.values() if n.op_type in graph.QUANTIZERS])
    made = {n.outputs[0].name for n in model.graph.all_nodes() if n.op_type in graph.DEQUANTIZERS}
    return {tensor: name for tensor, name in names.items() if tensor in made}


def _convert_weight(node: ir.Node, codes: values.ConstantCodes, model: ir.Model, native: int | None, name: str) -> str:
    element = values.element_of(node)
    integers = "bit_width" in graph.attributes(node)
    carried = None
    if codes.exact and integers:
        carried = carriers.carry_ints(codes.elements, codes.zero_point, element, native)
    elif codes.exact and codes.zero_point is None:
        carried = carriers.carry_floats(codes.elements, element, native)
    stem = _stem(node)
    if carried is None:
        return _table_or_floats(node, codes, model, stem, name)
    dtype, typed, *zero = carried
    transposed = native is None and _is_matrix_of_matmul(node, codes)
    if transposed:
        codes, typed = codes.transposed(), np.ascontiguousarray(typed.T)
        zero = [part if part is None else np.ascontiguousarray(part.T) for part in zero]
    _note_type(model, dtype)
    g = model.graph
    scale, scale_note = _scale(g, model, codes, stem, native)
    inputs = [add_initializer(g, f"{stem}_codes", typed, dtype), scale]
    if zero and zero[0] is not None:
        inputs.append(add_initializer(g, f"{stem}_zeros", zero[0].reshape(_scale_shape(codes)), dtype))
    attributes = (
        {"axis": codes.axis, "block_size": codes.group_size} if codes.value.ndim != 1 or codes.scale.size != 1 else {}
    )
    if scale.dtype == _T.FLOAT8E8M0:
        attributes["output_dtype"] = _T.FLOAT
    made = [ir.node("DequantizeLinear", inputs, attributes, name=node.name)]
    if transposed:
        made[0].outputs[0].name = f"{node.outputs[0].name}_transposed"
        made.append(ir.node("Transpose", made[0].outputs, {"perm": [1, 0]}, name=f"{node.name}_transposed"))
    _replace(node, made, named=made[0])
    bits = element.bits if element else carriers.bits_of(dtype)
    more = carriers.bits_of(dtype) - bits
    size = f": +{more} bit{'s' if more > 1 else ''} per element" if more else ""
    return f"{name} carried in {dtype.name}{size}{scale_note}"


def _is_matrix_of_matmul(node: ir.Node, codes: values.ConstantCodes) -> bool:
    """Where the groups of a matrix run along the axis that MatMul sums over, as its operators have it.

    Behind a DequantizeLinear like that, onnxruntime puts its own MatMulNBits, which rounds the other operand to 8 bits;
    behind a Transpose it does not.
    """
    if codes.value.ndim != 2 or codes.axis != 0:
        return False
    return any(user.op_type in ("MatMul", "Gemm") and index == 1 for user, index in node.outputs[0].uses())


def _scale(g, model, codes, stem, native) -> tuple[ir.Value, str]:
    typed = carriers.e8m0(codes.scale) if native else None
    if typed is None:
        powers = graph.is_power_of_two(codes.scale)
        note = "; scales below 2**-127 stay float32" if native and powers else ""
        return add_initializer(g, f"{stem}_scales", codes.scale.reshape(_scale_shape(codes))), note
    _note_type(model, _T.FLOAT8E8M0)
    return add_initializer(g, f"{stem}_scales", typed.reshape(_scale_shape(codes)), _T.FLOAT8E8M0), ""


def _scale_shape(codes: values.ConstantCodes) -> tuple[int, ...]:
    """onnxruntime takes a scale of shape (1,) for a scalar and then refuses block_size: write a scalar."""
    return () if codes.value.ndim == 1 and codes.scale.size == 1 else codes.scale.shape


def _table_or_floats(node: ir.Node, codes: values.ConstantCodes, model: ir.Model, stem: str, name: str) -> str:
    """Elements no ONNX type holds: one byte each that indexes a table of values; contracted scales are gathered."""
    bits = np.unique(np.ascontiguousarray(codes.elements).view(np.uint32))
    g = model.graph
    if not codes.exact or codes.zero_point is not None or bits.size > 256:
        node.outputs[0].name, kept = f"{node.outputs[0].name}.replaced", node.outputs[0].name
        _substitute(node, add_initializer(g, kept, codes.value))
        return f"{name} stored as float32 values: no element codes give the same bits"
    index = np.searchsorted(bits, np.ascontiguousarray(codes.elements).view(np.uint32)).astype(np.uint8)
    positions = np.arange(codes.value.shape[codes.axis], dtype=np.int64) // codes.group_size
    cast = ir.node("Cast", [add_initializer(g, f"{stem}_codes", index)], {"to": _T.INT32}, name=f"{node.name}/Cast")
    table = add_initializer(g, f"{stem}_table", bits.view(np.float32))
    look_up = ir.node("Gather", [table, cast.outputs[0]], {"axis": 0}, name=f"{node.name}/Gather")
    scale = add_initializer(g, f"{stem}_scales", codes.scale)
    where = add_initializer(g, f"{stem}_groups", positions)
    expand = ir.node("Gather", [scale, where], {"axis": codes.axis}, name=f"{node.name}/Gather_1")
    product = ir.node("Mul", [look_up.outputs[0], expand.outputs[0]], name=node.name)
    _replace(node, [cast, look_up, expand, product])
    return f"{name} carried in UINT8 through a table of {bits.size} values, as standard operators"


def _convert_activation(node: ir.Node, model: ir.Model, native: int | None, name: str) -> str | None:
    dtype = _activation_type(node, native)
    x, scale = node.inputs[0], node.inputs[1]
    if dtype is None or x.shape is None or len(x.shape) < 2:
        return None
    a, own_scale = graph.attributes(node), _scale_of_same_tensor(node)
    integer = dtype in carriers.INT_TYPES
    if dtype == _T.FLOAT4E2M1 and not own_scale:
        return None  # NaN would become a zero
    _note_type(model, dtype)
    where = {"axis": a["axis"] % len(x.shape), "block_size": a["group_size"]}
    made = [ir.node("QuantizeLinear", [x, scale], where | {"output_dtype": dtype}, name=f"{node.name}/QuantizeLinear")]
    if integer and (limits := int_range(a["bit_width"], a["signed"], a["narrow"])) != carriers.type_range(dtype):
        ends = [
            add_initializer(model.graph, f"{dtype.name.lower()}_{v}".replace("-", "minus_"), np.array(v, dtype.numpy()))
            for v in limits
        ]
        made.append(ir.node("Clip", [made[-1].outputs[0], *ends], name=f"{node.name}/Clip"))
    made.append(ir.node("DequantizeLinear", [made[-1].outputs[0], scale], where, name=node.name))
    dequantize = made[-1]
    note = " -> ".join(n.op_type for n in made) + f" ({dtype.name})"
    if integer and not own_scale:
        odd = ir.node("IsNaN", [x], name=f"{node.name}/IsNaN")
        made += [odd, ir.node("Where", [odd.outputs[0], x, dequantize.outputs[0]], name=f"{node.name}/Where")]
        dequantize.outputs[0].name = f"{node.name}/DequantizeLinear"
        note += ", NaN put back"
    for n in made[:-1]:
        n.outputs[0].name = n.outputs[0].name or n.name
        n.outputs[0].shape = x.shape
        kind = dtype if n.op_type in ("QuantizeLinear", "Clip") else _T.BOOL if n.op_type == "IsNaN" else _T.FLOAT
        n.outputs[0].type = ir.TensorType(kind)
    _replace(node, made, dequantize)
    return f"{name}: {note}"


def _activation_type(node: ir.Node, native: int | None) -> ir.DataType | None:
    a = graph.attributes(node)
    if node.op_type == "GroupwiseQuant":
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            return None
        return _T.INT8 if a["signed"] else _T.UINT8
    if node.op_type == "MXFloatQuant" and a["signed"]:
        return carriers.own_type(values.element_of(node), native)
    return None


def _scale_of_same_tensor(node: ir.Node) -> bool:
    """True when the scale comes from the very groups it scales: a NaN among them then is a NaN scale."""
    maker = node.inputs[1].producer()
    return (
        graph.is_ours(maker, graph.SCALES)
        and maker.inputs[0] is node.inputs[0]
        and all(graph.attributes(maker)[key] == graph.attributes(node)[key] for key in ("axis", "group_size"))
    )


# --- graph ----------------------------------------------------------------------------------------------------


def _stem(node: ir.Node) -> str:
    first = node.inputs[0]
    return first.name if first is not None and first.name and constant(first) is not None else node.name


def _note_type(model: ir.Model, dtype: ir.DataType) -> None:
    model.ir_version = max(model.ir_version, carriers.IR_VERSION.get(dtype, 10))


def _replace(node: ir.Node, made: list[ir.Node], named: ir.Node | None = None) -> None:
    """Put `made` where `node` stands; the last one takes over its outputs, `named` its metadata."""
    named = named or made[-1]
    named.metadata_props.update(node.metadata_props)
    named.doc_string = node.doc_string
    for n in made[:-1]:
        n.outputs[0].name = n.outputs[0].name or n.name
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], made, node.outputs, made[-1].outputs)


def _substitute(node: ir.Node, value: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)


def _fold_constants(model: ir.Model) -> None:
    """Scales and zero points that our operators compute from constants become initializers; what is stored in few bits
    stays so."""
    for node in [n for n in model.graph.all_nodes() if n.domain == DOMAIN and n.op_type in OPERATORS]:
        if OPERATORS[node.op_type].role in ("dequantizer", "stored_scale"):
            continue
        results = evaluate_node(node)
        for output, array in zip(node.outputs, results or (), strict=False):
            name, output.name = output.name, f"{output.name}.folded"
            made = add_initializer(model.graph, name, array)
            ir.convenience.replace_all_uses_with(output, made, replace_graph_outputs=True)
        if results is not None:
            node.graph.remove(node, safe=True)


def _clean(model: ir.Model) -> None:
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
