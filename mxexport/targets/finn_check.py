"""FINN's conditions on a QONNX model, as its published source states them (not run in FINN)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport import graph
from mxexport.constants import constant_array
from mxexport.ops import qonnx_general

_OPERATORS = {
    "MatMul", "Conv", "Add", "Mul", "Relu", "MaxPool", "Flatten", "Reshape", "Transpose", "BatchNormalization",
}  # fmt: skip
_MOVES = {"MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"}
_HIGHEST_OPSET = 17
_MOST_THRESHOLD_BITS = 8


def check_finn(model: ir.Model) -> list[tuple[str, str]]:
    """(node or tensor name, what FINN would fail on or get wrong) for everything found; empty when nothing is."""
    problems = []
    opset = model.opset_imports.get("", 0)
    if opset > _HIGHEST_OPSET:
        problems.append(("model", f"opset {opset}; FINN's passes know opsets up to {_HIGHEST_OPSET}"))
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is None or not all(isinstance(d, int) for d in value.shape):
            problems.append((value.name, f"shape {value.shape} is open; give every dimension a size (batch=1)"))
    for value in model.graph.initializers.values():
        if value.dtype not in (ir.DataType.FLOAT, ir.DataType.INT64):
            problems.append((value.name, f"its type is {value.dtype}; FINN reads float32 (and int64 shapes) only"))
    for node in model.graph:
        problems += [(node.name, why) for why in _check_node(node)]
    return problems


def _check_node(node: ir.Node) -> list[str]:
    if node.domain == qonnx_general.DOMAIN and node.op_type == "Quant":
        common = _check_parameters(node)
        weight = constant_array(node.inputs[0]) is not None
        return common or (_check_weight(node) if weight else _check_activation(node))
    if graph.is_ours(node, {node.op_type}) or node.domain == qonnx_general.DOMAIN:
        return [f"FINN does not know {node.op_type} of {node.domain}"]
    if node.domain != "" or node.op_type not in _OPERATORS:
        return [f"FINN has no streaming unit for {node.op_type}; end the model before it or replace it"]
    if node.op_type in {"MatMul", "Conv"}:
        return _check_product(node)
    if node.op_type == "Relu" and {user.op_type for user, _ in node.outputs[0].uses()} != {"Quant"}:
        return ["a Relu becomes thresholds only together with the Quant directly behind it; quantize its output"]
    return []


def _check_parameters(node: ir.Node) -> list[str]:
    scale, zero, bits = (constant_array(v) for v in node.inputs[1:4])
    if scale is None or zero is None or bits is None:
        return ["scale, zero point and bit width must be constants"]
    if zero.size != 1 or zero.flat[0] != 0:
        return ["only a single zero point of 0 is taken"]
    if bits.size != 1 or bits.flat[0] != int(bits.flat[0]):
        return ["the bit width must be one whole number"]
    mode = node.attributes["rounding_mode"].value if "rounding_mode" in node.attributes else "ROUND"
    return [] if mode == "ROUND" else [f"rounding mode {mode}; thresholds are made for ROUND"]


def _check_weight(node: ir.Node) -> list[str]:
    users = [user for user, _ in node.outputs[0].uses()]
    if len(users) != 1:
        return [f"a weight quantizer must feed one node; this one feeds {len(users)}"]
    if users[0].op_type not in {"MatMul", "Conv"}:
        return [f"a quantized constant must be the weight of MatMul or Conv, not of {users[0].op_type}"]
    scale, weight = constant_array(node.inputs[1]), constant_array(node.inputs[0])
    full = np.broadcast_to(scale, weight.shape)
    channel = 0 if users[0].op_type == "Conv" else weight.ndim - 1
    if (full != full.max(tuple(i for i in range(weight.ndim) if i != channel), keepdims=True)).any():
        return ["its scale varies inside an output channel: FINN moves it behind the product, silently wrong"]
    if scale.size > 1 and scale.shape != tuple(-1 if i == channel else 1 for i in range(weight.ndim)):
        expected = [weight.shape[channel] if i == channel else 1 for i in range(weight.ndim)]
        if list(scale.shape) != expected:
            return [f"its scale has shape {scale.shape}, expected {tuple(expected)}"]
    return []


def _check_activation(node: ir.Node) -> list[str]:
    found = []
    defaults = {"signed": 1, "narrow": 0}
    signed, narrow = (node.attributes[n].value if n in node.attributes else defaults[n] for n in defaults)
    before = node.inputs[0].producer()
    after_relu = before is not None and before.op_type == "Relu"
    bits = int(constant_array(node.inputs[3]).flat[0])
    if constant_array(node.inputs[1]).size != 1:
        found.append("one scale per tensor is needed: scales of channels do not pass the next product")
    if bits > _MOST_THRESHOLD_BITS:
        found.append(f"{bits} bits; only up to {_MOST_THRESHOLD_BITS} become thresholds")
    if after_relu and (signed or narrow):
        found.append("after Relu it must be unsigned and not narrow")
    if not after_relu and not signed:
        found.append("where no Relu is directly before it, it must be signed")
    return found


def _check_product(node: ir.Node) -> list[str]:
    found = []
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        found.append("its bias must be an Add of its own")
    weight = node.inputs[1].producer()
    if weight is None or weight.op_type != "Quant":
        found.append("its weight is not quantized; FINN's matrix units take integers")
    value = node.inputs[0]
    while (producer := value.producer()) is not None and producer.op_type in _MOVES:
        value = producer.inputs[0]
    if producer is None or producer.op_type != "Quant":
        found.append("its input is not quantized; FINN's matrix units take integers")
    return found
