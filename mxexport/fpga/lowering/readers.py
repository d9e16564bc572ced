"""Who reads a tensor behind nodes that only change its axes, and where the axes are then: units ask before they choose
among orders that are all right to them."""

from __future__ import annotations

import onnx_ir as ir

from mxexport.fpga.datapaths.weights import weight_quantizer
from mxexport.fpga.streams.views import BATCH, Axis, View
from mxexport.fpga.unit import Refused
from mxexport.model.editing import sole_user
from mxexport.model.graph import QUANTIZERS, is_ours
from mxexport.model.rewriting import attribute, is_op

_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


def behind(node: ir.Node, view: View) -> View:
    """The view of what one of these nodes makes of a tensor. Raises Refused."""
    if node.op_type == "Transpose":
        return view.transposed(attribute(node, "perm", range(len(view.axes))[::-1]))
    return view if node.op_type == "Identity" else view.reshaped(node.outputs[0].shape)


def reader(value: ir.Value, view: View) -> tuple[ir.Node | None, ir.Value, View]:
    """The one node that looks at what `value` holds (None where there are several), the tensor that it reads, and the
    view of that."""
    while is_op(user := sole_user(value), *_MOVES):
        try:
            view = behind(user, view)
        except Refused:  # whoever lowers it says so
            return None, value, view
        value = user.outputs[0]
    return _of_quantizer(value) or user, value, view


def _of_quantizer(value: ir.Value) -> ir.Node | None:
    """A quantizer, which reads its input twice: its scale is found from that, too."""
    users = value.consumers()
    return next((n for n in users if is_ours(n, QUANTIZERS) and all(u is n or u in _scales(n) for u in users)), None)


def _scales(quantizer: ir.Node) -> list[ir.Node]:
    return [v.producer() for v in quantizer.inputs[1:] if v is not None and v.producer() is not None]


def wanted_last(node: ir.Node, view: View) -> int | None:
    """The axis that a node wants as vectors; None of those to which all are alike."""
    if is_ours(node, QUANTIZERS) or is_op(node, "Softmax", "LayerNormalization", "RMSNormalization"):
        return attribute(node, "axis", -1) % len(view.axes)
    return None


def order_for_product(value: ir.Value, view: View) -> tuple[int, bool] | None:
    """How blocks `value` of a stream with that view come as the product of two streams wants them that reads them,
    vector by vector, head by head: so many atoms first become last, and then blocks run along vectors, or (True) along
    what comes first, as MXQuantizeTokens makes them. None where no such product reads them, or no order will do."""
    turns = range(1, len(view.atoms))
    for first, by_tokens in ((0, False), (0, True), *((i, kind) for kind in (False, True) for i in turns)):
        turned = view.rotated(first) if first else view
        if (wanted := _wanted(value, turned)) is None:
            return None
        order = [a for group in turned.groups()[::-1] for a in group] if by_tokens else list(turned.atoms)
        if order == list(wanted):
            return first, by_tokens
    return None


def _wanted(value: ir.Value, view: View) -> Axis | None:
    """The atoms of an operand of a product of two streams in the order that it takes."""
    product, read, there = reader(value, view)
    if not is_op(product, "MatMul") or len(there.axes) < 3 or there.axes[0] != (BATCH,):
        return None
    at = 0 if product.inputs[0] is read else 1
    other = product.inputs[1 - at]
    if weight_quantizer(other) is not None and (other.shape is None or len(other.shape) < 3):
        return None  # a weight
    heads = tuple(a for axis in there.axes[1:-2] for a in axis if not a.repeated)
    vectors, summed = (-2, -1) if at == 0 else (-1, -2)
    return (*there.axes[vectors], *heads, *there.axes[summed])
