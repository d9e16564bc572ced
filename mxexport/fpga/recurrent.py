"""LSTMs and GRUs of a file, so that they are refused by one word in place of one on every gate of every step.

An unrolled RNN is a chain of products and activations, which have units. Gates multiply streams with streams, and no
unit does that. Layers are told by the names that `export` gives: the quantizers of a hidden state are
`<layer>.hidden_l<k>_quant`, the nodes of the layer `<layer>` and `<layer>_<i>`.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from mxexport.model.uniform import is_quantizer

_HIDDEN_STATE = re.compile(r"(?:(.+)\.)?hidden_l\d+(?:_reverse)?_quant(?:_\d+)?")
GATED = (
    "an LSTM or GRU, whose gates multiply streams with streams, and no hardware unit does; use nn.RNN, which compiles "
    "unrolled, or let the network end before this layer"
)


def gated_layers(g: ir.Graph) -> dict[ir.Node, str]:
    """Node -> the layer, of the nodes that compute LSTMs and GRUs."""
    found = (_HIDDEN_STATE.fullmatch(node.name or "") for node in g if is_quantizer(node))
    layers = {match[1] or "" for match in found if match}
    inside = {node: layer for node in g for layer in layers if _is_of(node, layer)}
    gated = {layer for node, layer in inside.items() if node.op_type == "Sigmoid"}
    return {node: layer for node, layer in inside.items() if layer in gated}


def _is_of(node: ir.Node, layer: str) -> bool:
    """Nodes of a layer that is the model itself are called by their operators."""
    name = re.escape(layer or node.op_type.lower())
    return re.fullmatch(rf"{name}(_\d+)?", node.name or "") is not None
