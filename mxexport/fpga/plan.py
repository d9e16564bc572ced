"""Reads a QONNX graph as a chain of hardware units, or lists every node that stands in the way.

Taken today: a linear network. Flatten, MX quantization of weights and activations, Gemm or MatMul (+ Add of a bias),
ReLU; batch first; one input, one output.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.errors import UnsupportedError
from mxexport.fpga.ends import check_ends, constant_nodes, is_side, label
from mxexport.fpga.weights import Refused, mx_format, read_weight, weight_quantizer
from mxexport.model import graph
from mxexport.numbers import groups
from mxexport.numbers.formats import GroupFormat


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


def read_plan(model: ir.Model) -> list[Step]:
    """The steps of `model` in stream order.

    Raises:
        UnsupportedError: every node that cannot be lowered, with its name, the reason and a suggestion. What only
            follows from another refusal is not refused again.
    """
    g = model.graph
    check_ends(g)
    walk = _Walk(g.inputs[0], constant_nodes(g))
    for node in g:
        walk.take(node)
    walk.end(g.outputs[0])
    return walk.steps


class _Walk:
    """One pass over the nodes along the stream. It goes on behind what it refuses, so that one run names everything;
    `blocked` is the refused node whose step is missing where the stream stands."""

    def __init__(self, stream: ir.Value, constants: list[ir.Node]):
        self.stream, self.steps = stream, []
        self.problems: list[tuple[str, str]] = []
        self.blocked: ir.Node | None = None
        self.constants = set(constants)
        if constants:
            shown = ", ".join(label(node).removeprefix("node ") for node in constants[:3])
            more = f" and {len(constants) - 3} more" if len(constants) > 3 else ""
            self.problems.append((f"node{'s' * (len(constants) > 1)} {shown}{more}", "compute constants; run mx.clean"))

    def take(self, node: ir.Node) -> None:
        if node in self.constants or is_side(node):
            return
        try:
            step = _step(node, self)
        except Refused as refusal:
            self.problems.append((label(node), str(refusal)))
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
            maker = label(output.producer()) if output.producer() else "the graph itself"
            raise UnsupportedError(
                f"compile: the output {output.name!r}, of {maker}, does not end the chain of layers; "
                f"that ends with {self.stream.name!r}"
            )


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
    raise Refused(_SUGGESTIONS.get(node.op_type, "no hardware unit for this operator"))


def _require_stream(node: ir.Node, stream: ir.Value) -> None:
    if stream not in node.inputs:
        raise Refused("does not follow the layer before it; branches are not lowered yet")


def _flatten(node: ir.Node) -> None:
    shape = node.outputs[0].shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        raise Refused(f"output shape is {shape}; expected (batch, features) with a known number of features")


def _activation(node: ir.Node, walk: _Walk) -> Quantize:
    x, scale = node.inputs[0], node.inputs[1]
    producer = scale.producer()
    fmt = mx_format(node)
    if not graph.is_ours(producer, {"MXScale"}):
        raise Refused("the activation scale is not found at run time by MXScale; static scales are not lowered yet")
    if x is not walk.stream or producer.inputs[0] is not x:
        raise Refused("does not follow the layer before it; branches are not lowered yet")
    if walk.blocked is None and walk.steps and isinstance(before := walk.steps[-1], Quantize):
        raise Refused(f"quantizes what {before.name!r} has quantized already; one quantizer feeds a product")
    shape, a = x.shape, graph.attributes(producer)
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        raise Refused(f"input shape is {shape}; expected (batch, features) with a known number of features")
    if a["emax"] != fmt.element.emax or a["frac_bits"] != fmt.step_frac_bits:
        raise Refused(f"its shared scale is not that of OCP {fmt.name} (emax {a['emax']}); not lowered yet")
    if groups.normalize_axis(a["axis"], 2) != 1:
        raise Refused(f"groups run along axis {a['axis']}; expected the features, axis 1")
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


def _matmul(node: ir.Node, walk: _Walk) -> MatMul | None:
    x, w = node.inputs[0], node.inputs[1]
    if x is not walk.stream:
        raise Refused("does not follow the layer before it; branches are not lowered yet")
    before = walk.steps[-1] if walk.steps and walk.blocked is None else None
    if not isinstance(before, Quantize) and not graph.is_ours(walk.blocked, graph.QUANTIZERS):
        raise Refused("its input is not quantized; give quantize_model an MX activation format")
    transposed = False
    if w.producer() is not None and w.producer().op_type == "Transpose":
        transposed, w = True, w.producer().inputs[0]
    quantizer = weight_quantizer(w)
    if quantizer is None:
        raise Refused("its weight is not a quantized initializer; give quantize_model an MX weight format")
    bias = None
    if node.op_type == "Gemm":
        a = {name: attr.value for name, attr in node.attributes.items()}
        if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0 or a.get("transA", 0):
            raise Refused("Gemm with alpha, beta or transA is not lowered")
        transposed ^= bool(a.get("transB", 0))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = graph.constant(node.inputs[2])
            if bias is None:
                raise Refused("its bias is not an initializer")
    fmt, codes, scale_codes = read_weight(quantizer, 1 if transposed else 0)
    if before is not None and fmt.group_size != before.format.group_size:
        raise Refused(
            f"weight groups of {fmt.group_size} and activation groups of {before.format.group_size}; "
            "expected the same group size"
        )
    bias = None if bias is None else _per_output(bias, len(codes))
    return MatMul(node.name, fmt, codes, scale_codes, bias, node.outputs[0].name)


def _bias(node: ir.Node, walk: _Walk) -> None:
    stream, steps = walk.stream, walk.steps
    other = [v for v in node.inputs if v is not stream]
    bias = graph.constant(other[0]) if other else None
    if bias is not None and walk.blocked is not None and walk.blocked.op_type in _PRODUCTS:
        return
    if bias is None or not steps or not isinstance(steps[-1], MatMul) or steps[-1].bias is not None:
        raise Refused("only the bias of a matrix product can be added; residual adds are not lowered yet")
    steps[-1].bias = _per_output(bias, len(steps[-1].codes))
    steps[-1].tensor = node.outputs[0].name


def _per_output(bias: np.ndarray, rows: int) -> np.ndarray:
    if bias.size not in (1, rows) or (bias.ndim and bias.shape[-1] != bias.size):
        raise Refused(f"adds a constant of shape {bias.shape}; expected one value per output ({rows})")
    if not np.isfinite(bias).all():
        raise Refused("its bias holds NaN or Inf")
    return np.broadcast_to(bias.reshape(-1), (rows,))
