"""Scale and elements of a quantizer as one node for as long as torch works on the graph.

Torch's optimizer tries each of its rules at every node, its constant folding and its converter of opsets visit each: a
node less for every quantizer is time saved. Nothing of this gets into a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir
from onnx import defs
from onnxscript.values import Op, Opset

from mxexport.model.names import Names
from mxexport.ops import DOMAIN, OPERATORS, VERSION
from mxexport.quant.kernels.exported import QUANTIZER_OF

_KIND = {"i": int, "f": float}
_ATTRIBUTES = {
    name: {attr: _KIND[a.kind] for op in ("MXScale", quantizer) for attr, a in OPERATORS[op].attributes.items()}
    for name, quantizer in QUANTIZER_OF.items()
}
"""Of a pair: those of both operators, which share `axis` and `group_size`."""


def pair_translation(name: str, arguments: list[str]) -> Callable:
    """A function that emits the one node of the torch operator `name`; `arguments`: x, then the attributes."""
    emit = Op(Opset(DOMAIN, VERSION), name, _schema(name))

    def translate(x, *values, **keywords):
        given = dict(zip(arguments[1:], values, strict=False)) | keywords
        return emit(x, **{attr: kind(given[attr]) for attr, kind in _ATTRIBUTES[name].items()})

    return translate


def _schema(name: str) -> defs.OpSchema:
    """Not registered: what the exporter needs to tell the input from the attributes."""
    kinds = {int: defs.OpSchema.AttrType.INT, float: defs.OpSchema.AttrType.FLOAT}
    floats = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    return defs.OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=[defs.OpSchema.FormalParameter("x", "T")],
        outputs=[defs.OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", floats, "")],
        attributes=[defs.OpSchema.Attribute(attr, kinds[kind]) for attr, kind in _ATTRIBUTES[name].items()],
    )


def split_pairs(model: ir.Model) -> None:
    """mx_then_float_quant(x)   ->   MXFloatQuant(x, MXScale(x)), and the same of GroupwiseQuant.

    Quantizers of one tensor that find the same scale share it.
    """
    names = Names({value.name for node in model.graph.all_nodes() for value in node.outputs})
    for g in _graphs(model):
        scales: dict[tuple, ir.Value] = {}
        for node in list(g):
            if node.domain == DOMAIN and node.op_type in QUANTIZER_OF:
                _split(node, scales, names)


def _graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    yield from model.graphs()
    yield from model.functions.values()


def _split(node: ir.Node, scales: dict[tuple, ir.Value], names: Names) -> None:
    x, quantizer = node.inputs[0], QUANTIZER_OF[node.op_type]
    numbers = _attributes(node, "MXScale")
    found = (x, *(a.value for a in numbers.values()))
    if found not in scales:
        scale = ir.Node(DOMAIN, "MXScale", [x], numbers.values(), version=VERSION)
        scale.metadata_props.update(node.metadata_props)
        made = scales[found] = scale.outputs[0]
        made.name = names.unique(f"{node.outputs[0].name}_scale")
        made.type, made.shape = (
            ir.TensorType(ir.DataType.FLOAT),
            _contracted(x.shape, numbers["axis"].value, numbers["group_size"].value),
        )
        node.graph.insert_before(node, scale)
    attributes = _attributes(node, quantizer)
    node.attributes.clear()
    node.op_type, node.version = quantizer, VERSION
    node.attributes.update(attributes)
    node.resize_inputs(2)
    node.replace_input_with(1, scales[found])


def _attributes(node: ir.Node, op_type: str) -> dict[str, ir.Attr]:
    """Those of one of the two, in the order in which torch's exporter writes attributes: that of onnx's schema."""
    return {name: node.attributes[name] for name in defs.get_schema(op_type, VERSION, DOMAIN).attributes}


def _contracted(shape: ir.Shape | None, axis: int, group_size: int) -> ir.Shape | None:
    if shape is None:
        return None
    dims = list(shape)
    length = dims[axis]
    dims[axis] = -(-length // group_size) if isinstance(length, int) else f"({length} + {group_size - 1})//{group_size}"
    return ir.Shape(dims)
