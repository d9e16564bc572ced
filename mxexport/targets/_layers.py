"""Layers with weights as MatMul, Conv and Add of constants; shared by the integer targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mxexport.errors import OptionError, UnsupportedError
from mxexport.model import graph
from mxexport.model.constant_layouts import LAYOUTS, laid_out
from mxexport.model.constants import constant_array
from mxexport.model.editing import add_constant
from mxexport.model.names import Names
from mxexport.model.opsets import raise_opset
from mxexport.model.rewriting import attribute, values_of
from mxexport.numbers import groups
from mxexport.numbers.grids import Grid
from mxexport.ops import qonnx_general
from mxexport.passes.clean.extract_conv_bias import extract
from mxexport.passes.clean.fold_constants import fold_constants
from mxexport.passes.clean.name_nodes import name_nodes
from mxexport.passes.clean.remove_constant_inputs import remove_constant_inputs
from mxexport.passes.clean.split_gemm import split
from mxexport.targets import values


@dataclass(frozen=True)
class Parts:
    """A groupwise weight, element by element: codes (int64) * steps (float64), and the group each belongs to."""

    codes: np.ndarray
    steps: np.ndarray
    group: np.ndarray

    def laid_out(self, node: ir.Node, given: np.ndarray | None) -> Parts:
        return Parts(*(laid_out(node, a, given) for a in (self.codes, self.steps, self.group)))

    @property
    def grid(self) -> Grid:
        """The codes alone."""
        return Grid.within(0, int(np.abs(self.codes).max(initial=0)))


def prepare(model: ir.Model, batch: int | None) -> None:
    """Names for all nodes, because messages and new tensors go by them, an opset that has what `Quant` is made of, and
    a batch. Raises UnsupportedError for an opset that cannot be raised."""
    raise_opset(model, qonnx_general.LOWEST_OPSET)
    name_nodes(model)
    remove_constant_inputs(model)  # a project is made of the weights that are there
    graph.drop_zero_points(model)
    fold_constants(model)  # what finds the scale of a weight, in files that are not clean
    _fix_batch(model, batch)


def _fix_batch(model: ir.Model, batch: int | None) -> None:
    """Give open first dimensions of inputs and outputs the size `batch`, and forget the shapes in between."""
    if batch is None:
        return
    if not isinstance(batch, int) or batch < 1:
        raise OptionError(f"batch is {batch!r}; expected a positive integer, or None to leave it open")
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([batch, *value.shape.dims[1:]])
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def constant_weight(node: ir.Node, tool: str) -> np.ndarray:
    """The finite constant a product multiplies by. Raises UnsupportedError where its second operand is none."""
    weight = constant_array(node.inputs[1])
    if weight is None:
        maker = node.inputs[1].producer()
        found = "an input of the model" if maker is None else f"computed at run time by {maker.op_type} {maker.name!r}"
        expected = f"expected a constant: {tool} multiplies by weights"
        raise UnsupportedError(f"its second operand is {found}, {expected}; end the model before this product")
    if weight.ndim < 2:
        raise UnsupportedError(f"its weight has shape {weight.shape}, expected two dimensions or more; reshape it")
    check_finite(weight, "weight")
    return weight


def check_finite(array: np.ndarray, what: str) -> None:
    """Raises UnsupportedError with the place of the first NaN or Inf."""
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        found = f"its {what} holds {array[where]:g} at {where}, which no integer stands for, expected finite numbers"
        raise UnsupportedError(f"{found}; repair it before the export")


def open_gemm(node: ir.Node) -> ir.Node:
    """Gemm(x, W, b) -> Add(MatMul(x, W'), b); gives the MatMul. Raises UnsupportedError for other Gemms."""
    a = {name: attribute(node, name, default) for name, default in _GEMM.items()}
    if a != _GEMM:
        found = ", ".join(f"{name}={value}" for name, value in a.items())
        way_out = "multiply alpha into the weight and beta into the bias, and transpose the input beforehand"
        raise UnsupportedError(f"it is a Gemm with {found}, expected 1, 1, 0; {way_out}")
    return split(node, Names(values_of(node.graph)))


_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0}


def weight_parts(value: ir.Value) -> Parts | None:
    """Codes and steps of a constant operand that a node of ours, or QONNX's Quant, makes from codes without zero
    points, laid out by whatever stands behind it; else None."""
    node = value.producer()
    if node is not None and node.domain == "" and node.op_type in LAYOUTS:
        parts, given = weight_parts(node.inputs[0]), constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
        return parts and parts.laid_out(node, given)
    if node is not None and (node.domain, node.op_type) == (qonnx_general.DOMAIN, "Quant"):
        return _standard_parts(node)
    found = values.constant_codes(node) if graph.is_ours(node, graph.QUANTIZERS | graph.DEQUANTIZERS) else None
    if found is None or not found.exact or not np.isfinite(found.scale).all():
        return None
    if found.zero_point is not None and found.zero_point.any():
        return None
    fraction = values.element_of(node).frac_bits if "exponent_bits" in node.attributes else 0
    length = found.value.shape[found.axis]
    steps = groups.expand(found.scale, found.axis, found.group_size, length) * 2.0 ** np.float64(-fraction)
    codes = np.rint(found.elements * 2.0**fraction).astype(np.int64)
    index = np.arange(length) // found.group_size
    index = index.reshape([-1 if i == found.axis else 1 for i in range(found.value.ndim)])
    return Parts(codes, steps, np.broadcast_to(index, found.value.shape))


def _standard_parts(node: ir.Node) -> Parts | None:
    """Of QONNX's Quant, whose scales are as many as the weight has axes, or one."""
    values, scale, zero = (constant_array(v) for v in (node.outputs[0], *node.inputs[1:3]))
    if values is None or scale is None or zero is None or zero.any() or not (np.isfinite(scale) & (scale > 0)).all():
        return None
    steps = np.broadcast_to(scale.astype(np.float64), values.shape)
    codes = np.rint(values / steps)
    if not np.array_equal((codes.astype(np.float32) * scale).astype(np.float32), values):
        return None
    return Parts(codes.astype(np.int64), steps, np.zeros(values.shape, np.int64))


def take_out_bias(node: ir.Node) -> None:
    """Conv(x, W, b) -> Add(Conv(x, W), b [O, 1, ...])."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        extract(node, constant_array(node.inputs[1]).ndim - 2, Names(values_of(node.graph)))


def store_constants(model: ir.Model, op_types: set[str]) -> None:
    """Operands of these operators that quantizers or packed codes make become initializers of the same values."""
    for node in model.graph:
        if node.domain != "" or node.op_type not in op_types:
            continue
        for i, value in enumerate(node.inputs):
            array = constant_array(value)
            if array is not None and value.const_value is None:
                node.replace_input_with(i, add_constant(model.graph, f"{node.name}_value", array))
    RemoveUnusedNodesPass()(model)
    _drop_unread(model.graph)


def _drop_unread(g: ir.Graph) -> None:
    """Initializers that no node of the graph reads, such as zero points of quantizers that were replaced; some tools
    list them among the inputs, too."""
    read = {value for node in g.all_nodes() for value in node.inputs}
    for name, value in list(g.initializers.items()):
        if value not in read and not value.is_graph_output():
            g.inputs[:] = [given for given in g.inputs if given is not value]
            del g.initializers[name]
