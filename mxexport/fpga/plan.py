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
}


_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


class _Refused(Exception):
    """One node cannot be taken; carries the reason."""


def read_plan(model: ir.Model) -> list[Step]:
    """The steps of `model` in stream order.

    Raises:
        UnsupportedError: every node that cannot be lowered, with its name, the reason and a suggestion. What only
            follows from another refusal is not refused again.
    """
    g = model.graph
    _check_ends(g)
    walk = _Walk(g.inputs[0], _constant_nodes(g))
    for node in g:
        walk.take(node)
    walk.end(g.outputs[0])
    return walk.steps


def _check_ends(g: ir.Graph) -> None:
    if len(g.inputs) == 1 and len(g.outputs) == 1:
        return
    problems = [(f"input {v.name!r}", _why_input(g, v)) for v in g.inputs] if len(g.inputs) != 1 else []
    if len(g.outputs) != 1:
        made = [(v, f"of {_label(v.producer())}" if v.producer() else "an input") for v in g.outputs]
        problems += [(f"output {v.name!r}", f"{by}; export the model with one output") for v, by in made]
    raise UnsupportedError(
        f"compile: the graph has {len(g.inputs)} inputs and {len(g.outputs)} outputs; expected one of each", problems
    )


def _why_input(g: ir.Graph, value: ir.Value) -> str:
    if value.name in g.initializers:
        return "a parameter that whoever runs the file may replace; run mx.clean, which takes it out of the inputs"
    readers = [_label(node) for node in dict.fromkeys(value.consumers())]
    more = f" and {len(readers) - 3} more nodes" if len(readers) > 3 else ""
    return f"read by {', '.join(readers[:3]) or 'no node'}{more}; export the model with one input"


def _label(node: ir.Node) -> str:
    return f"node {node.name!r} ({node.op_type})"


def _constant_nodes(g: ir.Graph) -> list[ir.Node]:
    """Nodes that no input of the graph reaches and that are no part of a quantized weight."""
    varying, constant = set(g.inputs), []
    for node in g:
        if node.op_type.startswith("Random") or any(value in varying for value in node.inputs):
            varying.update(node.outputs)
        elif not _is_side(node):
            constant.append(node)
    return constant


class _Walk:
    """One pass over the nodes along the stream. It goes on behind what it refuses, so that one run names everything;
    `blocked` is the refused node whose step is missing where the stream stands."""

    def __init__(self, stream: ir.Value, constants: list[ir.Node]):
        self.stream, self.steps = stream, []
        self.problems: list[tuple[str, str]] = []
        self.blocked: ir.Node | None = None
        self.constants = set(constants)
        if constants:
            shown = ", ".join(_label(node).removeprefix("node ") for node in constants[:3])
            more = f" and {len(constants) - 3} more" if len(constants) > 3 else ""
            self.problems.append((f"node{'s' * (len(constants) > 1)} {shown}{more}", "compute constants; run mx.clean"))

    def take(self, node: ir.Node) -> None:
        if node in self.constants or _is_side(node):
            return
        try:
            step = _step(node, self)
        except _Refused as refusal:
            self.problems.append((_label(node), str(refusal)))
            self.blocked, step = node, None
        self.stream = node.outputs[0]
        if step is not None:
            self.steps.append(step)
            self.blocked = None

    def end(self, output: ir.Value) -> None:
        """Raises UnsupportedError for everything that was refused, or where no design is left."""
        if not self.problems and self.steps and isinstance(self.steps[-1], Quantize):
            why = "quantizes, and no matrix product follows; leave this quantizer to the host"
            self.problems.append((f"node {self.steps[-1].name!r}", why))
        if self.problems:
            raise UnsupportedError("compile: some nodes cannot be lowered to hardware", self.problems)
        if not any(isinstance(s, MatMul) for s in self.steps):
            raise UnsupportedError("compile: the graph holds no quantized matrix product")
        if self.stream is not output:
            maker = _label(output.producer()) if output.producer() else "the graph itself"
            raise UnsupportedError(
                f"compile: the output {output.name!r}, of {maker}, does not end the chain of layers; "
                f"that ends with {self.stream.name!r}"
            )


