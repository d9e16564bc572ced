"""FINN's conditions on a QONNX model; what meets them is run through FINN+'s own steps by tests/finn."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model.constants import constant_array
from mxexport.model.rewriting import SHAPE_OPERATORS
from mxexport.ops import qonnx_general
from mxexport.targets._requantizers import quantizer_before

_OPERATORS = {
    "MatMul", "Conv", "Add", "Mul", "Relu", "MaxPool", "Flatten", "Reshape", "Transpose", "BatchNormalization",
}  # fmt: skip
_CONVERTED = {"Gemm", "Constant"} | SHAPE_OPERATORS  # gone when converted
_MOVES = {"MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"}
_QUANT = (qonnx_general.DOMAIN, "Quant")
LOWEST_OPSET, HIGHEST_OPSET = qonnx_general.LOWEST_OPSET, 21
_MOST_THRESHOLD_BITS = 8


def check_finn(model: ir.Model) -> list[tuple[str, str]]:
    """(node or tensor name, what FINN would fail on or get wrong) for everything found; empty when nothing is."""
    problems = []
    opset = model.opset_imports.get("", 0)
    if opset > HIGHEST_OPSET:
        found = f"its opset is {opset}, expected at most {HIGHEST_OPSET}: FINN+ was run with no later one"
        problems.append(("model", f"{found}; convert the file with to='finn', which lowers it"))
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is None or not all(isinstance(d, int) for d in value.shape):
            found = "is not known" if value.shape is None else f"{value.shape} is open"
            problems.append((value.name, f"its shape {found}, expected a size for every dimension; give batch=1"))
    if len(model.graph.outputs) != 1:
        found = f"it has {len(model.graph.outputs)} outputs, expected one, with which FINN's dataflow partition ends"
        problems.append(("model", f"{found}; export the model with one output"))
    for value in model.graph.initializers.values():
        if value.dtype not in (ir.DataType.FLOAT, ir.DataType.INT64):
            found = f"its type is {value.dtype}, expected float32 (int64 for shapes), all FINN reads"
            problems.append((value.name, f"{found}; store it as float32"))
    for node in model.graph:
        problems += [(node.name or node.op_type, why) for why in _check_node(node)]
    return problems


def _check_node(node: ir.Node) -> list[str]:
    if (node.domain, node.op_type) == _QUANT:
        return _check_parameters(node) or (
            _check_activation(node) if constant_array(node.inputs[0]) is None else _check_weight(node)
        )
    if node.domain != "":
        return [f"FINN does not know {node.op_type} of {node.domain}, expected Quant; convert the file with to='finn'"]
    if node.op_type not in _OPERATORS:
        return [_no_unit(node)]
    if node.op_type in {"MatMul", "Conv"}:
        return _check_product(node)
    if node.op_type == "Relu":
        return _check_relu(node)
    if node.op_type == "MaxPool":
        return _check_pool(node)
    return _check_constants(node) if node.op_type in {"Add", "Mul"} else []


def nodes_without_units(model: ir.Model) -> list[tuple[str, str]]:
    """The same of standard operators alone, in a model that is not converted yet."""
    return [
        (node.name or node.op_type, _no_unit(node))
        for node in model.graph
        if node.domain == "" and node.op_type not in _OPERATORS | _CONVERTED
    ]


def _no_unit(node: ir.Node) -> str:
    expected = f"expected one of {', '.join(sorted(_OPERATORS))}"
    return f"FINN has no streaming unit for {node.op_type}, {expected}; end the model before it or replace it"


def _check_relu(node: ir.Node) -> list[str]:
    users = {user.op_type for user, _ in node.outputs[0].uses()}
    if users == {"Quant"} and not node.outputs[0].is_graph_output():
        return []
    found = f"its output goes to {', '.join(sorted(users)) or 'the end of the model'}"
    return [f"{found}, expected Quant alone, with which a Relu becomes thresholds; quantize its output"]


def _check_constants(node: ir.Node) -> list[str]:
    arrays = [constant_array(v) for v in node.inputs]
    if all(np.isfinite(array).all() for array in arrays if array is not None):
        return []
    return ["it holds a constant with NaN or Inf, expected finite numbers; repair it before the export"]


def _check_parameters(node: ir.Node) -> list[str]:
    names = ("scale", "zero point", "bit width")
    found = dict(zip(names, (constant_array(v) for v in node.inputs[1:4]), strict=False))
    missing = [name for name in names if found.get(name) is None]
    if missing:
        return [f"its {', '.join(missing)} is found at run time, expected constants; use static scales"]
    _, zero, bits = found.values()
    if zero.size != 1 or zero.flat[0] != 0:
        return [f"its zero point is {_first(zero)}, expected a single 0; quantize symmetrically"]
    if bits.size != 1 or bits.flat[0] not in range(1, 65):
        return [f"its bit width is {_first(bits)}, expected one whole number; give all channels the same"]
    mode = qonnx_general.rounding_mode_of(node)
    expected = "expected ROUND, for which thresholds are made; train the model with that"
    return [] if mode == "ROUND" else [f"its rounding mode is {mode}, {expected}"]


def _first(array: np.ndarray) -> str:
    shown = ", ".join(f"{number:g}" for number in array.reshape(-1)[:3])
    return shown + ", ..." * (array.size > 3)


def _check_weight(node: ir.Node) -> list[str]:
    users = [user for user, _ in node.outputs[0].uses()]
    if len(users) != 1:
        return [f"it quantizes a weight for {len(users)} nodes, expected one; give each layer a quantizer of its own"]
    if users[0].op_type not in {"MatMul", "Conv"}:
        found = f"it quantizes a constant of {users[0].op_type} {users[0].name!r}"
        return [f"{found}, expected the weight of MatMul or Conv; store the quantized values themselves"]
    scale, weight = constant_array(node.inputs[1]), constant_array(node.inputs[0])
    channel = 0 if users[0].op_type == "Conv" else weight.ndim - 1
    expected = tuple(n if i == channel else 1 for i, n in enumerate(weight.shape))
    if scale.size == 1 or scale.shape == expected:
        return []
    one_each = f"expected {expected}, one per output channel; convert the file with to='finn'"
    if _varies_in_channel(scale, weight.shape, channel):
        found = "its scale varies inside an output channel, which FINN moves behind the product, silently wrong"
        return [f"{found}: its shape is {scale.shape}, {one_each}"]
    return [f"its scale has shape {scale.shape}, {one_each}"]


def _varies_in_channel(scale: np.ndarray, shape: tuple[int, ...], channel: int) -> bool:
    full = np.broadcast_to(scale, shape)
    return bool((full != full.max(tuple(i for i in range(len(shape)) if i != channel), keepdims=True)).any())


def _check_activation(node: ir.Node) -> list[str]:
    found = []
    defaults = {"signed": 1, "narrow": 0}
    signed, narrow = (node.attributes[n].value if n in node.attributes else defaults[n] for n in defaults)
    before = node.inputs[0].producer()
    after_relu = before is not None and before.op_type == "Relu"
    bits, scale = int(constant_array(node.inputs[3]).flat[0]), constant_array(node.inputs[1])
    if scale.size != 1:
        expected = "expected one per tensor: scales of channels do not pass the next product"
        found.append(f"it has {scale.size} scales, {expected}; use scaling_per_output='tensor'")
    if bits > _MOST_THRESHOLD_BITS:
        expected = f"expected at most {_MOST_THRESHOLD_BITS}: each level becomes a threshold"
        found.append(f"it has {bits} bits, {expected}; use a narrower format")
    if after_relu and (signed or narrow):
        was = " and ".join(name for name, given in (("signed", signed), ("narrow", narrow)) if given)
        found.append(f"it is {was} behind a Relu, expected unsigned and not narrow; convert the file with to='finn'")
    if not after_relu and not signed and not _never_negative(node.inputs[0]):
        found.append("it is unsigned without a Relu directly before it, expected signed; use a signed format")
    return found


def _never_negative(value: ir.Value) -> bool:
    """Values of an unsigned quantizer, moved or not."""
    first = quantizer_before(value)
    return first is not None and "signed" in first.attributes and not first.attributes["signed"].value


def _check_pool(node: ir.Node) -> list[str]:
    found, readers = _check_image(node), {reader for reader, _ in node.outputs[0].uses()}
    if quantizer_before(node.inputs[0]) is None:
        what = _not_integers(node.inputs[0]).replace("units take", "pools take")
        found.append(
            f"its input {what}; quantize in front of the pool, with nothing but a Relu behind the layer before"
        )
    if len(readers) > 1:
        where = ", ".join(sorted(reader.name or reader.op_type for reader in readers))
        expected = "expected one: FINN cannot turn a pool in front of a fork to channels last"
        found.append(
            f"its output goes to {where}, {expected}; pool behind the place where the branches join, or use a "
            "convolution with stride 2 in each"
        )
    return found


def _check_image(node: ir.Node) -> list[str]:
    shape = node.inputs[0].shape
    if shape is None or len(shape) == 4:
        return []
    found = f"its input has {max(len(shape) - 2, 0)} spatial dimensions, expected 2, which FINN's units run over"
    return [f"{found}; give the model images, [batch, channels, 1, length] for sequences"]


def _check_product(node: ir.Node) -> list[str]:
    found = _check_image(node) if node.op_type == "Conv" else []
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        found.append("it has a bias of its own, expected an Add behind it; convert the file with to='finn'")
    weight = node.inputs[1].producer()
    if weight is None or weight.op_type != "Quant":
        found.append(f"its weight {_not_integers(node.inputs[1])}; quantize the layer's weight")
    value = node.inputs[0]
    while (producer := value.producer()) is not None and producer.op_type in _MOVES:
        value = producer.inputs[0]
    if producer is None or producer.op_type != "Quant":
        found.append(f"its input {_not_integers(value)}; give the layer a static integer activation format")
    return found


def _not_integers(value: ir.Value) -> str:
    maker = value.producer()
    source = f"tensor {value.name!r}" if maker is None else f"{maker.op_type} {maker.name!r}"
    return f"comes from {source}, expected Quant: FINN's units take integers"
