"""QONNX within FINN's conditions: opset 17, weights with one step per output channel, activations with one step.

Groups disappear by the wide fold: codes * 2**e of all groups of an output channel are integers of one finer step.
Nothing here ran in FINN itself; `check_finn` holds what its source asks for.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass, ShapeInferencePass

from mxexport import graph
from mxexport.constants import constant_array
from mxexport.errors import UnsupportedError
from mxexport.ops import qonnx_general
from mxexport.opsets import lower_opset
from mxexport.targets import Converted
from mxexport.targets._fixed import PRODUCTS
from mxexport.targets._integers import grid_of
from mxexport.targets._layers import (
    constant_weight,
    extract_conv_bias,
    open_gemm,
    replace_value,
    store_constants,
    weight_parts,
)
from mxexport.targets._qcdq import explain, with_our_quantizers
from mxexport.targets._quantizers import (
    Uniform,
    add_constant,
    add_quant,
    check_reproduced,
    is_quantizer,
    read_activation,
)
from mxexport.targets._trunc import replace_trunc
from mxexport.targets.finn_check import check_finn, nodes_without_units

OPSET, IR_VERSION = 17, 8
_MOVERS = {"MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"}
_WHOLE = (
    (
        "model",
        "not tested in FINN, which cannot be installed beside mxexport; check_finn holds its published conditions",
    ),
    ("model", "FINN's thresholds round ties up where Quant rounds them to even: codes may differ at exact ties"),
)


def convert(model: ir.Model, *, batch: int = 1, max_weight_bits: int = 32) -> Converted:
    """A copy of `model` for FINN at opset 17; notes tell how each weight was folded. QuantizeLinear and
    DequantizeLinear are read as our quantizers first.

    batch: size given to an open first dimension (FINN wants every shape known).

    Raises:
        UnsupportedError: layers that do not fit, all of them, each with the way out.
    """
    (work, left), notes = with_our_quantizers(model, batch), [*_WHOLE]
    problems: list[tuple[str, str]] = []
    changes = ((replace_trunc, "FINN"), (_replace_activation,), (_replace_weight, max_weight_bits, notes))
    for change, *options in changes:
        for node in list(work.graph):
            try:
                change(node, *options)
            except UnsupportedError as error:
                problems.append((node.name, str(error)))
    if problems:
        problems = explain(problems + nodes_without_units(work), left, work)
        raise UnsupportedError("finn: the model cannot be converted", problems)
    RemoveUnusedNodesPass()(work)
    work.functions.clear()
    store_constants(work, {"Add", "Mul"})
    lower_opset(work, OPSET)
    graph.attach_standard_functions(work)
    RemoveUnusedOpsetsPass()(work)
    if qonnx_general.DOMAIN in work.opset_imports:
        work.opset_imports[qonnx_general.DOMAIN] = 1
    work.ir_version = IR_VERSION
    ShapeInferencePass()(work)
    if problems := check_finn(work):
        raise UnsupportedError("finn: the model does not meet FINN's conditions", explain(problems, left, work))
    return Converted(work, notes)


def _replace_activation(node: ir.Node) -> None:
    if not is_quantizer(node) or constant_array(node.inputs[0]) is not None:
        return
    found = read_activation(node)
    _move_up(node)
    before = node.inputs[0].producer()
    if before is not None and before.domain == "" and before.op_type == "Relu" and found.signed:
        found = Uniform(found.scale, found.bits - 1, False, False)  # the same codes: none is negative
    made = add_quant(node, node.inputs[0], node.name, found.scale, found.bits, found.signed, found.narrow)
    replace_value(node.outputs[0], made)
    node.graph.remove(node, safe=True)


def _move_up(node: ir.Node) -> None:
    """MaxPool(x) -> Quant becomes Quant(x) -> MaxPool, likewise for what only moves values.

    FINN joins a Relu with the Quant directly behind it. With one step per tensor both orders give the same codes.
    """
    g = node.graph
    while (mover := node.inputs[0].producer()) is not None and mover.domain == "" and mover.op_type in _MOVERS:
        if len(mover.outputs) > 1 or mover.outputs[0].is_graph_output() or len(mover.outputs[0].uses()) > 1:
            return
        x, moved, out = mover.inputs[0], mover.outputs[0], node.outputs[0]
        g.remove(node)
        g.insert_before(mover, node)
        replace_value(out, moved)
        node.replace_input_with(0, x)
        mover.replace_input_with(0, out)
        out.name, out.shape, out.type = f"{moved.name}_codes", x.shape, x.type


def _replace_weight(node: ir.Node, most: int, notes: list) -> None:
    if node.domain != "" or node.op_type not in PRODUCTS:
        return
    name = node.name
    constant_weight(node, "FINN")
    if node.op_type == "Conv":
        extract_conv_bias(node)
    node = open_gemm(node) if node.op_type == "Gemm" else node
    steps, bits, how = _channel_steps(node)
    if bits > most:
        way_out = f"use an integer format, or elements and scales of a smaller range, or allow max_weight_bits={bits}"
        raise UnsupportedError(f"its weight needs {bits}-bit integers, more than max_weight_bits={most}; {way_out}")
    weight = constant_array(node.inputs[1])
    values = add_constant(node.graph, f"{name}_weight_values", weight)
    made = add_quant(node, values, f"{name}_weight", steps, bits, True, False)
    check_reproduced(made, weight, bits)
    node.replace_input_with(1, made)
    notes.append((name, f"weights are {bits}-bit integers, one step per output channel ({how})"))


def _channel_steps(node: ir.Node) -> tuple[np.ndarray, int, str]:
    """Steps that broadcast to the weight, bits of the integers, and what was done to have them."""
    weight = constant_array(node.inputs[1])
    channel = 0 if node.op_type == "Conv" else weight.ndim - 1
    others = tuple(i for i in range(weight.ndim) if i != channel)
    parts = weight_parts(node.inputs[1])
    if parts is not None:
        lowest = parts.steps.min(others, keepdims=True)
        if (parts.steps == lowest).all():
            return lowest.astype(np.float32), parts.grid.bits, "its own"
    grids = [grid_of(column) for column in np.moveaxis(weight, channel, 0)]
    steps = np.ldexp(np.float32(1), [grid.exponent for grid in grids]).astype(np.float32)
    shape = [-1 if i == channel else 1 for i in range(weight.ndim)]
    bits = max(grid.magnitude.bit_length() + 1 for grid in grids)
    return steps.reshape(shape), max(bits, 2), "wide fold"