def _is_side(node: ir.Node) -> bool:
    """Beside the stream: a weight quantizer, a scale, a constant."""
    if graph.is_ours(node, graph.SCALES | graph.STORED_SCALES | {"GroupwiseZeroPoint"}) or graph.is_quantized_constant(
        node
    ):
        return True
    if node.op_type == "Constant":
        return True  # what reads it says whether it can
    weight = node.inputs[0] if node.op_type == "Transpose" else None
    return _weight_quantizer(weight) is not None or graph.constant(weight) is not None


def _step(node: ir.Node, walk: _Walk) -> Step | None:
    if graph.is_ours(node, graph.QUANTIZERS):
        return _activation(node, walk)
    if node.op_type in ("Gemm", "MatMul"):
        return _matmul(node, walk)
    _require_stream(node, walk.stream)
    if node.op_type == "Relu":
        return Relu(node.name, node.outputs[0].name)
    if node.op_type in ("Flatten", "Reshape", "Identity"):
        return _flatten(node)
    if node.op_type == "Add":
        return _bias(node, walk)
    raise _Refused(_SUGGESTIONS.get(node.op_type, "no hardware unit for this operator"))


def _require_stream(node: ir.Node, stream: ir.Value) -> None:
    if stream not in node.inputs:
        raise _Refused("does not follow the layer before it; branches are not lowered yet")


def _flatten(node: ir.Node) -> None:
    shape = node.outputs[0].shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        raise _Refused(f"output shape is {shape}; expected (batch, features) with a known number of features")


def _activation(node: ir.Node, walk: _Walk) -> Quantize:
    x, scale = node.inputs[0], node.inputs[1]
    producer = scale.producer()
    fmt = _mx_format(node)
    if not graph.is_ours(producer, {"MXScale"}):
        raise _Refused("the activation scale is not found at run time by MXScale; static scales are not lowered yet")
    if x is not walk.stream or producer.inputs[0] is not x:
        raise _Refused("does not follow the layer before it; branches are not lowered yet")
    if walk.blocked is None and walk.steps and isinstance(before := walk.steps[-1], Quantize):
        raise _Refused(f"quantizes what {before.name!r} has quantized already; one quantizer feeds a product")
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
        raise _Refused(
            f"format {fmt.name} has float scales, which need a multiplier per group; quantize with an MX format "
            "(power-of-two scales: mxint8, mxfp4_e2m1, …)"
        )
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


def _matmul(node: ir.Node, walk: _Walk) -> MatMul | None:
    x, w = node.inputs[0], node.inputs[1]
    if x is not walk.stream:
        raise _Refused("does not follow the layer before it; branches are not lowered yet")
    before = walk.steps[-1] if walk.steps and walk.blocked is None else None
    if not isinstance(before, Quantize) and not graph.is_ours(walk.blocked, graph.QUANTIZERS):
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
    if before is not None and fmt.group_size != before.format.group_size:
        raise _Refused(
            f"weight groups of {fmt.group_size} and activation groups of {before.format.group_size}; "
            "expected the same group size"
        )
    bias = None if bias is None else _per_output(bias, len(codes))
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


def _bias(node: ir.Node, walk: _Walk) -> None:
    stream, steps = walk.stream, walk.steps
    other = [v for v in node.inputs if v is not stream]
    bias = graph.constant(other[0]) if other else None
    if bias is not None and walk.blocked is not None and walk.blocked.op_type in _PRODUCTS:
        return
    if bias is None or not steps or not isinstance(steps[-1], MatMul) or steps[-1].bias is not None:
        raise _Refused("only the bias of a matrix product can be added; residual adds are not lowered yet")
    steps[-1].bias = _per_output(bias, len(steps[-1].codes))
    steps[-1].tensor = node.outputs[0].name


def _per_output(bias: np.ndarray, rows: int) -> np.ndarray:
    if bias.size not in (1, rows) or (bias.ndim and bias.shape[-1] != bias.size):
        raise _Refused(f"adds a constant of shape {bias.shape}; expected one value per output ({rows})")
    if not np.isfinite(bias).all():
        raise _Refused("its bias holds NaN or Inf")
    return np.broadcast_to(bias.reshape(-1), (rows,))
