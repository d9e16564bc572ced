"""Who reads a tensor behind nodes that only change its axes, and where the axes are then: units ask before they choose
among orders that are all right to them."""

from __future__ import annotations

import onnx_ir as ir

from mxexport.fpga.unit import Refused
from mxexport.fpga.views import View
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
