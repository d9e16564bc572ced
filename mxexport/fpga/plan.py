"""Reads a QONNX graph as a chain of hardware units, or lists every node that stands in the way.

Taken today: a linear network. Flatten, MX quantization of weights and activations, Gemm or MatMul (+ Add of a bias),
ReLU; batch first; one input, one output.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import fixedpoint, graph, groups, numerics
from mxexport.constants import constant_array
from mxexport.errors import UnsupportedError
from mxexport.formats import GroupFormat


@dataclass
class Quantize:
    """Dynamic MX quantization of a stream of K values."""

    name: str
    format: GroupFormat
    round_bias: int
    code_min: int
    code_max: int
    source_tensor: str
    tensor: str
    length: int


@dataclass
class MatMul:
    """Weights as codes [O, K] (uint8 bit patterns) and E8M0 codes [O, n]; float bias [O] or None."""

    name: str
    format: GroupFormat
    codes: np.ndarray
    scale_codes: np.ndarray
    bias: np.ndarray | None
    tensor: str


@dataclass
class Relu:
    name: str
    tensor: str


Step = Quantize | MatMul | Relu

_SUGGESTIONS = {
    "Conv": "convolutions are not lowered yet; export a linear network",
    "Softmax": "apply it on the host; export the model up to the layer before it",
    "LogSoftmax": "apply it on the host; export the model up to the layer before it",
    "MaxPool": "pooling is not lowered yet; export a linear network",
    "BatchNormalization": "fold batch norm into the linear layer before training with quantization",
    "GroupwiseScale": "float scales need a multiplier per group; quantize with an MX format (mxint8, mxfp4_e2m1, …)",
}


class _Refused(Exception):
    """One node cannot be taken; carries the reason."""


def read_plan(model: ir.Model) -> list[Step]:
    """The steps of `model` in stream order.

    Raises:
        UnsupportedError: every node that cannot be lowered, with its name, the reason and a suggestion.
    """
    g, problems, steps = model.graph, [], []
    if len(g.inputs) != 1 or len(g.outputs) != 1:
        raise UnsupportedError(
            f"compile: the graph has {len(g.inputs)} inputs and {len(g.outputs)} outputs; expected one of each"
        )
    stream = g.inputs[0]
    for node in g:
        try:
            step = _step(node, stream, steps)
        except _Refused as refusal:
            problems.append((f"node {node.name!r} ({node.op_type})", str(refusal)))
            stream = node.outputs[0]  # go on behind it, so that one run names everything
            continue
        if step is _SIDE:
            continue
        stream = node.outputs[0]
        if step is not None:
            steps.append(step)
    if problems:
        raise UnsupportedError(f"compile: {len(problems)} nodes cannot be lowered to hardware", problems)
    if not any(isinstance(s, MatMul) for s in steps):
        raise UnsupportedError("compile: the graph holds no quantized matrix product")
    if stream is not g.outputs[0]:
        raise UnsupportedError(f"compile: the output {g.outputs[0].name!r} does not end the chain of layers")
    return steps


_SIDE = object()  # a node beside the stream: a weight quantizer, a scale


def _step(node: ir.Node, stream: ir.Value, steps: list[Step]):
    if graph.is_ours(node, {"MXScale"} | graph.STORED_SCALES) or graph.is_quantized_constant(node):
        return _SIDE
    if graph.is_ours(node, graph.QUANTIZERS):
        return _activation(node, stream)
    if node.op_type == "Transpose" and _weight_quantizer(node.inputs[0]) is not None:
        return _SIDE
    if node.op_type in ("Gemm", "MatMul"):
        return _matmul(node, stream, steps)
    _require_stream(node, stream)
    if node.op_type == "Relu":
        return Relu(node.name, node.outputs[0].name)
    if node.op_type in ("Flatten", "Reshape", "Identity"):
        return _flatten(node)
    if node.op_type == "Add":
        return _bias(node, stream, steps)
    raise _Refused(_SUGGESTIONS.get(node.op_type, "no hardware unit for this operator"))


def _require_stream(node: ir.Node, stream: ir.Value) -> None:
    if stream not in node.inputs:
        if not any(graph.constant(value) is None for value in node.inputs):
            raise _Refused("computes a constant; fold constants first")
        raise _Refused("does not follow the layer before it; branches are not lowered yet")


def _flatten(node: ir.Node) -> None:
    shape = node.outputs[0].shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        raise _Refused(f"output shape is {shape}; expected (batch, features) with a known number of features")


def _activation(node: ir.Node, stream: ir.Value) -> Quantize:
    x, scale = node.inputs[0], node.inputs[1]
    producer = scale.producer()
    fmt = _mx_format(node)
    if not graph.is_ours(producer, {"MXScale"}):
        raise _Refused("the activation scale is not found at run time by MXScale; static scales are not lowered yet")
    if x is not stream or producer.inputs[0] is not x:
        raise _Refused("does not follow the layer before it; branches are not lowered yet")
    shape, a = x.shape, graph.attributes(producer)
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        raise _Refused(f"input shape is {shape}; expected (batch, features) with a known number of features")
    if a["emax"] != fmt.element.emax or a["frac_bits"] != fmt.step_frac_bits:
        raise _Refused(f"its shared scale is not that of OCP {fmt.name} (emax {a['emax']}); not lowered yet")
    if groups.normalize_axis(a["axis"], 2) != 1:
        raise _Refused(f"groups run along axis {a['axis']}; expected the features, axis 1")
    return Quantize(
        name=node.name,
        format=fmt,
        round_bias=a["round_bias"],
        code_min=a["code_min"],
        code_max=a["code_max"],
        source_tensor=x.name,
        tensor=node.outputs[0].name,
        length=shape[1],
    )


def _mx_format(node: ir.Node) -> GroupFormat:
    fmt = graph.quantizer_format(node)
    if not fmt.is_mx:
        raise _Refused(f"format {fmt.name} has float scales; hardware takes MX formats (power-of-two scales)")
    if fmt.asymmetric or (node.op_type == "MXFloatQuant" and not graph.attributes(node)["signed"]):
        raise _Refused(f"format {fmt.name} is unsigned; hardware takes signed MX formats")
    if node.op_type == "GroupwiseQuant" and not graph.attributes(node)["narrow"]:
        lowest = -(2 ** (fmt.element.bits - 1))
        raise _Refused(f"its codes reach {lowest}; hardware codes stay within +-{-lowest - 1} (narrow range)")
    if fmt.group_size & (fmt.group_size - 1):
        raise _Refused(f"group size {fmt.group_size} is not a power of two")
    return fmt


def _weight_quantizer(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if graph.is_quantized_constant(node) else None


def _matmul(node: ir.Node, stream: ir.Value, steps: list[Step]) -> MatMul:
    x, w = node.inputs[0], node.inputs[1]
    if x is not stream:
        raise _Refused("does not follow the layer before it; branches are not lowered yet")
    if not steps or not isinstance(steps[-1], Quantize):
        raise _Refused("its input is not quantized; give quantize_model an MX activation format")
    transposed = False
    if w.producer() is not None and w.producer().op_type == "Transpose":
        transposed, w = True, w.producer().inputs[0]
    quantizer = _weight_quantizer(w)
    if quantizer is None:
        raise _Refused("its weight is not a quantized initializer; give quantize_model an MX weight format")
    bias = None
    if node.op_type == "Gemm":
        a = {name: attr.value for name, attr in node.attributes.items()}
        if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0 or a.get("transA", 0):
            raise _Refused("Gemm with alpha, beta or transA is not lowered")
        transposed ^= bool(a.get("transB", 0))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = graph.constant(node.inputs[2])
            if bias is None:
                raise _Refused("its bias is not an initializer")
    fmt, codes, scale_codes = _weights(quantizer, 1 if transposed else 0)
    if fmt.group_size != steps[-1].format.group_size:
        raise _Refused(
            f"weight groups of {fmt.group_size} and activation groups of {steps[-1].format.group_size}; "
            "expected the same group size"
        )
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), (len(codes),))
    return MatMul(node.name, fmt, codes, scale_codes, bias, node.outputs[0].name)


def _weights(quantizer: ir.Node, reduction_axis: int) -> tuple[GroupFormat, np.ndarray, np.ndarray]:
    """Codes [O, K] and scale codes [O, n] of a quantized weight whose reduction axis is given."""
    fmt = _mx_format(quantizer)
    values = constant_array(quantizer.outputs[0])
    scale = constant_array(quantizer.inputs[1])
    axis = groups.normalize_axis(quantizer.attributes["axis"].value, values.ndim)
    if axis != reduction_axis:
        raise _Refused(f"weight groups run along axis {axis}; expected the reduction axis {reduction_axis}")
    groups.check_scale_shape(f"node {quantizer.name!r}", scale.shape, values.shape, axis, fmt.group_size)
    if not np.isfinite(values).all():
        raise _Refused(f"its quantized weight {quantizer.name!r} holds NaN or Inf")
    scale_codes = numerics.codes_from_scale(scale, fmt.step_frac_bits)
    codes = numerics.element_codes(values, scale, None, fmt, axis)  # they are codes times scales: no rounding is left
    if (numerics.Quantized(fmt, axis, values.shape, codes, scale).dequantize() != values).any():
        raise _Refused(f"its quantized weight {quantizer.name!r} holds codes that no {fmt.name} quantizer makes")
    codes = groups.from_groups(codes, axis, values.shape[axis]).view(np.uint8)
    codes = codes & np.uint8(2**fmt.element.bits - 1)
    if axis == 0:
        codes, scale_codes = codes.T, scale_codes.T
    table = fixedpoint.linear_table(**_table_parameters(fmt))
    return fmt, codes, _lift_zero_blocks(table[codes] != 0, scale_codes, fmt.group_size)


def _table_parameters(fmt: GroupFormat) -> dict[str, int]:
    parameters = fixedpoint.element_parameters(fmt.element)
    return {name: parameters[name] for name in ("exponent_bits", "mantissa_bits")}


def _lift_zero_blocks(nonzero: np.ndarray, scale_codes: np.ndarray, group_size: int) -> np.ndarray:
    """Blocks of zeros take the lowest scale code in use, so that they do not widen the accumulator."""
    used = groups.to_groups(nonzero, 1, group_size).any(axis=2)
    lowest = scale_codes[used].min() if used.any() else np.uint8(127)
    return np.where(used, scale_codes, lowest)


def _bias(node: ir.Node, stream: ir.Value, steps: list[Step]) -> None:
    other = [v for v in node.inputs if v is not stream]
    bias = graph.constant(other[0]) if other else None
    if bias is None or not steps or not isinstance(steps[-1], MatMul) or steps[-1].bias is not None:
        raise _Refused("only the bias of a matrix product can be added; residual adds are not lowered yet")
    rows = len(steps[-1].codes)
    if bias.size not in (1, rows) or (bias.ndim and bias.shape[-1] != bias.size):
        raise _Refused(f"adds a constant of shape {bias.shape}; expected one value per output ({rows})")
    steps[-1].bias = np.broadcast_to(bias.reshape(-1), (rows,))
    steps[-1].tensor = node.outputs[0].name
