"""A copy of a graph for viewers, which show a node's operator and nothing else of it: the operator says its format."""

from __future__ import annotations

import onnx

from mxexport.model import graph
from mxexport.ops import DOMAIN

_SHORT = {
    "GroupwiseQuant": "Quant",
    "MXFloatQuant": "Quant",
    "GroupwiseDequant": "Dequant",
    "MXFloatDequant": "Dequant",
}
"""Netron cuts names of more than 20 letters."""


def labelled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with operators of ours called `Quant mxint8` in place of `GroupwiseQuant`, their bodies
    likewise; for looking at, no runtime knows such operators. What `proto` holds stays as it is."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    bodies = {function.name: function for function in proto.functions if function.domain == DOMAIN}
    made: set[tuple[str, str]] = set()
    for node in shown.graph.node:
        words = _words(node) if node.domain == DOMAIN else ""
        if not words:
            continue
        label = f"{_SHORT.get(node.op_type, node.op_type)} {words}"
        if node.op_type in bodies and (node.op_type, words) not in made:
            body = shown.functions.add()
            body.CopyFrom(bodies[node.op_type])
            body.name = label
            made.add((node.op_type, words))
        node.op_type = label
    return shown


def _words(node: onnx.NodeProto) -> str:
    """The format of a quantizer or unit; dots would end the name in Netron."""
    held = {entry.key: entry.value for entry in node.metadata_props}
    return held.get(graph.FORMAT_KEY, "").replace(".", "_")
