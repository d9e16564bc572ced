"""Models of one quantizer, and of whole networks, for the tests of `mxexport.targets`."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from mxexport import ops
from mxexport.model import graph
from mxexport.numbers import groups, numerics
from mxexport.numbers.formats import get_format
from mxexport.numbers.scales import scale_of


def quantizer_model(name: str, x: np.ndarray, axis: int, *, weight: bool, static: bool = False) -> ir.Model:
    """x -> quantizer -> y. `weight`: x is constant; `static`: x is an input and the scale constant."""
    fmt = get_format(name)
    op = ops.MXFloatQuant if fmt.is_float else ops.GroupwiseQuant
    common = {"axis": axis, "group_size": fmt.group_size}
    nodes, inits = [], []
    if weight:
        inits.append(numpy_helper.from_array(x, "w"))
    source = "w" if weight else "x"
    if weight or static:
        scale, zero = scales(fmt, x, axis)
        inits.append(numpy_helper.from_array(scale, "w_scale"))
        if zero is not None:
            inits.append(numpy_helper.from_array(zero, "w_zero_point"))
        inputs = [source, "w_scale"] + (["w_zero_point"] if zero is not None else [])
    else:
        inputs = [source, "s"] + (["z"] if fmt.asymmetric else [])
        nodes = _scale_nodes(fmt, common)
    attributes = common | op.attributes_of(fmt.element)
    nodes.append(helper.make_node(op.op_type(), inputs, ["y"], domain=ops.DOMAIN, name="w_quant", **attributes))
    nodes[-1].metadata_props.add(key=graph.FORMAT_KEY, value=fmt.name)
    shape = [None, *x.shape[1:]]
    inputs = [] if weight else [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape if weight else shape)]
    return load(helper.make_graph(nodes, "g", inputs, outputs, inits))


def scales(fmt, x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray | None]:
    if fmt.is_mx:
        return numerics.mx_scale(x, axis, fmt.group_size, fmt.element.emax, 0, fmt.step_frac_bits), None
    with np.errstate(all="ignore"):
        scale = scale_of(x, fmt, axis, fmt.group_size)
    levels = fmt.element.max_val
    zero = numerics.groupwise_zero_point(x, scale, axis, fmt.group_size, levels) if fmt.asymmetric else None
    return scale, zero


def _scale_nodes(fmt, common: dict) -> list[onnx.NodeProto]:
    def make(op, inputs, output, **attributes):
        return helper.make_node(op, inputs, [output], domain=ops.DOMAIN, name=f"n_{output}", **common, **attributes)

    if fmt.is_mx:
        limits = {"round_bias": 0, "code_min": 0, "code_max": 254}
        return [make("MXScale", ["x"], "s", emax=fmt.element.emax, frac_bits=fmt.step_frac_bits, **limits)]
    levels = float(fmt.element.max_val)
    nodes = [make("GroupwiseScale", ["x"], "s", levels=levels, asymmetric=int(fmt.asymmetric))]
    return nodes + ([make("GroupwiseZeroPoint", ["x", "s"], "z", levels=levels)] if fmt.asymmetric else [])


def load(g: onnx.GraphProto, opset: int = 20) -> ir.Model:
    """An onnx-ir model with shapes and the function bodies it needs."""
    imports = [helper.make_opsetid("", opset)]
    if any(n.domain == ops.DOMAIN for n in g.node):
        imports.append(helper.make_opsetid(ops.DOMAIN, ops.VERSION))
    proto = helper.make_model(g, opset_imports=imports, ir_version=10)
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    graph.attach_functions(model)
    return model


def standard_quantizer(codes_or_x: np.ndarray, arrays: dict, attributes: dict, *, weight: bool, clip=None, opset=21):
    """DequantizeLinear on constant codes, or the pair QuantizeLinear, DequantizeLinear on an input."""
    inits = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    tail = list(arrays)
    nodes, source = [], "codes"
    if weight:
        inits.append(numpy_helper.from_array(codes_or_x, "codes"))
    else:
        nodes.append(helper.make_node("QuantizeLinear", ["x", *tail], ["q"], name="q", **attributes))
        source = "q"
    if clip:
        inits += [numpy_helper.from_array(np.int8(v), f"end{i}") for i, v in enumerate(clip)]
        nodes.append(helper.make_node("Clip", [source, "end0", "end1"], ["c"], name="c"))
        source = "c"
    attributes = {k: v for k, v in attributes.items() if k in ("axis", "block_size")}
    nodes.append(helper.make_node("DequantizeLinear", [source, *tail], ["y"], name="dq", **attributes))
    inputs = [] if weight else [helper.make_tensor_value_info("x", TensorProto.FLOAT, codes_or_x.shape)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, codes_or_x.shape)
    return load(helper.make_graph(nodes, "g", inputs, [output], inits), opset)


def formats_of(model: ir.Model) -> dict[str, str]:
    """Name -> format of every quantizer of ours; packed weights under the name they had before."""
    nodes = [n for n in model.graph if graph.is_ours(n, graph.QUANTIZERS | graph.DEQUANTIZERS)]
    return {n.name.replace("_dequant", "_quant"): n.metadata_props[graph.FORMAT_KEY] for n in nodes}


def edge_tensor(shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Edge values with groups of every kind along `axis`."""
    from tests.helpers import edge_values

    rows = max(16, int(np.prod(shape)) // shape[axis])
    x = edge_values((rows, shape[axis]))[: int(np.prod(shape)) // shape[axis]]
    others = [n for i, n in enumerate(shape) if i != axis]
    return np.ascontiguousarray(np.moveaxis(x.reshape(*others, shape[axis]), -1, axis))


def contracted(shape, axis, size):
    return groups.contracted_shape(shape, axis, size)
